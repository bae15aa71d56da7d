"""Arrays out of a zip or an unpacked folder that somebody else made: nothing in it is trusted, nothing is unpacked."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from rlscale.typed import Mistake

LARGEST = 2**30  # bytes of one array: a run of 10 million rows × 10 seeds is 0.8 GiB
LARGEST_SUM = 2**33  # bytes of all arrays; published collections are below 2**27
MOST_MEMBERS = 10**6


@dataclass(frozen=True)
class Archive:
    """The files in a zip or folder: `members` are their names with "/", sorted, without what an operating system left.

    `read(name)` gives a member's bytes. Names are parsed, never used as a path to write to.
    """

    path: Path
    members: tuple[str, ...]
    read: Callable[[str], bytes]

    def array(self, member: str) -> NDArray[np.float64]:
        """The .npy `member` as float64 [T, columns], T ≥ 1. Raises Mistake naming it if it is anything else."""
        return npy(self.read(member), f"{self.path.name}: {member}")


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """The archive at `path`, a zip file or a folder. Raises Mistake naming the path or the member."""
    if path.is_dir():
        files = {p.relative_to(path).as_posix(): p for p in sorted(path.rglob("*")) if p.is_file()}
        yield Archive(path, _kept(list(files)), lambda name: _file(files[name], f"{path.name}: {name}"))
        return
    if not path.exists():
        raise Mistake(f"source.path={path}: there is no such file or folder; give the path of a zip or folder")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise Mistake(f"source.path={path}: this is not a whole zip file ({_said(error)}); fetch it again") from None
    with archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        _check_sizes(path, infos)
        _check_names(path, [info.filename for info in infos])
        yield Archive(path, _kept([info.filename for info in infos]), lambda name: _member(archive, path, name))


def npy(data: bytes, where: str) -> NDArray[np.float64]:
    """The bytes of a .npy file of numbers as float64 [T, columns]; `where` begins the sentence of a Mistake."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = readers[version](stream)
    except Exception as error:  # the header is a Python literal from outside: its parser fails in a dozen ways
        raise Mistake(f"{where}: this is no .npy array ({_said(error)}); mend or remove the file") from None
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise Mistake(f"{where}: an array of {dtype} is not one of plain numbers; save it as float64")
    if len(shape) != 2 or min(shape) < 1:
        raise Mistake(f"{where}: an array of shape {shape} is not rows × columns; save it as [T, seeds]")
    body = data[stream.tell() :]
    if math.prod(shape) * dtype.itemsize != len(body):  # before anything of the shape's size is made
        raise Mistake(f"{where}: the array is cut short or has extra bytes; mend or remove the file")
    array = np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
    return np.ascontiguousarray(array, dtype=np.float64)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, or of a folder's file names and contents."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _kept(names: list[str]) -> tuple[str, ...]:
    """Without what an operating system left: __MACOSX, .DS_Store, ._x, Thumbs.db."""
    parts = {name: PurePosixPath(name).parts for name in names}
    left = {"__MACOSX", "Thumbs.db", "desktop.ini"}
    return tuple(sorted(n for n in names if not any(p in left or p.startswith(".") for p in parts[n])))


def _check_sizes(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    if len(infos) > MOST_MEMBERS:
        raise Mistake(f"source.path={path}: {len(infos)} files in one zip; split it, {MOST_MEMBERS} are read at most")
    for info in infos:
        if info.file_size > LARGEST:
            raise Mistake(
                f"{path.name}: {info.filename} would unpack to {info.file_size / 2**30:.1f} GiB; "
                f"remove it, {LARGEST / 2**30:.0f} GiB is read at most"
            )
    if (total := sum(info.file_size for info in infos)) > LARGEST_SUM:
        raise Mistake(
            f"source.path={path}: it would unpack to {total / 2**30:.1f} GiB; "
            f"split it, {LARGEST_SUM / 2**30:.0f} GiB is read at most"
        )


def _check_names(path: Path, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name.startswith("/") or "\\" in name or ":" in name.split("/")[0] or ".." in name.split("/"):
            raise Mistake(f"{path.name}: {name!r} leads out of the archive; make the zip again from its folder")
        if name in seen:
            raise Mistake(f"{path.name}: {name} is in it twice; make the zip again from its folder")
        seen.add(name)


def _member(archive: zipfile.ZipFile, path: Path, name: str) -> bytes:
    try:
        with archive.open(name) as stream:
            data = stream.read(LARGEST + 1)
    except Exception as error:  # zlib, struct, lzma, CRC, a password: every way in which a zip can be broken
        raise Mistake(f"{path.name}: {name} cannot be unpacked ({_said(error)}); fetch the zip again") from None
    if len(data) > LARGEST:
        raise Mistake(f"{path.name}: {name} unpacks to more than it says; fetch the zip again")
    return data


def _file(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Mistake(f"{where}: it cannot be read ({_said(error)}); mend or remove the file") from None


def _said(error: Exception) -> str:
    """An error of somebody else's code, short and on one line."""
    text = " ".join(str(error).split()) or "it ends too early"
    return f"{type(error).__name__}: {text[:120]}"
