"""Tiles read straight from a file's JPEG streams are those that OpenSlide gives."""

import os
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from xmag.manifest import TilingSpec
from xmag.slide.decoder import Decoder, TilePlan
from xmag.slide.info import MppOverride, Reading
from xmag.slide.location import SlideLocation
from xmag.slide.synthetic.write import write_svs
from xmag.units import Mpp, MppXY

Rgb = NDArray[np.uint8]
SPEC = TilingSpec(tile_px=64)
CMU = Path(__file__).parents[3].parent / "shared" / "slides" / "CMU-1-Small-Region.svs"


def both(
    decoder: Decoder, reference: Decoder, location: SlideLocation, spec: TilingSpec = SPEC, mpp: float = 0
) -> tuple[TilePlan, Rgb, Rgb]:
    """The plan, which both routes share, and the tiles of the JPEG and of the OpenSlide route."""
    given = MppOverride(MppXY(Mpp(mpp), Mpp(mpp)), "a test") if mpp else None
    plans, tiles = [], []
    for each in (decoder, reference):
        each.open(location, mpp=given, digest=False)
        plans.append(each.plan(spec))
        tiles.append(np.concatenate(list(each.tiles(plans[-1], spec, 7))))
    ours, other = plans
    assert (ours.reading.route, other.reading.route) == ("jpeg-tiles", "openslide")
    assert ours.reading.level == other.reading.level
    assert np.array_equal(ours.grid.cells, other.grid.cells)
    assert np.array_equal(ours.mask, other.mask)
    assert decoder.reread == 0
    return ours, tiles[0], tiles[1]


def difference(a: Rgb, b: Rgb) -> NDArray[np.int16]:
    return np.abs(a.astype(np.int16) - b.astype(np.int16))


def halved(rgb: Rgb, down: int) -> Rgb:
    return np.asarray(
        cv2.resize(rgb, (rgb.shape[1] // down, rgb.shape[0] // down), interpolation=cv2.INTER_AREA)
    )


@pytest.fixture(scope="module")
def pyramid(stained: Rgb) -> list[Rgb]:
    """Levels 1, 2, 4, 8 and 16; sides of level 0 and 1 that no tile divides."""
    whole = stained[:1504, :1568]
    return [whole, *(halved(whole, down) for down in (2, 4, 8, 16))]


@pytest.mark.parametrize(
    ("mpp", "level", "scale"),
    [(2.0, 0, 1), (1.0, 1, 1), (0.5, 2, 1), (0.499, 2, 1), (0.3, 2, 1), (0.2525, 3, 1), (2.04, 0, 1)],
)
@pytest.mark.parametrize("rgb", [False, True])
def test_without_shrinking_pixels_are_the_same(
    decoder, reference, tmp_path, jpeg_tiff, pyramid, mpp: float, level: int, scale: int, rgb: bool
) -> None:
    file = jpeg_tiff(mpp=mpp, rgb=rgb)
    for picture in pyramid:
        file.level(picture)
    plan, ours, other = both(decoder, reference, file.write(tmp_path / "a.tif"))
    assert plan.reading == Reading("jpeg-tiles", level, scale)
    assert difference(ours, other).max() == 0


@pytest.mark.parametrize(
    ("sampling", "mean", "to_means"), [("444", 3, 1), ("422", 4, 3), ("420", 3, 1), ("rgb", 3, 1)]
)
@pytest.mark.parametrize(("mpp", "scale"), [(1.0, 2), (0.98, 2), (0.5, 4), (0.7, 2), (0.25, 8)])
def test_shrinking_by_decoding_agrees_within_the_tolerance(
    decoder, reference, tmp_path, jpeg_tiff, pyramid, sampling, mean, to_means, mpp: float, scale: int
) -> None:
    rgb = sampling == "rgb"
    file = jpeg_tiff(mpp=mpp, rgb=rgb, sampling="444" if rgb else sampling)
    file.level(pyramid[0])
    file.level(pyramid[4])
    location = file.write(tmp_path / "a.tif")
    plan, ours, other = both(decoder, reference, location)
    assert plan.reading == Reading("jpeg-tiles", 0, scale)
    assert difference(ours, other).mean() < mean
    if mpp * scale == 2:
        box = SPEC.model_copy(update={"resampling": "box"})
        _, ours, other = both(decoder, reference, location, box)
        assert difference(ours, other).mean() < to_means


@pytest.mark.parametrize("resampling", ["lanczos", "bicubic", "bilinear"])
def test_means_are_brought_nearer_to_the_filter(
    decoder, reference, tmp_path, jpeg_tiff, pyramid, resampling: str
) -> None:
    file = jpeg_tiff(mpp=1.0)
    file.level(pyramid[0])
    file.level(pyramid[4])
    location = file.write(tmp_path / "a.tif")
    _, ours, other = both(decoder, reference, location, SPEC.model_copy(update={"resampling": resampling}))
    _, means, _ = both(decoder, reference, location, SPEC.model_copy(update={"resampling": "box"}))
    near, far = (float((difference(each, other).astype(np.float64) ** 2).mean()) for each in (ours, means))
    assert near < 0.85 * far


@pytest.mark.parametrize(("order", "big"), [("<", True), (">", True), ("<", False)])
@pytest.mark.parametrize("tables", [True, False])
def test_every_kind_of_tiff_is_read(
    decoder, reference, tmp_path, jpeg_tiff, pyramid, order: str, big: bool, tables: bool
) -> None:
    file = jpeg_tiff(order=order, big=big, tables=tables)
    for picture in pyramid[2:]:
        file.level(picture)
    _, ours, other = both(decoder, reference, file.write(tmp_path / "a.tif"), mpp=2.0)
    assert difference(ours, other).max() == 0


@pytest.mark.parametrize("rgb", [False, True])
def test_the_tiff_and_not_the_stream_says_what_the_colours_are(
    decoder, reference, tmp_path, jpeg_tiff, pyramid, rgb: bool
) -> None:
    """A JFIF marker says YCbCr and an Adobe marker RGB, both against the TIFF."""
    file = jpeg_tiff(rgb=rgb, mpp=2.0, tables=False)
    streams = file.level(pyramid[2])
    file.level(pyramid[4])
    jfif, adobe = (
        b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0",
        b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\0",
    )
    for index, stream in enumerate(streams):
        streams[index] = stream[:2] + (jfif if rgb else adobe) + stream[2:]
    _, ours, other = both(decoder, reference, file.write(tmp_path / "a.tif"))
    assert difference(ours, other).max() == 0


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("fill", [0, 255])
def test_beyond_the_level_is_white_whatever_the_streams_hold_there(
    decoder, reference, tmp_path, jpeg_tiff, pyramid, scale: int, fill: int
) -> None:
    """Streams are padded with black here, and the level's sides are odd."""
    file = jpeg_tiff(mpp=2.0 / scale, sampling="444")
    inside = pyramid[0][300:1003, 300:1001]
    file.level(inside)
    file.level(halved(inside, 8))
    spec = TilingSpec(tile_px=48, resampling="box", min_tissue=0.01)
    plan, ours, other = both(decoder, reference, file.write(tmp_path / "a.tif"), spec)
    last = plan.grid.cells[:, 0] == plan.grid.columns - 1
    assert last.any()
    assert difference(ours, other)[last].max() <= (0 if scale == 1 else 3)


def test_an_aperio_slide_with_levels_cut_short_is_read(decoder, reference, tmp_path, stained) -> None:
    """OpenSlide starts between two pixels of such a level and mixes them; here a pixel is a pixel."""
    write_svs(tmp_path / "a.svs", stained[:1333, :1471], 0.5, tile=128)
    location = SlideLocation(tmp_path, PurePosixPath("a.svs"))
    plan, ours, other = both(decoder, reference, location)
    assert plan.reading == Reading("jpeg-tiles", 1, 1)
    assert difference(ours, other).max() <= 16
    assert difference(ours, other).mean() < 0.5


def test_a_slide_without_small_levels_has_the_mask_of_its_pixels(
    decoder, reference, tmp_path, jpeg_tiff, stained
) -> None:
    file = jpeg_tiff(mpp=0.25, tile=256)
    file.level(np.tile(stained, (2, 2, 1)))
    location = file.write(tmp_path / "a.tif")
    masks = []
    for each in (decoder, reference):
        each.open(location, digest=False)
        masks.append(each.plan(SPEC).mask)
    assert masks[0].any()
    assert (masks[0] != masks[1]).mean() < 0.01


@pytest.mark.skipif(not os.path.exists(CMU), reason="the real slide is not beside this checkout")
@pytest.mark.parametrize(("mpp", "mean"), [(2.0, 0.0), (1.0, 5.0), (0.499, 6.0)])
def test_the_real_slide_agrees(decoder, reference, mpp: float, mean: float) -> None:
    """It stores RGB and says so in the TIFF alone: wrong colours would differ by tens."""
    given = MppOverride(MppXY(Mpp(mpp), Mpp(mpp)), "a test")
    for each in (decoder, reference):
        each.open(SlideLocation(CMU.parent, PurePosixPath(CMU.name)), mpp=given, digest=False)
    plan = reference.plan(SPEC)
    ours, other = (np.concatenate(list(each.tiles(plan, SPEC, 7))) for each in (decoder, reference))
    assert difference(ours, other).mean() <= mean
