"""Tiles are exact for any mpp, any levels, and the same every time."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from xmag.config import Decode
from xmag.errors import Code, SlideError
from xmag.manifest import TilingSpec
from xmag.slide.decoder import Decoder, TilePlan
from xmag.slide.grid import TileGrid, plan_grid
from xmag.slide.info import MppOverride
from xmag.slide.location import SlideLocation
from xmag.slide.resample import RESAMPLING
from xmag.units import Mpp, MppXY

Rgb = NDArray[np.uint8]
SPEC = TilingSpec(tile_px=64)
CMU = Path(__file__).parents[3].parent / "shared" / "slides" / "CMU-1-Small-Region.svs"


def reference(rgb: Rgb, grid: TileGrid, resampling: str) -> Rgb:
    """Tiles cut from the full-resolution image by one resize each, white outside."""
    pad = 600
    width, height = rgb.shape[1], rgb.shape[0]
    canvas = Image.new("RGB", (width + 2 * pad, height + 2 * pad), (255, 255, 255))
    canvas.paste(Image.fromarray(rgb), (pad, pad))
    size = (grid.tile_px, grid.tile_px)
    boxes = grid.corners() + pad
    return np.stack(
        [np.asarray(canvas.resize(size, RESAMPLING[resampling], box=tuple(box))) for box in boxes]
    )


def read(decoder: Decoder, plan: TilePlan, spec: TilingSpec, batch: int = 7) -> Rgb:
    return np.concatenate(list(decoder.tiles(plan, spec, batch)))


def difference(a: Rgb, b: Rgb) -> NDArray[np.int16]:
    return np.abs(a.astype(np.int16) - b.astype(np.int16))


@pytest.mark.parametrize("resampling", ["lanczos", "bicubic", "bilinear", "box"])
@pytest.mark.parametrize("mpp", [(0.5, 0.5), (0.30, 0.30), (0.499, 0.499), (0.4, 0.7), (2.9, 2.9)])
def test_single_level_tiles_equal_the_full_image(
    decoder: Decoder, write, picture: Rgb, mpp: tuple[float, float], resampling: str
) -> None:
    spec = SPEC.model_copy(update={"resampling": resampling})
    info = decoder.open(write("a.tif", picture, mpp))
    plan = decoder.plan(spec)
    assert info.mpp is not None
    assert info.mpp.x == pytest.approx(mpp[0], rel=1e-6)
    assert plan.grid.span == pytest.approx((64 * 2.0 / mpp[0], 64 * 2.0 / mpp[1]), rel=1e-6)
    assert len(plan.grid) > 10
    error = difference(read(decoder, plan, spec), reference(picture, plan.grid, resampling))
    assert error.mean() < 0.05
    assert error.max() <= 1 or mpp[0] > spec.target_mpp  # enlarged, the nearest of two pixels may differ


@pytest.mark.parametrize("levels", [(1, 4, 16), (1, 2), (1, 3, 9), (1, 16)])
@pytest.mark.parametrize("mpp", [0.5, 0.501, 0.499, 0.25, 0.30])
def test_levels_change_tiles_little(
    decoder: Decoder, write, picture: Rgb, levels: Sequence[int], mpp: float
) -> None:
    info = decoder.open(write("a.tif", picture, (mpp, mpp), levels))
    assert [round(each.downsample) for each in info.levels] == list(levels)
    plan = decoder.plan(SPEC)
    error = difference(read(decoder, plan, SPEC), reference(picture, plan.grid, "lanczos"))
    assert error.mean() < 0.5
    inside = (plan.grid.corners()[:, 2:] < np.array(picture.shape[1::-1]) - 16).all(axis=1)
    assert error[inside].max() <= 8


def test_a_level_shifted_by_one_pixel_would_be_seen(decoder: Decoder, write, picture: Rgb) -> None:
    decoder.open(write("a.tif", picture, (0.5, 0.5), (1, 4)))
    plan = decoder.plan(SPEC)
    shifted = np.roll(picture, 4, axis=1)
    assert difference(read(decoder, plan, SPEC), reference(shifted, plan.grid, "lanczos")).max() > 8


def test_outside_the_slide_is_white(decoder: Decoder, write, picture: Rgb) -> None:
    decoder.open(write("a.svs", picture))
    plan = decoder.plan(SPEC)
    tiles = read(decoder, plan, SPEC)
    last = plan.grid.cells[:, 0] == plan.grid.columns - 1
    outside = int((plan.grid.columns * plan.grid.span[0] - picture.shape[1]) / 4)
    assert last.any()
    assert (tiles[last][:, :, -outside + 4 :] == 255).all()


def test_batches_keep_the_order_and_the_pixels(decoder: Decoder, write, picture: Rgb) -> None:
    decoder.open(write("a.svs", picture))
    plan = decoder.plan(SPEC)
    batches = list(decoder.tiles(plan, SPEC, 9))
    assert [len(batch) for batch in batches[:-1]] == [9] * (len(batches) - 1)
    assert sum(map(len, batches)) == len(plan.grid)
    assert np.array_equal(np.concatenate(batches), read(decoder, plan, SPEC, 1))


def test_same_slide_twice_is_the_same_bytes(write, picture: Rgb) -> None:
    location = write("a.svs", picture, (0.499, 0.499), (1, 4))
    seen = []
    for _ in range(2):
        with Decoder(Decode()) as decoder:
            info = decoder.open(location)
            plan = decoder.plan(SPEC)
            tiles = read(decoder, plan, SPEC)
            seen.append((info, plan.mask.tobytes(), plan.grid.cells.tobytes(), tiles.tobytes()))
    assert seen[0] == seen[1]


def test_the_plan_is_the_pure_grid_of_the_mask(decoder: Decoder, write, picture: Rgb) -> None:
    info = decoder.open(write("a.svs", picture, (0.3, 0.3), (1, 4)))
    plan = decoder.plan(SPEC)
    assert info.mpp is not None
    grid = plan_grid(plan.mask, info.width, info.height, info.mpp, SPEC)
    assert np.array_equal(grid.cells, plan.grid.cells)
    assert np.array_equal(grid.tissue, plan.grid.tissue)
    assert (grid.span, grid.columns, grid.rows) == (plan.grid.span, plan.grid.columns, plan.grid.rows)


@pytest.mark.parametrize("levels", [(1,), (1, 4, 16)])
def test_the_mask_lies_where_the_tissue_is(
    decoder: Decoder, write, picture: Rgb, levels: Sequence[int]
) -> None:
    decoder.open(write("a.tif", picture, (0.5, 0.5), levels))
    mask = decoder.plan(SPEC).mask
    truth = np.zeros(picture.shape[:2], np.float32)
    truth[150:1000, 200:] = 1
    truth = cv2.resize(truth, mask.shape[::-1], interpolation=cv2.INTER_AREA) > 0.5
    assert (mask == truth).mean() > 0.93


def test_mpp_missing_ends_the_plan_but_not_the_view(decoder: Decoder, write, picture: Rgb) -> None:
    info = decoder.open(write("a.svs", picture, None))
    assert (info.mpp, info.mpp_source) == (None, None)
    with pytest.raises(SlideError) as caught:
        decoder.plan(SPEC)
    assert caught.value.code is Code.MPP_MISSING
    assert decoder.thumbnail(100)


@pytest.mark.parametrize("mpp", [(0.001, 0.001), (300.0, 300.0), (0.5, 25.0)])
def test_absurd_mpp_in_the_file_is_missing(
    decoder: Decoder, write, picture: Rgb, mpp: tuple[float, float]
) -> None:
    decoder.open(write("a.tif", picture, mpp))
    with pytest.raises(SlideError) as caught:
        decoder.plan(SPEC)
    assert caught.value.code is Code.MPP_MISSING


@pytest.mark.parametrize("x", [0.0, -0.5, float("nan"), float("inf"), 1000.0])
def test_absurd_mpp_on_the_request_is_missing(decoder: Decoder, write, picture: Rgb, x: float) -> None:
    decoder.open(write("a.tif", picture), mpp=MppOverride(MppXY(Mpp(x), Mpp(0.5)), "typed in"))
    with pytest.raises(SlideError) as caught:
        decoder.plan(SPEC)
    assert caught.value.code is Code.MPP_MISSING


def test_a_given_mpp_wins_over_the_file(decoder: Decoder, write, picture: Rgb) -> None:
    given = MppXY(Mpp(0.25), Mpp(0.26))
    info = decoder.open(write("a.svs", picture), mpp=MppOverride(given, "scanner log"))
    assert (info.mpp, info.mpp_source) == (given, "request")
    assert decoder.plan(SPEC).grid.span == (64 * 2.0 / 0.25, 64 * 2.0 / 0.26)


def test_a_slide_of_glass_has_no_tissue(decoder: Decoder, write) -> None:
    decoder.open(write("a.svs", np.full((600, 600, 3), 240, np.uint8)))
    with pytest.raises(SlideError) as caught:
        decoder.plan(SPEC)
    assert caught.value.code is Code.NO_TISSUE


def test_more_tiles_than_the_limit_are_too_many(write, picture: Rgb) -> None:
    with Decoder(Decode(max_tiles=3)) as decoder:
        decoder.open(write("a.svs", picture))
        with pytest.raises(SlideError) as caught:
            decoder.plan(SPEC)
    assert caught.value.code is Code.SLIDE_TOO_LARGE


@pytest.mark.skipif(not os.path.exists(CMU), reason="the real slide is not beside this checkout")
def test_the_real_slide(decoder: Decoder) -> None:
    spec = TilingSpec()
    info = decoder.open(SlideLocation(CMU.parent, PurePosixPath(CMU.name)))
    assert (info.width, info.height, info.vendor, info.mpp_source) == (2220, 2967, "aperio", "file")
    assert info.mpp == MppXY(Mpp(0.499), Mpp(0.499))
    assert info.sha256 == "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"
    plan = decoder.plan(spec)
    assert 0.3 < plan.mask.mean() < 0.5
    tiles = read(decoder, plan, spec)
    assert tiles.shape == (len(plan.grid), 224, 224, 3)
    assert len(plan.grid) == 6
    assert (tiles.std(axis=(1, 2, 3)) > 20).all()
