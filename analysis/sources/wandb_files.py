"""W&B runs from the `.wandb` files that every run leaves on its own machine; no network, no login.

A file is a LevelDB log of protobuf records. The wandb package ships the record type but, from some version on, reads
the log in its binary only, so the log is taken apart here.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from analysis.sources.wandb_logged import Logged, flat, table
from rlscale.typed import Mistake

MAGIC = b":W&B\xe1\xbe\x00"  # how a file begins; the last byte is the version of the format
BLOCK, HEAD = 32768, 7  # bytes; the head is a checksum, a length and a kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # kinds: a record may be cut at the end of a block


def offline(folder: Path, tags: tuple[str, ...]) -> dict[str, list[Path]]:
    """Run → its files in the order of time (a resumed run has several), of all runs at any depth of `folder`."""
    if not folder.is_dir():
        raise Mistake(
            f"source.folder={folder}: there is no such folder; give the one that holds offline-run-… or run-…"
        )
    files = sorted(
        {path.resolve() for path in folder.rglob("run-*.wandb")},
        key=lambda path: (path.parent.name.removeprefix("offline-"), str(path)),
    )
    if not files:
        raise Mistake(
            f"source.folder={folder}: no run-*.wandb is in it; give the folder that holds offline-run-… folders"
        )
    runs: dict[str, list[Path]] = {}
    for path in files:
        runs.setdefault(path.stem.removeprefix("run-"), []).append(path)
    return runs


def from_files(run: str, paths: Iterable[Path]) -> tuple[Logged, set[str]]:
    """One run from its files, and its tags; without a word of its end it crashed. Raises Mistake if one is damaged."""
    config: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    tags: set[str] = set()
    state = "crashed"
    for path in paths:
        state = "crashed"
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind in ("run", "config"):
                change = record.run.config if kind == "run" else record.config
                tags |= set(record.run.tags) if kind == "run" else set()
                for item in change.update:
                    config |= flat({name(item): json.loads(item.value_json)})
            elif kind == "history":
                rows.append({"_step": record.history.step.num} | dict(map(number, record.history.item)))
            elif kind == "exit":
                state = "failed" if record.exit.exit_code else "finished"
    return Logged(run, state, {k: v for k, v in config.items() if not k.startswith("_wandb")}, table(rows), ()), tags


def name(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def number(item: Any) -> tuple[str, float | None]:
    """Key and value of a history item; None for what is no number."""
    try:
        return name(item), float(item.value_json)
    except ValueError:
        return name(item), None


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file. One cut short at the end is left out (a crash does that); damage is a Mistake."""
    try:
        from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]
    except ImportError:
        raise Mistake(
            "source.folder: the installed wandb package has no wandb.proto.wandb_internal_pb2; install wandb==0.31.0"
        ) from None
    data = path.read_bytes()
    if not data:  # killed before it wrote anything
        return
    if data[:HEAD] != MAGIC:
        raise Mistake(f"{path.name} does not begin as a .wandb file of a known version")
    at, whole = HEAD, b""
    while at + HEAD <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEAD:  # too little room for a head: the block is filled up with zeros
            at += left
            continue
        crc, length, kind = struct.unpack("<IHB", data[at : at + HEAD])
        body = data[at + HEAD : at + HEAD + length]
        cut = at + HEAD + length > len(data) and HEAD + length <= left  # a record never crosses a block
        if cut or (not (crc or length or kind) and not data[at:].strip(b"\0")):
            return
        sound = HEAD + length <= left and zlib.crc32(data[at + HEAD - 1 : at + HEAD + length]) == crc
        if not sound or kind not in (FULL, FIRST, MIDDLE, LAST):
            raise Mistake(f"{path.name} is damaged at byte {at}")
        whole = body if kind in (FULL, FIRST) else whole + body
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(whole)
            yield record
        at += HEAD + length
