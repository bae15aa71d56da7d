"""launchers.sweep_loader: what it composes is what Hydra composes."""

from __future__ import annotations

from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from launchers.sweep_loader import SweepLoader

JOBS = [
    ["sweep=quickstart", "benchmark.task=pendulum", "utd=1/4", "hparams.batch_size=32"],
    ["sweep=quickstart", "benchmark.task=cartpole_swingup", "utd=4", "hparams.batch_size=128"],
    ["utd=2", "algorithm=bro", "algorithm.reset.at=[1,2]", "benchmark=toy", "seed=[0,1]", "hydra.launcher.workers=2"],
    ["utd=3", "algorithm=bro", "algorithm.reset.at=[3]", "benchmark=toy", "seed=4", "hydra.launcher.workers=2"],
    ["+reference=toy", "utd=1", "hparams.learning_rate=1e-3", "~log"],
]


@pytest.fixture
def loader(hydra: None) -> tuple[ConfigLoaderImpl, DictConfig]:
    """Hydra's own, and the config of a sweep without any override."""
    theirs = GlobalHydra.instance().config_loader()
    assert isinstance(theirs, ConfigLoaderImpl)
    return theirs, theirs.load_configuration("train", [], RunMode.MULTIRUN)


def test_jobs_are_composed_as_hydra_does(loader: tuple[ConfigLoaderImpl, DictConfig]) -> None:
    theirs, master = loader
    ours = SweepLoader(theirs)
    expected = [as_data(theirs.load_sweep_config(master, job)) for job in JOBS]
    for _ in range(2):  # the second time from what is kept
        for job, config in zip(JOBS, expected, strict=True):
            assert as_data(ours.load_sweep_config(master, job)) == config
        ours.jobs.clear()


def as_data(config: DictConfig) -> Any:
    made: Any = OmegaConf.to_container(config, resolve=False)
    del made["hydra"]["job"]["override_dirname"]
    return made


@pytest.mark.slow
def test_what_hydra_refuses_is_refused_in_its_words(loader: tuple[ConfigLoaderImpl, DictConfig]) -> None:
    theirs, master = loader
    for words in (["udt=1"], ["algorithm=sax"], ["utd=1", "budget.env_step=3"], ["algorithm.width.x=1"]):
        said = []
        for composer in (SweepLoader(theirs), theirs):
            with pytest.raises(HydraException) as refused:
                composer.load_sweep_config(master, words)
            said.append(str(refused.value))
        assert said[0] == said[1]
