"""A step of every model on an accelerator: nothing mixed with the CPU, nothing fetched from the device."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily
from torch.utils.data import TensorDataset

from coursekit.boltzmann import RBM, BoltzmannMachine, ContrastiveDivergence, GaussianRBM
from coursekit.classifiers import ConvClassifier, LogisticRegression, NoiseAwareClassifier
from coursekit.diffusion import (
    SCHEDULES,
    Cosine,
    Denoiser,
    ImportanceSampled,
    LinearVP,
    LogitNormal,
    Rectified,
    batches,
    engine,
    grids,
    time_grid,
)
from coursekit.diffusion.batches import mirror
from coursekit.diffusion.distillation import (
    ConsistencyDistillation,
    ConsistencyModel,
    FewSteps,
    ProgressiveDistillation,
)
from coursekit.diffusion.foreign import from_ddpm, from_edm, from_edm_network, from_eps, from_velocity
from coursekit.diffusion.guidance import (
    AutoGuidance,
    ClassifierFree,
    ClassifierGuidance,
    DynamicThreshold,
    ExactClassifier,
    ExactConditional,
    IntervalLimited,
    LabelledMixture,
    Rescaled,
    Unlabelled,
)
from coursekit.diffusion.inverse import DPS, AveragePool, Blur, Mask, MomentMatching, PiGDM, Projected, Replacement
from coursekit.diffusion.latent import LatentDiffusion
from coursekit.diffusion.likelihood import (
    CapacityTimes,
    DiscretisedGaussian,
    LearnedVariance,
    Levels,
    OptimalVariance,
    VarianceHead,
    capacity,
    chain_bound,
    chain_through,
    continuous_bound,
    variational,
)
from coursekit.diffusion.losses import WEIGHTINGS
from coursekit.diffusion.optimizers import muon_and_adamw
from coursekit.diffusion.samplers import SAMPLERS, draw, sample
from coursekit.diffusion.views import EDMView, FlowView, OnSchedule
from coursekit.energy import (
    Contrastive,
    EnergyModel,
    NoiseContrastive,
    ScoreModel,
    denoising_score_matching,
    implicit_score_matching,
    sliced_score_matching,
)
from coursekit.gan import (
    GAN,
    R1,
    RULES,
    Critic,
    GradientPenalty,
    InstanceNoise,
    Minimax,
    NoiseLevels,
    NonSaturating,
    ring_game,
)
from coursekit.gmm import GaussianMixture
from coursekit.networks import MLP, ConvEncoder, TimeMLP, UNet
from coursekit.recipes import RECIPES
from coursekit.vae import conv_auto_encoder, hierarchical_image_vae, image_vae, image_vqvae, linear_vae, point_vae

sys.path.insert(0, str(Path(__file__).parent))
import fake_accelerator

DEVICE = fake_accelerator.register()  # while collecting: autograd counts devices at its first backward pass
Data = tuple[Tensor, ...]


def pictures() -> Data:
    return torch.zeros(64, 1, 28, 28, dtype=torch.uint8), torch.arange(64) % 10


def labelled_points() -> Data:
    return torch.zeros(64, 2), torch.arange(64) % 2


def black_and_white() -> Data:
    return torch.ones(64, 1, 28, 28), torch.arange(64) % 10


def points() -> Data:
    return (torch.zeros(64, 2),)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The fake accelerator. It has no generator of its own, and data without values cannot be looked at beforehand."""
    monkeypatch.setattr(engine, "_generator", lambda device, seed: None)
    monkeypatch.setattr(batches, "_check", lambda data, batch_size, world: None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield torch.device(DEVICE)


def placed(module: nn.Module, device: torch.device) -> nn.Module:
    """`Module.to` cannot swap fake tensors: put new ones in their places."""
    for part in module.modules():
        for name, tensor in part._parameters.items():
            part._parameters[name] = None if tensor is None else nn.Parameter(tensor.detach().to(device))
        for name, tensor in part._buffers.items():
            part._buffers[name] = (
                None if tensor is None else torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)
            )
    return module


def advance(
    build: Callable[[], nn.Module], data: Callable[[], Data], device: torch.device, **keywords: object
) -> engine.Engine:
    with unset_fake_temporarily():  # a constructor may look at its numbers, a step may not
        model = build()
    model = placed(model, device)
    run = engine.Engine(model, data(), batch_size=16, lr=1e-3, ema_half_life=10.0, device=device, **keywords)
    for _ in range(3):
        run.advance(1.0)
    for seat in run.seats:
        assert seat.freezes
        assert seat.total.device.type == fake_accelerator.NAME
        for optimizer in seat.optimizers:
            states = [value for slots in optimizer.state.values() for value in slots.values()]
            assert states
            assert all(value.device.type == fake_accelerator.NAME for value in states)
    assert all(tensor.device.type == fake_accelerator.NAME for tensor in run.average.state.values())
    assert all(tensor.device.type == fake_accelerator.NAME for tensor in model.state_dict().values())
    return run


def labelled_denoiser(D: int = 2, num_classes: int = 2) -> Denoiser:
    return Denoiser(TimeMLP(D, num_classes=num_classes), Rectified(), "velocity", num_classes=num_classes)


def matched(objective: Callable[..., Tensor]) -> EnergyModel:
    return EnergyModel(MLP([2, 8, 8, 1]), 2, objective)


MODELS = {
    "logistic": (lambda: LogisticRegression(10, (1, 28, 28)), pictures),
    "conv": (ConvClassifier, pictures),
    "noise-aware": (lambda: NoiseAwareClassifier(Cosine()), pictures),
    "animals": (RECIPES["diffusion"].build, pictures),
    "toy": (lambda: Denoiser(TimeMLP(2, num_classes=2), LinearVP(), "eps", num_classes=2), labelled_points),
    "importance": (
        lambda: Denoiser(TimeMLP(2, num_classes=2), Cosine(), num_classes=2, times=ImportanceSampled()),
        labelled_points,
    ),
    "capacity": (
        lambda: Denoiser(TimeMLP(2), Cosine(), weighting="edm", times=CapacityTimes(Cosine(), 0.01), t_min=0.01),
        points,
    ),
    "learned variance": (
        lambda: LearnedVariance(
            RECIPES["diffusion"].build().requires_grad_(False), VarianceHead(), time_grid(Rectified(), 20)
        ),
        pictures,
    ),
    "hybrid": (
        lambda: LearnedVariance(Denoiser(TimeMLP(2), LinearVP()), TimeMLP(4, outputs=2), time_grid(LinearVP(), 20)),
        points,
    ),
    "critic": (
        lambda: Critic(MLP([2, 8, 1]), Minimax(), lambda n, _: torch.zeros(n, 2), corrupt=InstanceNoise(Cosine(), 0.5)),
        points,
    ),
    "game along the noise axis": (
        lambda: GAN(
            MLP([2, 8, 2]),
            TimeMLP(2, 8, outputs=1),
            NonSaturating(),
            latent=2,
            regularisers=[R1(share=0.5), GradientPenalty()],
            corrupt=NoiseLevels(Rectified()),
            repeats=2,
        ),
        points,
    ),
    **{f"game, {name}": (partial(ring_game, rules, seeds=2, width=8), points) for name, rules in RULES.items()},
    "vae": (lambda: image_vae(num_classes=10, free_nats=0.1, warmup=5), black_and_white),
    "two levels": (lambda: hierarchical_image_vae(num_classes=10), black_and_white),
    "vqvae": (image_vqvae, black_and_white),
    "points": (lambda: point_vae(2, num_classes=2), labelled_points),
    "linear vae": (lambda: linear_vae(2, 1), points),
    "visible machine": (lambda: BoltzmannMachine(2), points),
    "rbm": (lambda: RBM((1, 28, 28), hidden=8), pictures),
    "rbm, cd": (lambda: RBM((1, 28, 28), hidden=8, negative=ContrastiveDivergence(2)), pictures),
    "gaussian rbm": (lambda: GaussianRBM(2, hidden=8), points),
    "energy": (
        lambda: EnergyModel(
            ConvEncoder(1, width=8), (1, 28, 28), Contrastive((1, 28, 28), steps=2, penalty=0.1, noise=0.1, clip=1.0)
        ),
        pictures,
    ),
    "energy, noise-contrastive": (
        lambda: EnergyModel(
            MLP([2, 8, 1]), 2, NoiseContrastive(GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None]))
        ),
        points,
    ),
    "energy, implicit": (lambda: matched(lambda model, x, g: implicit_score_matching(model.score, x)), points),
    "energy, sliced": (lambda: matched(lambda model, x, g: sliced_score_matching(model.score, x, 2, g)), points),
    "energy, denoising": (
        lambda: matched(lambda model, x, g: denoising_score_matching(model.score, x, 0.1, g)),
        points,
    ),
    "score": (lambda: ScoreModel(TimeMLP(2), Cosine(), 2), points),
    "coupled": (lambda: Denoiser(TimeMLP(2), Cosine(), coupling=lambda x_0, noise, y: noise.flip(0)), points),
    "latent": (lambda: LatentDiffusion(conv_auto_encoder(4, width=8), labelled_denoiser(4, 10)), pictures),
    "progressive": (
        lambda: ProgressiveDistillation(
            ClassifierFree(labelled_denoiser(), 1.5),
            FewSteps(labelled_denoiser(), time_grid(Rectified(), 8)[::2], (2,)),
            time_grid(Rectified(), 8),
        ),
        labelled_points,
    ),
    "consistency": (
        lambda: ConsistencyDistillation(
            ClassifierFree(labelled_denoiser(), 1.5), ConsistencyModel(labelled_denoiser(), (2,))
        ),
        labelled_points,
    ),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_a_step_stays_on_the_device(name: str, device: torch.device) -> None:
    build, data = MODELS[name]
    advance(build, data, device, accumulate=2)


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_a_step_of_every_recipe_stays_on_the_device(recipe: str, device: torch.device) -> None:
    keywords = {k: v for k, v in RECIPES[recipe].fit.items() if k in ("optimizer", "augment", "clip", "weight_decay")}
    advance(lambda: RECIPES[recipe].begin(RECIPES[recipe].build()), pictures, device, **keywords)


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("weighting", list(WEIGHTINGS))
def test_every_schedule_and_weighting_stays_on_the_device(schedule: str, weighting: str, device: torch.device) -> None:
    def build() -> Denoiser:
        return Denoiser(TimeMLP(2), SCHEDULES[schedule](), "v", weighting, times=LogitNormal())

    advance(build, points, device)


def test_muon_and_mirroring_stay_on_the_device(device: torch.device) -> None:
    build = RECIPES["diffusion"].build
    run = advance(build, pictures, device, optimizer=muon_and_adamw, augment=mirror, clip=None)
    assert len(run.seats[0].optimizers) == 2


def on_the_host(function: Callable[..., object]) -> Callable[..., object]:
    """Paths and their levels are computed on the host, from numbers."""

    def call(*arguments: object, **keywords: object) -> object:
        with unset_fake_temporarily():
            return function(*arguments, **keywords)

    return call


ASKED = {
    "another schedule": lambda denoiser: OnSchedule(denoiser, LinearVP()),
    "few steps": lambda denoiser: FewSteps(denoiser, torch.tensor([1.0, 0.5]), (2,)),
    "consistency": lambda denoiser: ConsistencyModel(denoiser, (2,)),
    "somebody's eps": lambda denoiser: from_eps(denoiser.eps, LinearVP()),
    "somebody's chain": lambda denoiser: from_ddpm(lambda x, k: x, LinearVP().discretised(50), Cosine()),
    "somebody's velocity": lambda denoiser: from_velocity(FlowView(denoiser).velocity),
    "somebody's D": lambda denoiser: from_edm(EDMView(denoiser).denoise),
    "somebody's F": lambda denoiser: from_edm_network(EDMView(denoiser).raw),
}


@pytest.mark.parametrize("name", list(ASKED))
def test_a_question_stays_on_the_device(name: str, device: torch.device) -> None:
    with unset_fake_temporarily():
        denoiser = Denoiser(TimeMLP(2), Rectified(), "velocity")
        asked = ASKED[name](denoiser)
    placed(denoiser, device)
    x, t = torch.zeros(4, 2).to(device), torch.zeros(4).to(device)
    assert placed(asked, device)(x, t).device.type == fake_accelerator.NAME


@pytest.fixture
def drawing(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Tensor]:
    """Draws four animals on the device."""
    denoiser = placed(RECIPES["diffusion"].build(), device)
    y, noise = torch.zeros(4, dtype=torch.long).to(device), torch.zeros(4, 1, 28, 28).to(device)
    path = on_the_host(lambda: grids.Path.along(Rectified(), grids.time_grid(Rectified(), 5)))()
    monkeypatch.setattr(draw, "time_grid", lambda *_: None)
    monkeypatch.setattr(grids.Path, "along", lambda *_: path)
    monkeypatch.setattr(grids.Path, "at_angle", on_the_host(grids.Path.at_angle))
    return lambda sampler: sample(denoiser, (4, 1, 28, 28), sampler, 5, y, guidance=1.5, x_T=noise)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "adaptive"])  # which asks who has arrived
def test_sampling_stays_on_the_device(sampler: str, drawing: Callable[[str], Tensor]) -> None:
    assert drawing(sampler).device.type == fake_accelerator.NAME


def half() -> Mask:
    return Mask(torch.arange(784).view(1, 28, 28) % 28 < 14)


SEEN = torch.zeros(1, 392)
WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "unlabelled": Unlabelled,
    "classifier": lambda d: ClassifierGuidance(d, NoiseAwareClassifier(Cosine()), 2.0),
    "classifier-free": lambda d: ClassifierFree(d, 2.0),
    "auto": lambda d: AutoGuidance(d, RECIPES["diffusion-small"].build(), 2.0),
    "interval": lambda d: IntervalLimited(ClassifierFree(d, 2.0), 0.2, 3.0),
    "rescaled": lambda d: Rescaled(ClassifierFree(d, 2.0)),
    "threshold": lambda d: DynamicThreshold(ClassifierFree(d, 2.0)),
    "projected": lambda d: Projected(d, half(), SEEN),
    "dps": lambda d: DPS(ClassifierFree(d, 2.0), half(), SEEN),
    "pigdm": lambda d: PiGDM(d, half(), SEEN, 0.1),
    "moments": lambda d: MomentMatching(d, half(), SEEN, 0.1),
    "moments, pooled": lambda d: MomentMatching(d, AveragePool(4), torch.zeros(1, 1, 7, 7)),
    "projected, blurred": lambda d: Projected(d, Blur(torch.ones(3, 3) / 9, (28, 28)), torch.zeros(1, 1, 28, 28)),
}


@pytest.mark.parametrize("name", list(WRAPPERS))
def test_an_estimate_of_every_wrapper_stays_on_the_device(name: str, device: torch.device) -> None:
    with unset_fake_temporarily():
        model = WRAPPERS[name](RECIPES["diffusion"].build())
    model = placed(model, device)
    x, y = torch.zeros(4, 1, 28, 28).to(device), torch.zeros(4, dtype=torch.long).to(device)
    estimate = model(x, torch.zeros(4).to(device), y)
    assert estimate.device.type == fake_accelerator.NAME
    assert estimate.shape == x.shape


def test_exact_guidance_stays_on_the_device(device: torch.device) -> None:
    with unset_fake_temporarily():
        mixture = GaussianMixture(torch.ones(3), torch.zeros(3, 2), torch.eye(2).expand(3, 2, 2).contiguous())
        labelled = LabelledMixture(mixture, torch.tensor([0, 1, 0]))
        exact = ExactConditional(labelled, Rectified())
        model = ClassifierGuidance(ClassifierFree(exact, 2.0), ExactClassifier(labelled, Cosine()), 1.0)
    model = placed(model, device)
    x, y = torch.zeros(4, 2).to(device), torch.zeros(4, dtype=torch.long).to(device)
    assert model(x, torch.zeros(4).to(device), y).device.type == fake_accelerator.NAME


def test_replacement_stays_on_the_device(device: torch.device) -> None:
    with unset_fake_temporarily():
        path, A = grids.Path.along(Rectified(), grids.time_grid(Rectified(), 4)), half()
    sampler = Replacement(placed(A, device), torch.zeros(1, 392).to(device), repeats=2, jump=2)
    states = list(sampler(lambda x, t: x, torch.zeros(4, 1, 28, 28).to(device), path))
    assert len(states) == 4
    assert states[-1].device.type == fake_accelerator.NAME


def test_bounds_stay_on_the_device(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = placed(RECIPES["diffusion"].build(), device)
    y, x = torch.zeros(4, dtype=torch.long).to(device), torch.zeros(4, 1, 28, 28).to(device)
    with unset_fake_temporarily():  # tables and ends are computed on the host, from numbers
        (chain, t), most = chain_through(Rectified(), time_grid(Rectified(), 5)), float(capacity(Rectified(), 0.02))
        variance, decoder = OptimalVariance(torch.linspace(0, 4, 5), torch.ones(5)), Levels()
    monkeypatch.setattr(variational, "chain_through", lambda *_: (placed(chain, device), t.float().to(device)))
    monkeypatch.setattr(variational, "capacity", lambda schedule, t: most * (1 - t))
    monkeypatch.setattr(variational, "ends", lambda *_: (0.02, 1.0))
    settings = {"variance": placed(variance, device), "terms": 2, "draws": 2}
    for bound in (
        chain_bound(denoiser, x, y, times=t, decoder=DiscretisedGaussian(), **settings),
        continuous_bound(denoiser, x, y, decoder=placed(decoder, device), times=2),
    ):
        assert bound.nats.device.type == fake_accelerator.NAME


class Fetching(Denoiser):
    def loss(self, x_0: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        loss = super().loss(x_0, y, generator)
        return loss * (1.0 if loss.item() > 0 else 2.0)


class Mixing(Denoiser):
    def loss(self, x_0: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        return super().loss(x_0 + torch.ones(x_0.shape, device="cpu"), y, generator)


def test_the_fake_device_sees_a_fetch_and_a_mixture(device: torch.device) -> None:
    """The guard itself can fail."""
    with pytest.raises(DataDependentOutputException):
        advance(lambda: Fetching(TimeMLP(2), Cosine()), points, device)
    with pytest.raises(RuntimeError, match="same device"):
        advance(lambda: Mixing(TimeMLP(2), Cosine()), points, device)


# --- a real GPU, where there is one ------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@pytest.fixture
def no_synchronisation() -> Iterator[Callable[[], None]]:
    """Call it to make every wait for the device an error until the test ends."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_no_step_waits_for_the_gpu(recipe: str, no_synchronisation: Callable[[], None]) -> None:
    keywords = {k: v for k, v in RECIPES[recipe].fit.items() if k in ("optimizer", "augment", "clip", "weight_decay")}
    model = RECIPES[recipe].begin(RECIPES[recipe].build()).cuda()
    run = engine.Engine(model, pictures(), batch_size=16, lr=1e-3, ema_half_life=10.0, device="cuda", **keywords)
    run.advance(1.0)  # the first step allocates
    no_synchronisation()
    for _ in range(5):
        run.advance(1.0)


@pytest.mark.gpu
@needs_cuda
def test_no_step_waits_for_the_gpu_when_data_is_streamed(no_synchronisation: Callable[[], None]) -> None:
    data = TensorDataset(*pictures())
    run = engine.Engine(RECIPES["classifier"].build().cuda(), data, batch_size=16, lr=1e-3, device="cuda", workers=1)
    run.advance(1.0)
    no_synchronisation()
    for _ in range(5):
        run.advance(1.0)


@pytest.mark.gpu
@needs_cuda
def test_a_nan_on_the_gpu_freezes_the_weights_until_the_host_looks() -> None:
    class Breaking(Denoiser):
        calls = 0

        def loss(self, x_0: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
            self.calls += 1
            return super().loss(x_0, y, generator) * (float("nan") if self.calls > 4 else 1.0)

    model = Breaking(UNet(), Rectified(), num_classes=10).cuda()
    run = engine.Engine(model, pictures(), batch_size=16, lr=1e-3, device="cuda", optimizer=muon_and_adamw)
    for _ in range(4):
        run.advance(1.0)
    good = [parameter.clone() for parameter in model.parameters()]
    for _ in range(3):
        run.advance(1.0)
    assert all(torch.equal(a, b) for a, b in zip(good, model.parameters(), strict=True))
    with pytest.raises(FloatingPointError, match="not finite at step 4"):
        run.check()


@pytest.mark.gpu
@needs_cuda
def test_gpu_and_cpu_agree_on_schedules() -> None:
    t = torch.linspace(0.01, 0.99, 50)
    for schedule in (kind() for kind in SCHEDULES.values()):
        torch.testing.assert_close(schedule.log_snr(t.cuda()).cpu(), schedule.log_snr(t), rtol=1e-5, atol=1e-5)
