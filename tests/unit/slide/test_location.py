"""Nothing outside an allow-listed root is ever opened."""

import os
from pathlib import Path, PurePosixPath

import pytest

from xmag.errors import Code, XmagError
from xmag.slide.location import SlideLocation


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret.svs").write_bytes(b"secret")
    root = tmp_path / "root"
    (root / "case").mkdir(parents=True)
    (root / "case" / "a.svs").write_bytes(b"slide")
    (root / "link.svs").symlink_to(tmp_path / "secret.svs")
    (root / "inner.svs").symlink_to(root / "case" / "a.svs")
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.svs")
    return root


def code(root: Path, relative: str) -> Code:
    with pytest.raises(XmagError) as caught:
        SlideLocation(root, PurePosixPath(relative)).open_fd()
    assert str(root) not in caught.value.detail
    return caught.value.code


def test_a_file_beneath_the_root_opens(root: Path) -> None:
    fd = SlideLocation(root, PurePosixPath("case/a.svs")).open_fd()
    assert os.read(fd, 10) == b"slide"
    os.close(fd)


@pytest.mark.parametrize(
    "relative",
    [
        "../secret.svs",
        "case/../../secret.svs",
        "/etc/passwd",
        "link.svs",
        "inner.svs",
        "folder/secret.svs",
        "a\0b",
    ],
)
def test_ways_out_are_refused(root: Path, relative: str) -> None:
    assert code(root, relative) is Code.PATH_OUTSIDE_ROOT


@pytest.mark.parametrize(
    "relative", ["none.svs", "case", "case/a.svs/b", "pipe.svs", "", "x" * 5000, "\ud800.svs", "no/a.svs"]
)
def test_what_is_no_file_is_not_found(root: Path, relative: str) -> None:
    assert code(root, relative) is Code.SLIDE_NOT_FOUND


def test_a_missing_root_is_not_found(root: Path) -> None:
    assert code(root / "unmounted", "a.svs") is Code.SLIDE_NOT_FOUND


def test_no_descriptor_stays_open(root: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    for relative in ("link.svs", "pipe.svs", "none.svs", "folder/secret.svs", "case", "case/none.svs"):
        code(root, relative)
    SlideLocation(root, PurePosixPath("case/a.svs")).fingerprint()
    assert len(os.listdir("/dev/fd")) == before


def test_fingerprint_follows_the_file(root: Path) -> None:
    location = SlideLocation(root, PurePosixPath("case/a.svs"))
    first = location.fingerprint()
    assert location.fingerprint() == first
    (root / "case" / "b").write_bytes(b"slide")
    (root / "case" / "b").rename(root / "case" / "a.svs")
    assert location.fingerprint() != first
