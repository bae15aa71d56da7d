"""Composes the jobs of a sweep: what they share once, where Hydra composes each of them twice."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


class SweepLoader:
    """Hydra's config loader; `load_sweep_config` composes once for each choice of options, and sets values in copies.

    Hydra's own answer but for `hydra.job.override_dirname`, which nothing here uses.
    """

    def __init__(self, loader: Any):
        self.loader = loader
        # By the overrides that are not values of keys; pickled, as loading copies in a tenth of deepcopy's time …
        self.composed: dict[tuple[str, ...], bytes] = {}
        self.jobs: dict[tuple[str, ...], DictConfig] = {}  # … and by all: the sweeper asks first, then the launcher

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """The config of one job. Raises as Hydra's does: what cannot be set here is left to it."""
        asked = tuple(sweep_overrides)
        if asked not in self.jobs:
            self.jobs[asked] = self._job(master_config, asked)
        return self.jobs[asked]

    def _job(self, master_config: DictConfig, sweep_overrides: tuple[str, ...]) -> DictConfig:
        parsed = OverridesParser.create(config_loader=self.loader).parse_overrides(list(sweep_overrides))
        choices = tuple(str(o.input_line) for o in parsed if not self._sets_a_value(o))
        try:
            if choices not in self.composed:
                self.composed[choices] = pickle.dumps(self.loader.load_sweep_config(master_config, list(choices)))
            config = pickle.loads(self.composed[choices])
            for override in filter(self._sets_a_value, parsed):
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            return self.loader.load_sweep_config(master_config, list(sweep_overrides))
        OmegaConf.copy_cache(from_config=master_config, to_config=config)  # as Hydra: a time stamp is one in all jobs
        config.hydra.overrides.task = [o.input_line for o in parsed if not o.is_hydra_override()]
        return config

    def _sets_a_value(self, override: Override) -> bool:
        plain = override.type == OverrideType.CHANGE and override.package is None and not override.is_hydra_override()
        return plain and not self.loader.repository.group_exists(override.key_or_group)
