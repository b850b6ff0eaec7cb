"""Digest and change of slides of one and of many files."""

import hashlib
from pathlib import Path, PurePosixPath

import pytest

from xmag.errors import Code, XmagError
from xmag.slide.identity import Identity, identify, sha256
from xmag.slide.location import SlideLocation


def fill(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)


def find(root: Path, name: str) -> Identity:
    return identify(SlideLocation(root, PurePosixPath(name)))


def lines(files: dict[str, bytes]) -> str:
    """The digest of many files, written out; the named file comes first in ``files``."""
    named, *others = (
        name.encode() + b"\0" + hashlib.sha256(data).hexdigest().encode() + b"\n"
        for name, data in files.items()
    )
    return hashlib.sha256(b"".join([named, *sorted(others)])).hexdigest()


def test_one_file_has_the_plain_digest_and_progress_reaches_one(tmp_path: Path) -> None:
    data = bytes(range(256)) * 40_000
    fill(tmp_path, {"a.svs": data, "b.svs": b"other"})
    seen: list[float] = []
    assert sha256(find(tmp_path, "a.svs"), seen.append) == hashlib.sha256(data).hexdigest()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.parametrize(
    ("named", "files"),
    [
        ("case/s.mrxs", {"s.mrxs": b"m", "s/Slidedat.ini": b"[G]", "s/Data0000.dat": b"d"}),
        ("case/1.dcm", {"1.dcm": b"one", "2.dcm": b"two"}),
        ("case/s.vms", {"s.vms": b"[VMS]\nImageFile=i.jpg\nMapFile=m.jpg\n", "i.jpg": b"i", "m.jpg": b"m"}),
    ],
)
def test_many_files_share_one_digest(tmp_path: Path, named: str, files: dict[str, bytes]) -> None:
    fill(tmp_path, {f"case/{name}": data for name, data in files.items()} | {"case/notes.txt": b"n"})
    identity = find(tmp_path, named)
    assert sha256(identity, lambda _: None) == lines(files)
    assert identity.size == sum(len(data) for data in files.values())


def test_two_slides_in_one_folder_differ(tmp_path: Path) -> None:
    fill(tmp_path, {"1.dcm": b"one", "2.dcm": b"two"})
    assert len({sha256(find(tmp_path, name), lambda _: None) for name in ("1.dcm", "2.dcm")}) == 2


def test_a_folder_within_a_slides_folder_is_no_part_of_it(tmp_path: Path) -> None:
    fill(tmp_path, {"s.mrxs": b"m", "s/Slidedat.ini": b"[G]"})
    (tmp_path / "s" / "@eaDir").mkdir()
    assert len(find(tmp_path, "s.mrxs").files) == 2


def test_a_changed_companion_is_a_changed_slide(tmp_path: Path) -> None:
    fill(tmp_path, {"s.mrxs": b"m", "s/Slidedat.ini": b"[G]"})
    identity = find(tmp_path, "s.mrxs")
    identity.check()
    fill(tmp_path, {"s/Slidedat.ini": b"[GENERAL]"})
    with pytest.raises(XmagError) as caught:
        identity.check()
    assert caught.value.code is Code.SLIDE_CHANGED


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"s.mrxs": b"m"}, Code.SLIDE_CORRUPT),
        ({"s.vms": b"ImageFile=gone.jpg\n"}, Code.SLIDE_CORRUPT),
        ({"s.vms": b"ImageFile=../outside.jpg\n"}, Code.PATH_OUTSIDE_ROOT),
        ({"s.vms": b"ImageFile(0,1)=/etc/passwd\n"}, Code.PATH_OUTSIDE_ROOT),
        ({"s.vms": b"[VMS]\n  MapFile = ../outside.jpg\n"}, Code.PATH_OUTSIDE_ROOT),
        ({"s.mrxs": b"m", "s/Slidedat.ini": b"[DATAFILE]\nFILE_0 = ../x.dat\n"}, Code.PATH_OUTSIDE_ROOT),
        ({"s.mrxs": b"m", "s/Slidedat.ini": b"[H]\nINDEXFILE=/etc/passwd\n"}, Code.PATH_OUTSIDE_ROOT),
    ],
)
def test_missing_and_outside_companions_are_refused(
    tmp_path: Path, files: dict[str, bytes], code: Code
) -> None:
    fill(tmp_path, files)
    with pytest.raises(XmagError) as caught:
        find(tmp_path, next(iter(files)))
    assert caught.value.code is code


def test_a_linked_companion_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, {"s.mrxs": b"m", "s/Slidedat.ini": b"[G]", "outside/Data.dat": b"x"})
    (tmp_path / "s" / "Data0000.dat").symlink_to(tmp_path / "outside" / "Data.dat")
    with pytest.raises(XmagError) as caught:
        find(tmp_path, "s.mrxs")
    assert caught.value.code is Code.PATH_OUTSIDE_ROOT
