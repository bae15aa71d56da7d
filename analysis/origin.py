"""Where the runs of a fit come from: sources, versions and digests, read from the records themselves."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Origin:
    """Of `runs` runs: `sources` (collection, kind, file, SHA-256) → how many; `columns` that some curve names.

    `runs_sha256` is over the sorted run ids, as fits store it; `curves_sha256` over each id with the SHA-256 of its
    curve.csv, so that it changes with any logged number.
    """

    runs: int
    sources: Mapping[tuple[str, str, str, str], int]
    versions: Sequence[str]
    devices: Sequence[str]
    columns: Sequence[str]
    runs_sha256: str
    curves_sha256: str


def origin(root: Path, run_ids: Sequence[str]) -> Origin:
    """Read from `root`/runs; the ids are of finished runs."""
    ids = sorted(run_ids)
    sources: Counter[tuple[str, str, str, str]] = Counter()
    versions: dict[str, None] = {}
    devices: dict[str, None] = {}
    columns: dict[str, None] = {}
    curves = hashlib.sha256()
    for run in ids:
        record: dict[str, Any] = json.loads((root / "runs" / run / "record.json").read_bytes())
        source = record.get("source") or {}
        words = [("name", "this study"), ("kind", "trained here"), ("file", "–"), ("sha256", "–")]
        name, kind, file, sha = (str(source.get(key, otherwise)) for key, otherwise in words)
        sources[name, kind, file, sha] += 1
        said = ", ".join(f"{k} {v}" for k, v in sorted((record.get("versions") or {}).items()))
        versions |= {said: None} if said else {}
        devices |= {str(record["device"]): None} if record.get("device") else {}
        data = (root / "runs" / run / "curve.csv").read_bytes()
        columns |= dict.fromkeys(data[: data.find(b"\n")].decode(errors="replace").strip().split(","))
        curves.update(f"{run} {hashlib.sha256(data).hexdigest()}\n".encode())
    return Origin(
        len(ids), dict(sorted(sources.items())), sorted(versions), sorted(devices), list(columns),
        hashlib.sha256("\n".join(ids).encode()).hexdigest(), curves.hexdigest(),
    )  # fmt: skip
