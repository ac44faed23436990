"""The files that say what to install agree with each other, and the package starts."""

import importlib.metadata
import random
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import coursekit

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(text) for group in (PROJECT["dependencies"], *EXTRAS.values()) for text in group]
NAMED = {"jupyterlab", "torch", "numpy", "matplotlib", "seaborn", "scikit-learn", "nbval"}


def read_pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(len(pin.specifier) == 1 and next(iter(pin.specifier)).operator == "==" for pin in pins)
    return {canonicalize_name(pin.name): Version(next(iter(pin.specifier)).version) for pin in pins}


PINS = read_pins()


def conda_requirements() -> tuple[list[str], list[str]]:
    """The conda packages of environment.yml, and the lines of its pip section."""
    parts = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = (part["pip"] for part in parts if isinstance(part, dict))
    return [part for part in parts if isinstance(part, str)], pip


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_is_bounded_below_and_admits_its_pin(requirement):
    assert any(clause.operator in (">=", "~=") for clause in requirement.specifier)
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_torch_is_pinned_without_a_build_and_cuda_builds_satisfy_the_range():
    (torch_range,) = (r.specifier for r in REQUIREMENTS if r.name == "torch")
    assert str(PINS["torch"]) == "2.13.0"
    assert all(torch_range.contains(f"2.13.0{build}") for build in ("", "+cpu", "+cu130"))
    assert not any(pin.local for pin in PINS.values())


def test_conda_brings_python_and_pip_brings_the_named_packages():
    conda, pip = conda_requirements()
    assert [name.split("=")[0] for name in conda] == ["python", "pip"]
    python = conda[0].split("=")[1]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(f"{python}.0")
    plain = [Requirement(line) for line in pip if not line.startswith("-")]
    assert {requirement.name for requirement in plain} == NAMED
    assert all(r.specifier.contains(PINS[canonicalize_name(r.name)]) for r in plain)


def test_conda_installs_this_project_with_its_constraints():
    _, pip = conda_requirements()
    options = dict(line.split(" ", 1) for line in pip if line.startswith("-"))
    assert (ROOT / options["-c"]).is_file()
    project = Requirement(options["-e"].replace(".", "coursekit", 1))
    assert project.extras <= EXTRAS.keys() >= {"lab", "test"}


def test_running_versions_are_the_pinned_ones_where_make_installed_them():
    if not (Path(sys.prefix) / ".installed").is_file():
        pytest.skip("this environment was not made by `make`, so its versions are its own")
    wrong = {}
    for requirement in REQUIREMENTS:
        name = canonicalize_name(requirement.name)
        if requirement.name in {Requirement(text).name for text in EXTRAS["bench"]}:
            continue
        found = Version(importlib.metadata.version(name)).public
        if found != PINS[name].public:
            wrong[name] = found
    assert not wrong


@pytest.mark.slow
def test_pip_section_resolves():
    _, pip = conda_requirements()
    requirements = ROOT / "build" / "conda-pip.txt"
    requirements.parent.mkdir(exist_ok=True)
    requirements.write_text("\n".join(pip).replace("-c ", "-c ../"))
    pip_install = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "-r", str(requirements)]
    result = subprocess.run(pip_install, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_wheel_carries_data_licences_and_maths(tmp_path):
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(pip_wheel, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    data = [path.relative_to(ROOT / "data") for path in (ROOT / "data").rglob("*") if path.is_file()]
    assert data
    assert {f"coursekit/data_files/{path.as_posix()}" for path in data} <= set(names)
    assert {"coursekit/static/mathjax/tex-svg-full.js", "coursekit/static/lesson/index.html.j2"} <= set(names)
    assert sum("licenses/" in name for name in names) >= 3
    assert not any(name.startswith(("tests", "notebooks", "build")) for name in names)


def test_the_version_is_that_of_the_installed_package():
    try:
        installed = importlib.metadata.version("coursekit")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("coursekit is on the path, not installed")
    assert installed == coursekit.__version__


def test_seeding_reaches_python_numpy_and_torch():
    def draw():
        generator = coursekit.seed_everything(3)
        return random.random(), np.random.rand(), torch.rand(1).item(), torch.rand(1, generator=generator).item()  # noqa: NPY002

    assert draw() == draw()


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (2**32, ValueError), (1.0, TypeError), ("1", TypeError)])
def test_a_bad_seed_is_refused_by_name(seed, error):
    with pytest.raises(error, match=r"seed must .* got"):
        coursekit.seed_everything(seed)


def test_threads_are_set_and_bad_ones_refused():
    before = torch.get_num_threads()
    coursekit.seed_everything(0, threads=1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        coursekit.seed_everything(0, threads=0)
