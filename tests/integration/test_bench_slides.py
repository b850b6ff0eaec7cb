"""The slide maker: levels that show the same picture, as many tiles as asked for, repeated JPEG tiles."""

from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile

from benchmarks import slides
from benchmarks.reading import compare_one
from xmag.config import Decode

PLAN = slides.Plan(9_000, 8_000, 0.5, (1, 4, 16), tiles=20, patch_px=1024)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slides.made(PLAN, tmp_path_factory.mktemp("slides"))


def whole(handle: openslide.OpenSlide, level: int) -> np.ndarray:
    size = handle.level_dimensions[level]
    return np.asarray(handle.read_region((0, 0), level, size).convert("RGB"))


def test_openslide_sees_an_aperio_pyramid(slide):
    with openslide.OpenSlide(slide) as handle:
        assert handle.properties["openslide.vendor"] == "aperio"
        assert float(handle.properties["openslide.mpp-x"]) == 0.5
        assert handle.level_dimensions == ((9000, 8000), (2250, 2000), (562, 500))


def test_levels_show_the_same_picture(slide):
    with openslide.OpenSlide(slide) as handle:
        full, middle, small = (whole(handle, level) for level in range(3))
    shrunk = cv2.resize(full, (2250, 2000), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - middle).mean() < 3
    size = 562 * 16 // 4, 500 * 16 // 4
    again = cv2.resize(middle[: size[1], : size[0]], (562, 500), interpolation=cv2.INTER_AREA)
    assert np.abs(again.astype(int) - small).mean() < 3
    assert full.std() > 20


def test_tiles_are_repeated_bytes_with_common_tables(slide):
    with tifffile.TiffFile(slide) as file:
        assert [page.is_tiled for page in file.pages] == [True, False, True, True]
        assert len(file.series[0].levels) == 3
        page = file.pages.first
        assert page.jpegtables
        assert len(set(page.dataoffsets)) == len(page.dataoffsets) == 36 * 32
        places = [page.dataoffsets[0], page.dataoffsets[4]]  # one cell further along
        assert page.databytecounts[0] == page.databytecounts[4]
    data, size = slide.read_bytes(), page.databytecounts[0]
    assert data[places[0] : places[0] + size] == data[places[1] : places[1] + size]


def test_the_grid_has_about_the_tiles_of_the_plan(slide):
    found = compare_one("made", slide, 1, 0, lambda _: None, Decode())
    assert abs(found["tiles"] - PLAN.tiles) <= 3
    assert found["same_grid"]
    assert found["routes"]["ours"]["agreement"]["psnr_db"] is None or (
        found["routes"]["ours"]["agreement"]["psnr_db"] > 30
    )


def test_a_plan_is_made_once_and_named_by_what_it_is(slide):
    before = slide.stat().st_mtime_ns
    assert slides.made(PLAN, slide.parent).stat().st_mtime_ns == before
    assert slides.base_40x(grow=2).name != slides.base_40x().name
    assert slides.base_40x(134, 4).width == slides.base_40x(134).width * 2


def test_copies_differ_in_bytes_alone(slide, tmp_path):
    one, other = slides.copies(slide, tmp_path, 2)
    assert one.read_bytes() != other.read_bytes()
    assert one.read_bytes()[: slide.stat().st_size] == slide.read_bytes()


def test_tissue_grows_with_the_plan():
    areas = [slides.layout(slides.base_40x(134, times)).sum() for times in (1, 4)]
    assert 3.5 < areas[1] / areas[0] < 4.5
