"""What every test shares: JAX on the CPU without a thread pool of its own, Hypothesis without a clock, few fixtures."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

import launchers

launchers.discover()  # before any test makes Hydra look for its plugins, which it does once in a process
# Before any test imports jax or numpy. Two workers share two cores: a thread pool in each would make them fight.
os.environ["JAX_PLATFORMS"] = "cpu"
# Programs that run for a moment are mostly compiled: XLA's older emitters of fused operations compile much faster than
# those that users have (`make quickstart` and the benches run on them), and their programs run more slowly.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false --xla_cpu_use_fusion_emitters=false")
for _pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_pool, "1")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("WANDB_MODE", "disabled")
# Isaac Gym is on no index and needs its own Python: stand-ins play it, unless this names the interpreter that has it.
_STANDINS = Path(__file__).resolve().parent / "standins"
_PATH = f"PYTHONPATH={_STANDINS / 'isaac'}{os.pathsep}{_STANDINS / 'isaac_torch'}"
os.environ.setdefault("RLSCALE_ISAAC_PYTHON", shlex.join(["env", _PATH, sys.executable]))
# No test may find, or write into, the study of the person who runs it: those that need one take the fixture.
os.environ.pop("RLSCALE_STUDY", None)

ROOT = Path(__file__).resolve().parent.parent
# A package that is on no index is played by a stand-in; last on the path, so that the package itself comes first.
sys.path.append(str(ROOT / "tests" / "standins"))

# A deadline would measure the machine; the same examples every time make a red test red for everybody.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("house")


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty study of this test's own, which RLSCALE_STUDY names."""
    folder = tmp_path / "study"
    monkeypatch.setenv("RLSCALE_STUDY", str(folder))
    return folder


@pytest.fixture
def hydra(study: Path) -> Iterator[None]:
    """What rlscale.door sets up around a job, to compose configs of `rlscale.train` in this process."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from rlscale.door import CONF, scratch

    OmegaConf.register_new_resolver("rlscale_scratch", scratch, use_cache=True, replace=True)
    (study / "conf").mkdir(parents=True)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


@pytest.fixture(scope="session")
def published() -> Path:
    """The published runs and numbers, used in place and never copied; the test is skipped where they are absent."""
    folder = ROOT.parent / "shared" / "published"
    if not folder.is_dir():
        pytest.skip("the published data are not beside the repository (../shared/published)")
    return folder


@pytest.fixture(scope="module")
def quick_compiles(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where compile time is most of what tests take: optimise nothing, and keep what was compiled, however quickly."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    cache = request.config.cache.mkdir(f"xla-{os.environ.get('PYTEST_XDIST_WORKER', 'one')}")  # type: ignore[union-attr]
    settings = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(cache),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in settings}
    for chosen in (settings, before):
        for name, value in chosen.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if chosen is settings:
            yield
