"""Files: OpenSlide must read what was written, as the vendor, mpp and levels that were meant."""

from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xmag.slide.synthetic.recipe import Recipe
from xmag.slide.synthetic.render import FIELD_UM, render
from xmag.slide.synthetic.write import write_slide, write_svs, write_tiff

WRITERS = {"aperio": write_svs, "generic-tiff": write_tiff}


def picture(height: int = 300, width: int = 420) -> NDArray[np.uint8]:
    """Smooth, so that JPEG keeps it nearly exactly."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 200 / width + 30, y * 200 / height + 30, 120 + 0 * x], axis=2).astype(np.uint8)


@pytest.fixture(params=["aperio", "generic-tiff"])
def vendor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def path_of(folder: Path, vendor: str) -> Path:
    return folder / ("a.svs" if vendor == "aperio" else "a.tiff")


def test_pixels_vendor_mpp_and_levels(tmp_path: Path, vendor: str) -> None:
    path, rgb = path_of(tmp_path, vendor), picture()
    WRITERS[vendor](path, rgb, 0.2527, levels=(1, 2, 8))
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == vendor
        assert slide.level_dimensions == ((420, 300), (210, 150), (52, 37))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.2527, rel=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.2527, rel=1e-6)
        for level, down in enumerate((1, 2, 8)):
            size = slide.level_dimensions[level]
            found = np.asarray(slide.read_region((0, 0), level, size).convert("RGB")).astype(int)
            meant = cv2.resize(rgb[: size[1] * down, : size[0] * down], size, interpolation=cv2.INTER_AREA)
            assert np.abs(found - meant).mean() < 2.5


def test_missing_mpp_stays_missing(tmp_path: Path, vendor: str) -> None:
    path = path_of(tmp_path, vendor)
    WRITERS[vendor](path, picture(), 0.5, mpp_in_file=False)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == vendor
        assert not [name for name in slide.properties if "mpp" in name.lower()]


def test_svs_looks_like_aperio(tmp_path: Path) -> None:
    write_svs(tmp_path / "a.svs", picture(), 0.499)
    with openslide.OpenSlide(tmp_path / "a.svs") as slide:
        assert slide.properties["aperio.MPP"] == "0.499"
        assert slide.properties["aperio.AppMag"] == "20"
        assert list(slide.associated_images) == ["thumbnail"]


def test_tiff_keeps_each_axis(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", picture(), (0.25, 0.3333))
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        found = [float(slide.properties[f"openslide.mpp-{axis}"]) for axis in "xy"]
    assert found == pytest.approx([0.25, 0.3333], rel=1e-6)


def test_svs_refuses_two_mpp(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both axes"):
        write_svs(tmp_path / "a.svs", picture(), (0.25, 0.3))


@pytest.mark.parametrize(
    ("levels", "tile"),
    [((), 256), ((2, 4), 256), ((1, 4, 4), 256), ((1, 1024), 256), ((1, 4), 250), ((1, 4), 0)],
)
def test_impossible_pyramids_are_refused_before_writing(
    tmp_path: Path, vendor: str, levels: tuple[int, ...], tile: int
) -> None:
    with pytest.raises(ValueError, match=r"level|tile"):
        WRITERS[vendor](path_of(tmp_path, vendor), picture(), 0.5, levels=levels, tile=tile)
    assert list(tmp_path.iterdir()) == []


def test_single_level(tmp_path: Path, vendor: str) -> None:
    path = path_of(tmp_path, vendor)
    WRITERS[vendor](path, picture(), 0.5, levels=(1,))
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((420, 300),)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(20, 700),
    width=st.integers(20, 700),
    mpp=st.floats(0.05, 20),
    smaller=st.sets(st.integers(2, 20), max_size=4),
    tile=st.sampled_from([16, 64, 240, 256, 512]),
)
def test_any_size_mpp_levels_and_tile(
    tmp_path: Path, vendor: str, height: int, width: int, mpp: float, smaller: set[int], tile: int
) -> None:
    levels = (1, *sorted(smaller))
    path = path_of(tmp_path, vendor)
    WRITERS[vendor](path, picture(height, width), mpp, levels=levels, tile=tile)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == vendor
        assert slide.level_dimensions == tuple((width // down, height // down) for down in levels)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(mpp, rel=1e-6)
        slide.read_region((0, 0), slide.level_count - 1, (10, 10))


@pytest.mark.parametrize("name", ["a.svs", "a.tiff"])
def test_same_recipe_same_file(tmp_path: Path, name: str) -> None:
    recipe = Recipe("rcc", "ccRCC", 9, width_um=600.0, height_um=500.0, mpp=1.0)
    (tmp_path / "other").mkdir()
    one, two = write_slide(tmp_path / name, recipe), write_slide(tmp_path / "other" / name, recipe)
    assert one.read_bytes() == two.read_bytes()


def test_a_slide_of_several_rows_of_fields_is_its_render(tmp_path: Path) -> None:
    recipe = Recipe("nsclc", "LUAD", 2, width_um=1.4 * FIELD_UM, height_um=2.6 * FIELD_UM, mpp=5.0)
    path = write_slide(tmp_path / "a.svs", recipe)
    rgb = render(recipe).rgb
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == rgb.shape[1::-1]
        assert float(slide.properties["openslide.mpp-x"]) == 5.0
        found = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")).astype(int)
        small = np.asarray(slide.read_region((0, 0), 2, slide.level_dimensions[2]).convert("RGB")).astype(int)
    assert np.abs(found - rgb).mean() < 8
    height, width = (size // 16 * 16 for size in rgb.shape[:2])
    meant = cv2.resize(rgb[:height, :width], (width // 16, height // 16), interpolation=cv2.INTER_AREA)
    assert np.abs(small - meant).mean() < 8


def test_other_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.svs"):
        write_slide(tmp_path / "a.png", Recipe("nsclc", "LUAD", 2))
