"""Nothing in somebody's zip is trusted: every way in which it can be broken is one sentence that names the file."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from analysis.sources import archive as room
from analysis.sources.archive import npy as read_npy
from analysis.sources.archive import opened, sha256_of
from rlscale.typed import Mistake
from tests.analysis.archives import npy, returns, zip_of


@pytest.mark.parametrize("dtype", ["f8", "f4", ">f8", "i8", "u2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_of_any_kind_are_read(dtype: str, order: str) -> None:
    array = np.asarray(np.arange(6).reshape(3, 2), dtype=dtype, order=order)  # type: ignore[call-overload]
    read = read_npy(npy(array), "a")
    assert read.dtype == np.float64 and np.array_equal(read, array)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no .npy array"),
        (b"not numpy at all", "no .npy array"),
        (npy(returns())[:60], "no .npy array"),
        (npy(returns())[:-8], "cut short"),
        (npy(returns()) + b"x", "extra bytes"),
        (npy(np.array([[None, 1]], dtype=object), allow_pickle=True), "not one of plain numbers"),
        (npy([["a", "b"]]), "not one of plain numbers"),
        (npy([[1j]]), "not one of plain numbers"),
        (npy([1.0, 2.0]), r"shape \(2,\)"),
        (npy(np.zeros((0, 4))), r"shape \(0, 4\)"),
        (npy(np.zeros((4, 0))), r"shape \(4, 0\)"),
        (npy(np.zeros((2, 2, 2))), r"shape \(2, 2, 2\)"),
        (npy(np.zeros((2, 2))).replace(b"(2, 2)", b"(9999999999, 99999)"), "no .npy|cut short"),
        (npy(np.zeros((2, 2))).replace(b"(2, 2)", b"[[[[[["), "no .npy array"),
    ],
)
def test_what_is_no_array_of_numbers_is_a_sentence(data: bytes, said: str) -> None:
    with pytest.raises(Mistake, match=f"^here: .*(?:{said})"):
        read_npy(data, "here")


def test_a_zip_and_its_folder_are_one(tmp_path: Path) -> None:
    files = {"x/b.npy": npy(returns()), "x/a.npy": npy(returns()), "__MACOSX/x/._a.npy": b"", "x/.DS_Store": b""}
    path = zip_of(tmp_path / "x.zip", files | {"x/": b""})
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    for place in (path, tmp_path / "unpacked"):
        with opened(place) as found:
            assert found.members == ("x/a.npy", "x/b.npy")
            assert np.array_equal(found.array("x/a.npy"), returns())
    assert sha256_of(tmp_path / "unpacked") == sha256_of(tmp_path / "unpacked") != sha256_of(path)


def test_a_zip_that_is_not_one(tmp_path: Path) -> None:
    whole = zip_of(tmp_path / "a.zip", {"a.npy": npy(returns())}).read_bytes()
    for data in (b"", b"PK", whole[:-30], whole[: len(whole) // 2]):
        (tmp_path / "b.zip").write_bytes(data)
        with (
            pytest.raises(Mistake, match=r"source\.path=.*b\.zip: this is not a whole zip file"),
            opened(tmp_path / "b.zip"),
        ):
            pass
    with pytest.raises(Mistake, match="no such file or folder"), opened(tmp_path / "none.zip"):
        pass


@pytest.mark.parametrize("name", ["../a.npy", "x/../../a.npy", "/etc/a.npy", "C:/a.npy", "x\\..\\a.npy"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    path = zip_of(tmp_path / "a.zip", {"placeholder": b""})
    path.write_bytes(_renamed(path, name))
    with pytest.raises(Mistake, match=r"a\.zip: .* leads out of the archive"), opened(path):
        pass


def _renamed(path: Path, name: str) -> bytes:
    """The zip with its one member called `name`, which Python's own writer would mend."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = name
        archive.writestr(info, b"")
    return stream.getvalue()


def test_twins_are_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", b"2")
    (tmp_path / "a.zip").write_bytes(stream.getvalue())
    with pytest.raises(Mistake, match=r"a\.npy is in it twice"), opened(tmp_path / "a.zip"):
        pass


def test_a_bomb_does_not_go_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LARGEST", 10_000)
    monkeypatch.setattr(room, "LARGEST_SUM", 15_000)
    big = zip_of(tmp_path / "a.zip", {"a.npy": bytes(10_001)})
    with pytest.raises(Mistake, match=r"a\.npy would unpack to"), opened(big):
        pass
    many = zip_of(tmp_path / "b.zip", {f"{i}.npy": bytes(9_000) for i in range(2)})
    with pytest.raises(Mistake, match=r"would unpack to .* split it"), opened(many):
        pass
    # one that says it is small and is not
    lying = bytearray(big.read_bytes())
    at = lying.index(b"PK\x01\x02")
    struct.pack_into("<I", lying, at + 24, 5)
    (tmp_path / "c.zip").write_bytes(bytes(lying))
    with opened(tmp_path / "c.zip") as archive, pytest.raises(Mistake, match=r"c\.zip: a\.npy cannot be unpacked"):
        archive.read("a.npy")


def test_a_member_with_a_wrong_checksum_or_a_password(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a.npy": npy(returns())})
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(bytes(data))
    with opened(path) as archive, pytest.raises(Mistake, match=r"a\.zip: a\.npy cannot be unpacked"):
        archive.read("a.npy")
    data = bytearray(zip_of(path, {"a.npy": b"x"}).read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    path.write_bytes(bytes(data))
    with opened(path) as archive, pytest.raises(Mistake, match=r"cannot be unpacked.*password"):
        archive.read("a.npy")
