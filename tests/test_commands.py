"""The commands as a person types them: train, sample, evaluate, and what they say of bad input."""

import json
import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from coursekit import recipes
from coursekit.__main__ import app
from coursekit.boltzmann import RBM
from coursekit.checkpoints import read_tensors, write_tensors
from coursekit.data import from_pixels, load_animals
from coursekit.diffusion import GRIDS, SAMPLERS, Rectified
from coursekit.diffusion.guidance import ClassifierFree
from coursekit.diffusion.views import OnSchedule
from coursekit.evaluation import draw_animals, evaluate_likelihood, evaluate_samples, shares
from coursekit.metrics import recognised_share
from coursekit.pixels import binarise


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "animals.safetensors"
    result = run("train", "diffusion", "--out", out, "--steps", 2, "--seed", 3)
    assert result.exit_code == 0, result.output
    return out


def test_train_leaves_a_model_and_its_facts(trained: Path) -> None:
    facts = json.loads(trained.with_suffix(".json").read_text())
    assert facts["seed"] == 3
    assert facts["steps"] == 2
    assert facts["command"].startswith("python -m coursekit")
    assert facts["versions"]["torch"] == torch.__version__
    assert trained.stat().st_size < 4_000_000
    model = recipes.load(trained, "diffusion")
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) >= 500_000


def test_training_twice_gives_the_same_file(trained: Path, tmp_path: Path) -> None:
    assert run("train", "diffusion", "--out", tmp_path / "again.safetensors", "--steps", 2, "--seed", 3).exit_code == 0
    first, second = (read_tensors(path)[0] for path in (trained, tmp_path / "again.safetensors"))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-4, atol=1e-6)  # to the bit with one thread


def test_training_can_start_from_released_weights() -> None:
    recipe, released = recipes.RECIPES["diffusion-likelihood"], recipes.load_released("diffusion")
    model = recipe.begin(recipe.build())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), released.parameters(), strict=True))
    assert model.training
    assert model.t_min == model.times.t_min > released.t_min


def test_training_goes_on_from_its_state(tmp_path: Path) -> None:
    words = ("train", "classifier", "--state", tmp_path / "state", "--state-every", 2)
    assert run(*words, "--out", tmp_path / "a.safetensors", "--steps", 2).exit_code == 0
    result = run(*words, "--out", tmp_path / "a.safetensors", "--steps", 4, "--resume")
    assert result.exit_code == 0, result.output
    assert read_tensors(tmp_path / "state")[1]["step"] == 4


def test_sample_writes_arrays_in_equal_shares(trained: Path, tmp_path: Path) -> None:
    for _ in range(2):
        words = ("sample", trained, "--number", 23, "--seed", 1, "--steps", 2, "--out", tmp_path / "new" / "a.npz")
        result = run(*words)
        assert result.exit_code == 0, result.output
        with np.load(tmp_path / "new" / "a.npz", allow_pickle=False) as file:
            images, labels = file["images"], file["labels"]
        assert images.shape == (23, 1, 28, 28)
        assert images.dtype == np.float32
        assert -1 <= images.min() <= images.max() <= 1
        counts = np.bincount(labels, minlength=10)
        assert counts.tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
        assert torch.equal(torch.from_numpy(labels), shares(23))
    first = images
    run(*words)
    with np.load(tmp_path / "new" / "a.npz", allow_pickle=False) as file:
        np.testing.assert_allclose(file["images"], first, atol=1e-5)


def test_sample_takes_every_sampler_and_grid(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.npz"
    words = ("sample", trained, "--number", 2, "--steps", 2, "--out", out)
    for more in (*(("--sampler", name) for name in SAMPLERS), *(("--grid", kind) for kind in GRIDS)):
        result = run(*words, *more)
        assert result.exit_code == 0, result.output
        with np.load(out, allow_pickle=False) as file:
            assert np.isfinite(file["images"]).all()
    assert "grid must be one of uniform" in run(*words, "--grid", "cubic").output


def test_sample_draws_a_picture(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    assert run("sample", trained, "--number", 12, "--steps", 1, "--out", out).exit_code == 0
    picture = matplotlib.image.imread(out)
    assert picture.shape[0] > 300
    assert picture.std() > 0.1


def test_evaluate_prints_and_writes_the_numbers(trained: Path) -> None:
    result = run("evaluate", trained, "--number", 100, "--write")
    assert result.exit_code == 0, result.output
    numbers = json.loads(trained.with_suffix(".json").read_text())["metrics"]
    for name in ("recognised", "Frechet distance to the test split", "MMD^2 to the test split", "command"):
        assert name in numbers
    bound = numbers["test -log p(x | y), bits/dim, at most"]  # of a model that has learned nothing
    assert 2 < float(bound.split()[0]) < 20
    assert "Frechet distance of train to test split" in result.output


def test_evaluate_tells_what_an_auto_encoder_leaves_of_pictures(tmp_path: Path) -> None:
    """An untrained one, near the grey picture: the error of grey, and hardly an animal recognised."""
    out = tmp_path / "a.safetensors"
    model = recipes.RECIPES["auto-encoder"].build()
    torch.nn.init.zeros_(model.decoder.body[-1].weight)
    torch.nn.init.zeros_(model.decoder.body[-1].bias)
    recipes.save(out, "auto-encoder", model)
    result = run("evaluate", out)
    assert result.exit_code == 0, result.output
    error, share = (line.split(": ")[1] for line in result.output.splitlines())
    grey = load_animals("test").images.square().mean().item()
    assert float(error.split()[0]) == pytest.approx(grey, rel=1e-3)
    assert float(share.split()[0]) < 0.2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "crystal ball", "--out", "a", "--steps", "1"), "MODEL must be one of diffusion, diffusion-small"),
        (("train", "classifier", "--out", "a", "--steps", "0"), "steps must be positive"),
        (("train", "classifier", "--out", "a", "--steps", "1", "--resume"), "want a checkpoint"),
        (("sample", "nothing.safetensors", "--out", "a.png"), "there is no checkpoint nothing.safetensors"),
        (("sample", "nothing.safetensors", "--out", "a.jpg"), "--out must end in .png or .npz"),
        (("evaluate", "nothing.safetensors"), "there is no checkpoint"),
        (("lessons", "77"), "no lesson starts with '77'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_wrong_kinds_of_files_are_refused(trained: Path, tmp_path: Path) -> None:
    recipes.save(tmp_path / "c.safetensors", "classifier", recipes.RECIPES["classifier"].build())
    result = run("sample", tmp_path / "c.safetensors", "--out", tmp_path / "a.png")
    assert result.exit_code == 2
    assert "model must draw pictures, got a ConvClassifier" in result.output
    write_tensors(tmp_path / "d.safetensors", {"w": torch.ones(1)}, {"recipe": "diffusion"})
    assert "weights of another version" in run("evaluate", tmp_path / "d.safetensors").output
    write_tensors(tmp_path / "e.safetensors", {"w": torch.ones(1)}, {})
    assert "got None" in run("evaluate", tmp_path / "e.safetensors").output
    data = trained.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    assert "damaged" in run("sample", tmp_path / "cut.safetensors", "--out", tmp_path / "a.png").output
    with pytest.raises(ValueError, match="name must be one of"):
        recipes.save(tmp_path / "f", "crystal ball", recipes.RECIPES["classifier"].build())


def test_settings_of_diffusion_are_refused_for_other_models(trained: Path) -> None:
    class Blank(torch.nn.Module):
        def sample(self, n, y, generator):
            return torch.full((n, 1, 28, 28), 2.0)

    y, generator = shares(7), torch.Generator()
    assert torch.equal(draw_animals(Blank(), y, generator, batch_size=3), torch.ones(7, 1, 28, 28))
    with pytest.raises(ValueError, match="guidance can be set for diffusion only, not for Blank"):
        draw_animals(Blank(), y, generator, guidance=2.0)
    with pytest.raises(ValueError, match="model must draw pictures, got a ConvClassifier"):
        draw_animals(recipes.load_released("classifier"), y, generator)


def test_settings_reach_the_models_that_have_them() -> None:
    """Calls of a consistency model, guidance of latent diffusion; a student of fixed steps has no settings."""
    y, generator = shares(4), torch.Generator().manual_seed(0)
    build = {name: recipes.RECIPES[name].build for name in ("consistency", "latent-diffusion", "progressive-2")}
    for name, settings in (("consistency", {"steps": 2}), ("latent-diffusion", {"steps": 2, "guidance": 2.0})):
        images = draw_animals(build[name]().eval(), y, generator, **settings)
        assert images.shape == (4, 1, 28, 28)
        assert bool(torch.isfinite(images).all())
    with pytest.raises(ValueError, match="guidance can be set for diffusion only, not for ConsistencyModel"):
        draw_animals(build["consistency"](), y, generator, guidance=2.0)
    with pytest.raises(ValueError, match="steps can be set for diffusion only, not for FewSteps"):
        draw_animals(build["progressive-2"](), y, generator, steps=4)


def test_guided_and_moved_denoisers_draw_as_the_plain_one_does_with_that_guidance() -> None:
    y, plain = shares(4), recipes.RECIPES["diffusion"].build().eval()
    with torch.no_grad():
        for weight in plain.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)), alpha=0.02)
    around = {"guided": (ClassifierFree(plain, 1.5), 1.5), "moved": (OnSchedule(plain, Rectified()), 1.0)}
    for name, (model, guidance) in around.items():
        first = draw_animals(model, y, torch.Generator().manual_seed(0), steps=2)
        second = draw_animals(plain, y, torch.Generator().manual_seed(0), steps=2, guidance=guidance)
        torch.testing.assert_close(first, second, msg=name)
        assert not torch.equal(first, draw_animals(plain, y, torch.Generator().manual_seed(0), steps=2, guidance=2.0))


@pytest.mark.parametrize("name", ["latent-diffusion", "progressive-4", "progressive-2", "progressive-1", "consistency"])
def test_what_is_trained_can_be_saved_without_its_teacher_and_drawn_from(name: str, tmp_path: Path) -> None:
    """What `begin` returns trains the model that `build` made, and the file of that model stands alone."""
    recipe = recipes.RECIPES[name]
    model = recipe.build()
    trained = recipe.begin(model)
    learning = {id(p) for p in trained.parameters() if p.requires_grad}
    assert learning
    assert learning <= {id(p) for p in model.parameters()}
    recipes.save(tmp_path / "a.safetensors", name, model)
    assert (tmp_path / "a.safetensors").stat().st_size < 3_000_000
    again = recipes.load(tmp_path / "a.safetensors", name)
    y = shares(10)
    first, second = (draw_animals(m.eval(), y, torch.Generator().manual_seed(0)) for m in (model, again))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


FAST = {
    "progressive-4": {},
    "progressive-2": {},
    "progressive-1": {},
    "consistency": {},
    "latent-diffusion": {"guidance": 1.5},
}


@pytest.mark.parametrize("name", list(FAST))
def test_the_released_models_draw_what_was_asked_for(name: str) -> None:
    """Of the diffusion model's own single step the judge recognises a quarter; of each of these, far more."""
    y, generator = shares(100), torch.Generator().manual_seed(0)
    images = draw_animals(recipes.load_released(name), y, generator, **FAST[name])
    assert recognised_share(recipes.load_released("classifier"), images, y).value > 0.85


def test_likelihoods_are_in_the_unit_of_the_pictures_and_bounds_are_called_bounds() -> None:
    class Coin(torch.nn.Module):
        def log_prob(self, x, y):
            return torch.full((len(x),), -784 * math.log(2)) - y

    class Bound(torch.nn.Module):
        def log_prob_bound(self, x, y):
            assert x.is_floating_point()
            assert x.abs().max() <= 1
            return torch.full((len(x),), -784 * math.log(2)) - y

    images, y, generator = torch.ones(4, 1, 28, 28), torch.zeros(4), torch.Generator()
    ((name, value),) = evaluate_likelihood(Coin(), images, y, generator).items()
    assert name == "test -log p(x | y), nats, exact"
    assert value.startswith("543.4")
    ((name, value),) = evaluate_likelihood(Bound(), images.mul(200).byte(), y, generator).items()
    assert name == "test -log p(x | y), bits/dim, at most"
    assert value.startswith("1 ")
    assert evaluate_likelihood(torch.nn.Identity(), images, y, generator) == {}


def test_the_likelihood_of_a_machine_is_estimated() -> None:
    """With the errors of log Z and of the mean both in the interval; close to what enumeration says."""
    generator = torch.Generator().manual_seed(0)
    machine = RBM(12, hidden=4)
    machine.weight.data.normal_(0, 0.4, generator=generator)
    images = machine.sample(500, generator=generator, steps=100)
    ((name, value),) = evaluate_likelihood(machine, images, torch.zeros(500), generator).items()
    assert name == "test -log p(x), nats, estimated by annealing"
    exact = -machine.log_prob(images).mean().item()
    low, high = (float(end) for end in value.split("[")[1].rstrip("]").split(","))
    assert low < exact < high
    assert high - low < 0.5


def test_a_model_without_labels_is_not_asked_for_them() -> None:
    judge = recipes.load_released("classifier")
    images, _ = recipes.RECIPES["rbm"].pictures("train")
    numbers = evaluate_samples(judge, images[:200], None, torch.Generator().manual_seed(0), binarise)
    assert not any("recognised" in name for name in numbers)
    assert numbers["samples"] == "200"


def test_a_recipe_hands_out_the_pictures_that_its_model_takes() -> None:
    grey = load_animals("test")
    black_white, labels = recipes.RECIPES["pixelcnn"].pictures("test")
    assert torch.equal(black_white, binarise(grey.images))
    assert torch.equal(labels, grey.labels)
    raw, _ = recipes.RECIPES["flow"].pictures("test")
    assert torch.equal(from_pixels(raw), grey.images)


def test_samples_are_compared_with_pictures_prepared_in_the_same_way() -> None:
    """Copies of prepared training pictures are caught, and the judge sees prepared test pictures."""
    judge = recipes.load_released("classifier")
    images, y = recipes.RECIPES["pixelcnn"].pictures("train")
    first = torch.arange(0, len(y), len(y) // 200)
    numbers = evaluate_samples(judge, images[first], y[first], torch.Generator().manual_seed(0), binarise)
    assert numbers["distance to the nearest training picture, smallest and median"] == "0.00, 0.00"
    black_white = recognised_share(judge, *recipes.RECIPES["pixelcnn"].pictures("test"))
    assert numbers["recognised of the real test split"] == str(black_white)
