"""Whatever a file does to the decoder process, the parent lives and says why."""

import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import psutil
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from xmag.config import Decode
from xmag.errors import Code, JobError, XmagError
from xmag.manifest import TilingSpec
from xmag.slide import reader
from xmag.slide.decoder import Decoder
from xmag.slide.identity import Identity, identify, sha256
from xmag.slide.info import LevelInfo, SlideInfo
from xmag.slide.location import SlideLocation
from xmag.units import Level0Px

Rgb = NDArray[np.uint8]
SPEC = TilingSpec(tile_px=64)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux enforces them")


def code_of(action: Callable[[], object]) -> Code:
    with pytest.raises(XmagError) as caught:
        action()
    return caught.value.code


def read_all(location: SlideLocation, limits: Decode | None = None) -> int:
    """Open, plan and read every tile; the number of tiles."""
    with Decoder(limits or Decode()) as decoder:
        decoder.open(location)
        return sum(map(len, decoder.tiles(decoder.plan(SPEC), SPEC, 8)))


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def patched(path: Path, tags: dict[int, int]) -> None:
    """Overwrite LONG values of the first directory."""
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        offsets = {tag.code: tag.offset for tag in file.pages[0].tags}
    for tag, value in tags.items():
        struct.pack_into("<HII", data, offsets[tag] + 2, 4, 1, value)
    path.write_bytes(data)


@pytest.fixture
def slide(write, picture: Rgb) -> SlideLocation:
    return write("a.svs", picture, (0.5, 0.5), (1, 4))


def test_a_header_that_aborts_openslide_costs_only_the_child(
    write, picture: Rgb, slide: SlideLocation
) -> None:
    broken = write("broken.tif", picture)
    patched(broken.root / "broken.tif", {322: 0x40000, 323: 0x40000})  # a tile of 256 GiB
    with Decoder(Decode()) as decoder:
        decoder.open(broken)
        pid = decoder.pid
        assert code_of(lambda: decoder.plan(SPEC)) is Code.DECODE_CRASH
        assert gone(pid)
        assert code_of(lambda: decoder.plan(SPEC)) is Code.INTERNAL
    assert read_all(slide) > 0


def test_levels_larger_than_the_slide_are_corrupt(decoder: Decoder, write, picture: Rgb) -> None:
    broken = write("broken.tif", picture, (0.5, 0.5), (1, 4))
    patched(broken.root / "broken.tif", {257: 100})  # level 1 is now taller than level 0
    assert code_of(lambda: decoder.open(broken)) is Code.SLIDE_CORRUPT


def outcome(decoders: list[Decoder], location: SlideLocation) -> str:
    if decoders[-1].closed:
        decoders.append(Decoder(Decode(timeout_seconds=20)))
    decoder = decoders[-1]
    try:
        decoder.open(location)
        list(decoder.tiles(decoder.plan(SPEC), SPEC, 8))
    except XmagError as error:
        return error.code
    return "tiles"


def test_mutated_headers_end_in_a_typed_error_or_tiles(
    decoder: Decoder, decoders: list[Decoder], write, picture: Rgb
) -> None:
    good = write("good.svs", picture, (0.5, 0.5), (1, 4))
    data = (good.root / "good.svs").read_bytes()
    with tifffile.TiffFile(good.root / "good.svs") as file:
        entries = [tag.offset for page in file.pages for tag in page.tags]
    draw = random.Random(7)
    allowed = {"tiles", *(c for c in Code if c.startswith(("SLIDE_", "MPP_", "NO_TISSUE", "DECODE_")))}
    seen = set()
    for index in range(24):
        mutant = bytearray(data)
        for _ in range(draw.choice((1, 2, 4))):
            value = draw.choice((0, 1, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF))
            struct.pack_into("<I", mutant, draw.choice(entries) + draw.choice((4, 8)), value)
        (good.root / f"{index}.svs").write_bytes(mutant)
        seen.add(outcome(decoders, SlideLocation(good.root, PurePosixPath(f"{index}.svs"))))
    assert seen <= allowed
    assert len(seen) > 1


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_slide_is_corrupt(slide: SlideLocation, share: float) -> None:
    path = slide.root / "a.svs"
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    assert code_of(lambda: read_all(slide)) is Code.SLIDE_CORRUPT


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("text.svs", b"dear pathologist\n" * 100, Code.SLIDE_UNSUPPORTED),
        ("empty.svs", b"", Code.SLIDE_CORRUPT),
        ("cut.tif", struct.pack("<2sHII", b"II", 42, 100_000, 0) + bytes(50), Code.SLIDE_CORRUPT),
        ("cut.svs", struct.pack(">2sHHHQ", b"MM", 43, 8, 0, 100_000) + bytes(50), Code.SLIDE_CORRUPT),
        ("lone.dcm", b"DICM" * 100, Code.SLIDE_UNSUPPORTED),
    ],
)
def test_what_is_no_slide_is_told(
    decoder: Decoder, tmp_path: Path, name: str, data: bytes, code: Code
) -> None:
    (tmp_path / name).write_bytes(data)
    assert code_of(lambda: decoder.open(SlideLocation(tmp_path, PurePosixPath(name)))) is code


VMS = """[Virtual Microscope Specimen]
NoLayers=1
NoJpegColumns=1
NoJpegRows=1
ImageFile={image}
MapFile={image}
PhysicalWidth=100000
PhysicalHeight=50000
SourceLens=20
"""


@pytest.mark.parametrize("name", ["index.svs", "index", "index.dcm", "index.mrxs"])
def test_an_index_under_another_suffix_cannot_name_files(decoder: Decoder, tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    (root / "index").mkdir(parents=True) if name == "index.mrxs" else root.mkdir()
    picture = Image.new("RGB", (256, 128), (200, 120, 180))
    for path in (tmp_path / "outside.jpg", root / "inside.jpg"):
        picture.save(path, "JPEG", restart_marker_blocks=4)
    (root / name).write_text(VMS.format(image=f"../../..{tmp_path / 'outside.jpg'}"))
    assert code_of(lambda: decoder.open(SlideLocation(root, PurePosixPath(name)))) is Code.SLIDE_UNSUPPORTED
    (root / "own.vms").write_text(VMS.format(image="inside.jpg"))
    assert decoder.open(SlideLocation(root, PurePosixPath("own.vms"))).vendor == "hamamatsu"


def test_an_untiled_tiff_is_unsupported(decoder: Decoder, tmp_path: Path, picture: Rgb) -> None:
    tifffile.imwrite(tmp_path / "strips.tif", picture)
    assert (
        code_of(lambda: decoder.open(SlideLocation(tmp_path, PurePosixPath("strips.tif"))))
        is Code.SLIDE_UNSUPPORTED
    )


@pytest.mark.parametrize(
    ("relative", "code"),
    [
        ("../a.svs", Code.PATH_OUTSIDE_ROOT),
        ("link.svs", Code.PATH_OUTSIDE_ROOT),
        ("no.svs", Code.SLIDE_NOT_FOUND),
    ],
)
def test_paths_are_checked_in_the_child_too(
    decoder: Decoder, slide: SlideLocation, relative: str, code: Code
) -> None:
    (slide.root / "link.svs").symlink_to(slide.root / "a.svs")
    assert code_of(lambda: decoder.open(SlideLocation(slide.root, PurePosixPath(relative)))) is code
    assert decoder.open(slide).vendor == "aperio"


def test_an_error_leaves_the_decoder_usable_and_names_no_file(decoder: Decoder, slide: SlideLocation) -> None:
    (slide.root / "doe.svs").write_bytes(b"no slide")
    with pytest.raises(XmagError) as caught:
        decoder.open(SlideLocation(slide.root, PurePosixPath("doe.svs")))
    assert "doe" not in caught.value.detail
    assert str(slide.root) not in caught.value.detail
    assert code_of(decoder.dzi) is Code.INTERNAL
    assert decoder.open(slide).width == 1500


@pytest.mark.parametrize(
    "limits",
    [{"max_side": 1499}, {"max_pixels": 1_000_000}, {"max_file_bytes": 1000}],
    ids=lambda each: next(iter(each)),
)
def test_caps_are_kept(slide: SlideLocation, limits: dict[str, int]) -> None:
    with Decoder(Decode(**limits)) as decoder:
        assert code_of(lambda: decoder.open(slide)) is Code.SLIDE_TOO_LARGE


def replace(path: Path) -> None:
    copy = path.with_suffix(".new")
    copy.write_bytes(path.read_bytes())
    copy.rename(path)


def rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize("change", [replace, rewrite, Path.unlink])
def test_a_change_during_reading_is_seen(
    decoder: Decoder, slide: SlideLocation, change: Callable[[Path], None]
) -> None:
    decoder.open(slide)
    decoder.check_unchanged()
    change(slide.root / "a.svs")
    assert code_of(decoder.check_unchanged) is Code.SLIDE_CHANGED


def test_a_slide_cut_while_open_has_changed_and_is_not_corrupt(decoder: Decoder, write, picture: Rgb) -> None:
    location = write("a.tif", picture)
    decoder.open(location)
    os.truncate(location.root / "a.tif", 5000)
    assert code_of(lambda: decoder.plan(SPEC)) is Code.SLIDE_CHANGED


def test_another_file_than_expected_has_changed(decoder: Decoder, slide: SlideLocation) -> None:
    expected = slide.fingerprint()
    decoder.open(slide, expected=expected)
    replace(slide.root / "a.svs")
    assert code_of(lambda: decoder.open(slide, expected=expected)) is Code.SLIDE_CHANGED


def test_a_file_swapped_for_the_moment_of_opening_has_changed(
    monkeypatch: pytest.MonkeyPatch, slide: SlideLocation
) -> None:
    path, aside = slide.root / "a.svs", slide.root / "aside.svs"

    def swap(location: SlideLocation) -> Identity:
        identity = identify(location)
        path.rename(aside)
        path.write_bytes(aside.read_bytes())
        return identity

    def swap_back(identity: Identity, on_progress: Callable[[float], None]) -> str:
        aside.rename(path)
        return sha256(identity, on_progress)

    monkeypatch.setattr(reader, "identify", swap)
    monkeypatch.setattr(reader, "sha256", swap_back)

    def attempt() -> object:
        return reader.open_slide(
            slide, Decode(), mpp=None, expected=None, digest=True, on_progress=lambda _: None
        )

    assert code_of(attempt) is Code.SLIDE_CHANGED


def test_a_hanging_child_is_killed_in_time(slide: SlideLocation) -> None:
    with Decoder(Decode(timeout_seconds=0.3)) as decoder:
        decoder.open(slide)
        os.kill(decoder.pid, signal.SIGSTOP)
        assert code_of(lambda: decoder.plan(SPEC)) is Code.DECODE_TIMEOUT
        assert gone(decoder.pid)


@pytest.mark.parametrize("with_signal", [signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL])
def test_a_child_that_dies_amid_tiles_is_a_crash(slide: SlideLocation, with_signal: signal.Signals) -> None:
    with Decoder(Decode()) as decoder:
        decoder.open(slide, digest=False)
        tiles = decoder.tiles(decoder.plan(SPEC), SPEC, 1)
        next(tiles)
        os.kill(decoder.pid, with_signal)
        assert code_of(lambda: list(tiles)) is Code.DECODE_CRASH
        assert gone(decoder.pid)


def test_tiles_left_early_close_the_decoder(slide: SlideLocation) -> None:
    decoder = Decoder(Decode())
    decoder.open(slide)
    tiles = decoder.tiles(decoder.plan(SPEC), SPEC, 2)
    next(tiles)
    assert code_of(decoder.dzi) is Code.INTERNAL  # busy
    tiles.close()  # type: ignore[attr-defined]
    assert gone(decoder.pid)
    assert code_of(decoder.dzi) is Code.INTERNAL  # closed
    decoder.close()


def test_a_caller_that_fails_in_progress_closes_the_decoder(slide: SlideLocation, tmp_path: Path) -> None:
    big = tmp_path / "big.svs"
    big.write_bytes((slide.root / "a.svs").read_bytes())
    os.truncate(big, 3 << 30)  # sparse: long enough to hash that a sign of progress comes

    def stop(_: float) -> None:
        raise JobError(Code.TIME_LIMIT, "enough")

    with Decoder(Decode()) as decoder:
        location = SlideLocation(tmp_path, PurePosixPath("big.svs"))
        assert code_of(lambda: decoder.open(location, on_progress=stop)) is Code.TIME_LIMIT
        assert gone(decoder.pid)


@LINUX
def test_memory_is_limited_and_its_end_is_told(slide: SlideLocation) -> None:
    huge = TilingSpec(tile_px=30_000, min_tissue=1e-6)
    with Decoder(Decode(memory_bytes=2 << 30)) as decoder:
        decoder.open(slide)
        limits = Path(f"/proc/{decoder.pid}/limits").read_text()
        assert f"{2 << 30}" in next(
            line for line in limits.splitlines() if line.startswith("Max address space")
        )
        assert " 0 " in next(line for line in limits.splitlines() if line.startswith("Max core"))
        plan = decoder.plan(huge)
        assert code_of(lambda: list(decoder.tiles(plan, huge, 1))) is Code.SLIDE_TOO_LARGE
        assert decoder.plan(SPEC).grid.cells.any()


def test_a_child_that_cannot_start_is_a_crash() -> None:
    if sys.platform != "linux":
        pytest.skip("limits as Linux enforces them")
    assert code_of(lambda: Decoder(Decode(memory_bytes=1 << 20))) is Code.DECODE_CRASH


def test_no_process_stays_behind(slide: SlideLocation) -> None:
    with Decoder(Decode()) as decoder:
        decoder.open(slide)
        pid = decoder.pid
        assert pid in {child.pid for child in psutil.Process().children()}
    assert not psutil.pid_exists(pid)
    decoder.close()


PARENT = """
import sys, time
from pathlib import Path, PurePosixPath
from xmag.config import Decode
from xmag.slide.decoder import Decoder
decoder = Decoder(Decode())
sys.stdout.write(f"{decoder.pid}\\n")
sys.stdout.flush()
time.sleep(60)
"""


def test_the_child_ends_when_its_parent_is_killed() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not gone(child)
        parent.kill()
    deadline = time.monotonic() + 20
    while not gone(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_parent_opens_no_slide_library() -> None:
    code = "import sys, xmag.slide.decoder; sys.exit('openslide' in sys.modules or 'cv2' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def test_a_relative_root_and_any_folder_work(elsewhere: Path, slide: SlideLocation) -> None:
    (elsewhere / "json.py").write_text("raise SystemExit(3)")  # must not shadow the library
    with Decoder(Decode()) as decoder:
        assert decoder.open(SlideLocation(Path(), PurePosixPath("a.svs"))).width == 1500


def declared(side: int) -> SlideInfo:
    level = LevelInfo(side, side, 1.0)
    return SlideInfo("", Level0Px(side), Level0Px(side), None, None, "generic-tiff", (level,))


def test_a_header_that_declares_what_the_file_cannot_hold_is_corrupt() -> None:
    assert code_of(lambda: reader._check_substance(declared(60_000), 2_000)) is Code.SLIDE_CORRUPT
    reader._check_substance(declared(60_000), 4_000_000)
    reader._check_substance(declared(4_000), 2_000)
