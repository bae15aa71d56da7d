"""What the doors of the analysis share: their typed config, the reference, and what a fit says of where it is from."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from analysis.curves import Reference
from analysis.records import Study
from rlscale.door import CONF
from rlscale.store import study_root
from rlscale.typed import Mistake, nearest, typed

T = TypeVar("T")


def read(cls: type[T], cfg: DictConfig) -> T:
    """The door's config as its frozen dataclass, without Hydra's own node. Raises Mistake."""
    values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    assert isinstance(values, dict)
    if values.get("name") == "???":
        raise Mistake("name is not set: give the fit a name, name=gym-r1")
    try:
        return typed(cls, {str(k): v for k, v in values.items() if k != "hydra"}, "config")
    except Mistake as mistake:
        raise Mistake(str(mistake).removeprefix("config.")) from None  # a door's own keys are typed without a prefix


def reference_of(values: Mapping[str, Any], benchmark: str) -> Reference:
    """The reference as chosen; `auto` is the benchmark's own with the values that were set laid over it."""
    if values.get("name") != "auto":
        return typed(Reference, values, "reference")
    homes = [CONF / "reference", study_root() / "conf" / "reference"]
    found = [home / f"{benchmark}.yaml" for home in homes if (home / f"{benchmark}.yaml").is_file()]
    if not found:
        known = sorted(p.stem for home in homes for p in home.glob("*.yaml") if p.stem != "auto")
        raise Mistake(f"reference=auto: there is no reference for benchmark {benchmark}; {nearest(benchmark, known)}")
    over = {k: v for k, v in values.items() if v is not None and k != "name"}
    merged = OmegaConf.to_container(OmegaConf.merge(OmegaConf.load(found[0]), OmegaConf.create(over)))
    assert isinstance(merged, dict)
    return typed(Reference, {str(k): v for k, v in merged.items()}, "reference")


def typed_command(door: str, name: str, select: list[str]) -> str:
    """The command line as it was typed (without `replace`), or as the config says where there was none."""
    words = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else [f"name={name}", *select]
    return " ".join([f"python -m analysis.{door}", *(shlex.quote(w) for w in words if not w.startswith("replace="))])


def provenance(command: str, study: Study, select: Mapping[str, Any], reference: Reference) -> dict[str, Any]:
    """What the fit is of: enough to read the same runs again and to see whether they are the same. No dates."""
    ids = list(study.runs["run_id"])
    return {
        "command": command,
        "select": dict(select),
        "reference": {k: dict(v) if isinstance(v, Mapping) else v for k, v in vars(reference).items()},
        "runs": len(ids),
        "runs_sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
    }
