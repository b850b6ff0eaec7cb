"""What a broken, strange or huge file does to the reading of JPEG tiles, and what it costs."""

import os
import struct
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xmag.config import Decode
from xmag.errors import Code, SlideError
from xmag.manifest import TilingSpec
from xmag.slide import jpeg_tiles, reader, tiles
from xmag.slide.decoder import Decoder
from xmag.slide.jpeg_stream import StreamError, Streams
from xmag.slide.location import SlideLocation
from xmag.slide.tiff_levels import jpeg_level

Rgb = NDArray[np.uint8]
SPEC = TilingSpec(tile_px=64)
LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts in /proc")


def read(decoder: Decoder, location: SlideLocation) -> Rgb:
    decoder.open(location, digest=False)
    return np.concatenate(list(decoder.tiles(decoder.plan(SPEC), SPEC, 7)))


def opened(location: SlideLocation) -> reader.Slide:
    return reader.open_slide(
        location, Decode(), mpp=None, expected=None, digest=False, on_progress=lambda _: None
    )


def level_of(path: Path, size: tuple[int, int]) -> object:
    fd = os.open(path, os.O_RDONLY)
    try:
        return jpeg_level(fd, *size)
    finally:
        os.close(fd)


@pytest.fixture
def file(jpeg_tiff, stained: Rgb):
    """A slide at 2.0 mpp, so that no tile is resampled, with a small level for the mask."""
    made = jpeg_tiff(mpp=2.0)
    made.level(stained[:832, :832])
    made.level(np.ascontiguousarray(stained[:832:4, :832:4]))
    return made


def test_each_stream_that_tiles_touch_is_decoded_once(
    monkeypatch: pytest.MonkeyPatch, file, tmp_path: Path
) -> None:
    seen: Counter[int] = Counter()
    stream = jpeg_tiles.JpegTiles._stream

    def watch(self: jpeg_tiles.JpegTiles, index: int) -> bytes:
        seen[index] += 1
        return stream(self, index)

    monkeypatch.setattr(jpeg_tiles.JpegTiles, "_stream", watch)
    with closing(opened(file.write(tmp_path / "a.tif"))) as slide:
        grid, _ = tiles.plan(slide, SPEC, Decode(), lambda _: None)
        list(tiles.read_tiles(slide, grid, SPEC, 5, lambda _: None))
    touched = {(y * 64 // 128) * 7 + x * 64 // 128 for x, y in grid.cells.tolist()}
    assert seen == Counter(touched)


def test_a_whole_slide_gives_signs_of_life(monkeypatch, jpeg_tiff, tmp_path: Path, stained: Rgb) -> None:
    """A block of 4096 px of the level at most lies between two: storage may take milliseconds a stream."""
    file = jpeg_tiff(mpp=0.25)
    file.level(np.tile(stained, (4, 4, 1)))
    read, between = jpeg_tiles.JpegTiles._stream, [0]

    def count(self: jpeg_tiles.JpegTiles, index: int) -> bytes:
        between[-1] += 1
        return read(self, index)

    monkeypatch.setattr(jpeg_tiles.JpegTiles, "_stream", count)
    with closing(opened(file.write(tmp_path / "a.tif"))) as slide:
        tiles.plan(slide, SPEC, Decode(), lambda _: between.append(0))
    assert sum(between) == 50 * 50
    assert max(between) <= (4096 // 128 + 2) ** 2


@pytest.mark.parametrize(
    ("damage", "corrupt"), [("cut", True), ("zeros", True), ("size", True), ("empty", False)]
)
def test_a_broken_stream_is_left_to_openslide(
    decoder: Decoder, reference: Decoder, file, tmp_path: Path, damage: str, corrupt: bool
) -> None:
    whole = read(decoder, file.write(tmp_path / "whole.tif"))
    assert decoder.reread == 0
    streams = file.levels[0][1]
    good = streams[24]
    streams[24] = {
        "cut": good[: len(good) // 2],
        "zeros": good[:60] + bytes(len(good) - 60),
        "size": good.replace(b"\x08\x00\x80\x00\x80", b"\x08\xff\xff\xff\xff", 1),
        "empty": b"",
    }[damage]
    location = file.write(tmp_path / "broken.tif")
    if corrupt:
        for each in (decoder, reference):
            with pytest.raises(SlideError, match="damaged") as caught:
                read(each, location)
            assert caught.value.code is Code.SLIDE_CORRUPT
    else:
        ours = read(decoder, location)
        assert decoder.reread == 4
        assert np.array_equal(ours, read(reference, location))
        assert (ours != whole).any(axis=(1, 2, 3)).sum() <= 4
    assert np.array_equal(read(decoder, SlideLocation(tmp_path, PurePosixPath("whole.tif"))), whole)
    assert decoder.reread == 0


@pytest.mark.parametrize("change", [{277: 1}, {259: 33005}, {259: 5}, {284: 2}, {258: (8, 8, 4)}, {322: 120}])
def test_other_levels_are_openslides(file, tmp_path: Path, change: dict[int, object]) -> None:
    assert level_of(tmp_path / file.write(tmp_path / "a.tif").relative, (832, 832)) is not None
    file.levels[0][0].update(change)
    file.write(tmp_path / "b.tif")
    assert level_of(tmp_path / "b.tif", (832, 832)) is None


def test_a_level_that_two_directories_could_be_is_openslides(file, tmp_path: Path) -> None:
    file.add(832, 832, file.levels[0][1])
    file.write(tmp_path / "a.tif")
    assert level_of(tmp_path / "a.tif", (832, 832)) is None


def test_a_classic_big_endian_tiff_is_understood(jpeg_tiff, tmp_path: Path) -> None:
    file = jpeg_tiff(order=">")
    file.level(np.zeros((200, 300, 3), np.uint8))
    file.write(tmp_path / "a.tif")
    level = level_of(tmp_path / "a.tif", (300, 200))
    assert level is not None
    assert (level.across, level.down) == (3, 2)


@pytest.mark.parametrize("compression", ["jpeg2000", "zlib"])
def test_other_compressions_and_grey_are_openslides(tmp_path: Path, stained: Rgb, compression: str) -> None:
    for name, picture, how in (
        ("a", stained[:300, :300], compression),
        ("b", stained[:300, :300, 0], "jpeg"),
    ):
        kind = "rgb" if picture.ndim == 3 else "minisblack"
        tifffile.imwrite(
            tmp_path / name, picture, tile=(64, 64), photometric=kind, compression=how, metadata=None
        )
        assert level_of(tmp_path / name, (300, 300)) is None


def test_the_reference_route_can_be_asked_for(reference: Decoder, file, tmp_path: Path) -> None:
    reference.open(file.write(tmp_path / "a.tif"), digest=False)
    reading = reference.plan(SPEC).reading
    assert (reading.route, reading.level, reading.scale) == ("openslide", 0, 1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_directory_is_a_level_or_none(file, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.tif"
    if not path.exists():
        file.write(path)
        with tifffile.TiffFile(path) as tiff:
            entries = [tag.offset for tag in tiff.pages[0].tags]
            (tmp_path / "entries").write_bytes(np.array(entries, np.int64).tobytes())
    entries = np.fromfile(tmp_path / "entries", np.int64).tolist()
    mutant = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(entries)) + data.draw(st.sampled_from([0, 2, 4, 8]))
        struct.pack_into(
            "<I", mutant, at, data.draw(st.sampled_from([0, 1, 3, 255, 65536, 2**31, 2**32 - 1]))
        )
    (tmp_path / "b.tif").write_bytes(mutant[: data.draw(st.sampled_from([len(mutant), len(mutant) // 2]))])
    level_of(tmp_path / "b.tif", (832, 832))


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=80), at=st.integers(0, 60))
def test_any_bytes_are_a_stream_or_none(data: bytes, at: int) -> None:
    good = simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8))
    streams = Streams(b"", rgb=False, width=16, height=16)
    for each in (data, good[:at] + data + good[at:], b"\xff\xd8" + data):
        try:
            whole = streams.whole(each)
        except StreamError:
            continue
        assert simplejpeg.decode_jpeg_header(whole, strict=False)[:2] == (16, 16)


def status(pid: int, name: str) -> int:
    line = next(
        each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith(name)
    )
    return int(line.split()[1])


@LINUX
def test_nothing_grows_from_slide_to_slide(file, tmp_path: Path) -> None:
    locations = [file.write(tmp_path / f"{index}.tif") for index in range(2)]
    seen = []
    with Decoder(Decode()) as decoder:
        for index in range(24):
            read(decoder, locations[index % 2])
            seen.append((len(os.listdir(f"/proc/{decoder.pid}/fd")), status(decoder.pid, "VmRSS")))
    assert len({fds for fds, _ in seen[2:]}) == 1
    assert seen[-1][1] - seen[8][1] < 4 * 1024  # kB


@LINUX
@pytest.mark.parametrize("route", ["auto", "openslide"])
def test_memory_does_not_grow_with_the_slide(jpeg_tiff, tmp_path: Path, stained: Rgb, route: str) -> None:
    """Two rows of tissue across a slide of 200,000 x 200,000 px; equal streams lie in the file once."""
    peaks, grown = [], []
    for side in (25_600, 204_800):
        file = jpeg_tiff(mpp=0.25, tile=512)
        glass, tissue = (
            file.stream(each) for each in (np.full((512, 512, 3), 244, np.uint8), stained[500:1012, 500:1012])
        )
        for down in (1, 4, 16, 64):
            across = -(-side // down // 512)
            rows = 2 if down == 4 else 1
            streams = [tissue] * (rows * across) + [glass] * (across * (across - rows))
            file.add(side // down, side // down, streams)
        with Decoder(Decode(route=route)) as decoder:
            location = file.write(tmp_path / "a.tif")
            os.truncate(tmp_path / "a.tif", 8_000_000)  # blank: a file too small for its pixels is refused
            decoder.open(location, digest=False)
            spec = TilingSpec(tissue=SPEC.tissue.model_copy(update={"min_area_um2": 0.0}))
            plan = decoder.plan(spec)
            planned, grid = status(decoder.pid, "VmHWM") // 1024, plan.grid
            assert len(grid) > 50
            some = slice(120 if route == "auto" else 24)
            part = replace(plan, grid=replace(grid, cells=grid.cells[some], tissue=grid.tissue[some]))
            for _ in decoder.tiles(part, spec, 16):
                pass
            peaks.append(status(decoder.pid, "VmHWM") // 1024)
            grown.append(peaks[-1] - planned)
    assert peaks[1] < 500  # nearly all of it is the mask's, 26 bytes for each 16 µm square
    assert max(grown) < 64
