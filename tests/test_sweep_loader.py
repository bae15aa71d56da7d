"""launchers.sweep_loader: what it composes is what Hydra composes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.initialize import initialize_config_dir
from hydra.types import RunMode
from omegaconf import OmegaConf

import launchers
from launchers.sweep_loader import SweepLoader
from rlscale.door import CONF, scratch

JOBS = [
    ["sweep=quickstart", "benchmark.task=pendulum", "utd=1/4", "hparams.batch_size=32"],
    ["sweep=quickstart", "benchmark.task=cartpole_swingup", "utd=4", "hparams.batch_size=128"],
    ["utd=2", "algorithm=bro", "algorithm.reset.at=[1,2]", "benchmark=toy", "seed=[0,1]", "hydra.launcher.workers=2"],
    ["utd=3", "algorithm=bro", "algorithm.reset.at=[3]", "benchmark=toy", "seed=4", "hydra.launcher.workers=2"],
    ["+reference=toy", "utd=1", "hparams.learning_rate=1e-3", "~log"],
]


@pytest.fixture
def hydra(study: Path) -> Iterator[Any]:
    launchers.discover()
    OmegaConf.register_new_resolver("rlscale_scratch", scratch, use_cache=True, replace=True)
    (study / "conf").mkdir(parents=True)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        assert isinstance(loader, ConfigLoaderImpl)
        yield loader, loader.load_configuration("train", [], RunMode.MULTIRUN)
    GlobalHydra.instance().clear()


def test_jobs_are_composed_as_hydra_does(hydra: Any) -> None:
    theirs, master = hydra
    ours = SweepLoader(theirs)
    for job in [*JOBS, *JOBS]:  # the second time from what is kept
        configs = ours.load_sweep_config(master, job), theirs.load_sweep_config(master, job)
        made, expected = (OmegaConf.to_container(config, resolve=False) for config in configs)
        for config in (made, expected):
            del config["hydra"]["job"]["override_dirname"]  # type: ignore[call-overload, index]
        assert made == expected
        ours.jobs.clear()


def test_what_hydra_refuses_is_refused_in_its_words(hydra: Any) -> None:
    theirs, master = hydra
    for words in (["udt=1"], ["algorithm=sax"], ["utd=1", "budget.env_step=3"], ["algorithm.width.x=1"]):
        said = []
        for loader in (SweepLoader(theirs), theirs):
            with pytest.raises(HydraException) as refused:
                loader.load_sweep_config(master, words)
            said.append(str(refused.value))
        assert said[0] == said[1]
