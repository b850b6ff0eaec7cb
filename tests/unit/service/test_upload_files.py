"""Files and headers of uploads."""

import base64
import errno
import hashlib
import itertools
import os
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import upload_files as files
from service.places import SUFFIXES
from xmag.errors import XmagError

ID = UUID(int=7)


@given(data=st.binary(min_size=1, max_size=5000), cuts=st.lists(st.integers(0, 5000), max_size=6))
def test_parts_written_at_their_offsets_are_the_file(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("uploads")
    files.create(folder, ID, ".svs")
    fd = files.open_locked(folder, ID)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for low, high in itertools.pairwise(edges):
        files.write(fd, data[low:high], low)
    files.sync(fd)
    assert files.digest(fd, len(data)) == hashlib.sha256(data).hexdigest()
    os.close(fd)
    assert files.upload_path(folder, ID).read_bytes() == data
    files.remove(folder, ID)
    assert list(folder.iterdir()) == []


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:3], at))
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    files.write(fd, b"0123456789", 2)
    assert os.pread(fd, 20, 0) == b"\0\x000123456789"
    os.close(fd)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(*_: object) -> int:
        raise OSError(number, "full")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(XmagError, match="DISK_FULL"):
        files.write(0, b"x", 0)


def test_files_are_private_and_never_follow_a_link(tmp_path: Path) -> None:
    files.create(tmp_path, ID, ".svs")
    path = files.upload_path(tmp_path, ID)
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    (tmp_path / "victim").write_bytes(b"")
    path.symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        files.open_locked(tmp_path, ID)


@given(st.text(max_size=60), st.sampled_from(sorted(SUFFIXES)))
def test_only_the_suffix_of_a_name_is_kept(name: str, suffix: str) -> None:
    stem = name.replace("/", "") + "x"
    header = "filename " + base64.b64encode(f"{stem}{suffix.upper()}".encode()).decode()
    assert files.parse_metadata(header) == (suffix, None)


@given(st.text(max_size=200))
def test_any_header_is_parsed_or_refused(header: str) -> None:
    for parse in (files.parse_metadata, files.parse_checksum):
        try:
            parse(header)
        except XmagError:
            continue
