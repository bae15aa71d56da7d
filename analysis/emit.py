"""Writes what a fit found: JSON, CSV and Hydra options; equal bytes for equal input, never silently over another."""

from __future__ import annotations

import io
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from rlscale.hparams import PowerLaw
from rlscale.typed import Mistake

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
PLAIN_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
NOT_A_WORD = {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"}


def check_name(name: str) -> str:
    """A fit's name is a file's name. Raises Mistake."""
    if not NAME.fullmatch(name):
        raise Mistake(f"name={name}: give letters, digits, dots, dashes and underscores only, such as gym-r1")
    return name


def write(files: Mapping[Path, str | bytes], replace: bool) -> None:
    """Write all `files` by rename, or none: one that exists with other content is a Mistake unless `replace`."""
    encoded = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
    for path, content in encoded.items():
        if path.exists() and path.read_bytes() != content and not replace:
            raise Mistake(f"{path} already holds another fit: choose another name=…, or overwrite it with replace=true")
    for path, content in encoded.items():
        if path.exists() and path.read_bytes() == content:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_bytes(content)
        partial.replace(path)


def to_json(value: Any) -> str:
    """Indented JSON at full precision; what is not finite becomes null."""
    return json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The arrays as .npz bytes without a date, so that equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for key in sorted(arrays):
            part = io.BytesIO()
            np.lib.format.write_array(part, np.ascontiguousarray(arrays[key]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{key}.npy", (1980, 1, 1, 0, 0, 0)), part.getvalue())
    return buffer.getvalue()


def to_yaml(value: Any, indent: int = 0) -> str:
    """Plain data as YAML, mappings as blocks and lists in line; floats keep all digits and read back as floats."""
    pad = "  " * indent
    lines = []
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            lines.append(f"{pad}{_scalar(str(key))}:\n{to_yaml(item, indent + 1)}")
        else:
            lines.append(f"{pad}{_scalar(str(key))}: {_flow(item)}\n")
    return "".join(lines)


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(str(k))}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text  # YAML 1.1 wants a dot in 1.0e-05
    if isinstance(value, int):
        return str(value)
    text = str(value)
    return text if PLAIN_WORD.fullmatch(text) and text.lower() not in NOT_A_WORD else json.dumps(text)


def comment(lines: Sequence[str]) -> str:
    return "".join(f"# {line}\n" for line in lines)


def hparams_option(header: Sequence[str], variant: str, variants: Mapping[str, Mapping[str, PowerLaw]]) -> str:
    """`study/conf/hparams/fitted/<name>.yaml`: the laws themselves, evaluated by each job at its own (σ, task)."""
    body = {
        "_target_": "rlscale.hparams.Laws",
        "variant": variant,
        "variants": {v: {q: dict(vars(law)) for q, law in laws.items()} for v, laws in variants.items()},
    }
    return comment(header) + to_yaml(body).replace(
        f"\nvariant: {variant}\n", f"\nvariant: {variant}  # {', '.join(v for v in variants)}\n", 1
    )


def sweep_option(
    header: Sequence[str],
    name: str,
    spec: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    tasks: Sequence[str],
    utds: Sequence[Fraction],
    widths: Sequence[int] = (),
) -> str:
    """`study/conf/sweep/fitted/<name>.yaml`: the same learner, budget and tasks, now at the fitted laws.

    The last key varies fastest, so the longest jobs, of the largest σ and widths, start first and none is waited for.
    """
    fields = {
        part: {k: v for k, v in spec[part].items() if k != "name"} for part in ("algorithm", "benchmark", "budget")
    }
    chosen = {
        "algorithm": spec["algorithm"]["name"],
        "benchmark": spec["benchmark"]["name"],
        "hparams": f"fitted/{name}",
    }
    defaults = "".join(f"  - override /{group}: {option}\n" for group, option in chosen.items())
    body = {part: keys for part, keys in fields.items() if keys} | {"seed": list(seeds)}
    grid: dict[str, Sequence[Any]] = {"utd": utds, "algorithm.width": widths}
    axes = {k: json.dumps(",".join(map(str, sorted(v, reverse=True)))) for k, v in grid.items() if v}
    axes["benchmark.task"] = ",".join(tasks)
    params = "hydra:\n  sweeper:\n    params:\n" + "".join(f"      {key}: {axis}\n" for key, axis in axes.items())
    # the package line must be the first of the file: after any other comment it is silently ignored
    return f"# @package _global_\n{comment(header)}defaults:\n{defaults}  - _self_\n{to_yaml(body)}{params}"
