"""Colours that are tissue and colours that are not."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from xmag.manifest import TissueSpec
from xmag.slide.tissue import tissue_mask

SPEC = TissueSpec()
Rgb = NDArray[np.uint8]

TISSUE = {
    "eosin": (230, 150, 190),
    "pale eosin": (243, 219, 232),
    "haematoxylin": (110, 85, 160),
    "blue haematoxylin": (95, 92, 165),
    "dense nuclei": (75, 45, 105),
    "blood": (205, 95, 100),
    "washed-out": (228, 205, 220),
    "haemorrhage": (170, 45, 60),
}
NOT_TISSUE = {
    "white": (255, 255, 255),
    "grey": (190, 190, 190),
    "dark grey": (110, 112, 111),
    "warm glass": (244, 241, 230),
    "green ink": (40, 140, 80),
    "pale green ink": (190, 225, 205),
    "blue ink": (30, 50, 170),
    "pale blue ink": (195, 205, 245),
    "deep blue ink": (12, 14, 140),
    "plain blue ink": (50, 50, 200),
    "red ink": (205, 30, 40),
    "cyan ink": (60, 170, 190),
    "black ink": (35, 33, 40),
    "black border": (0, 0, 0),
    "yellow glue": (225, 205, 120),
}


def on_glass(colour: tuple[int, int, int], glass: int = 244, side: int = 60) -> Rgb:
    rgb = np.full((120, 120, 3), glass, np.uint8)
    rgb[30 : 30 + side, 30 : 30 + side] = colour
    return rgb


def as_jpeg(rgb: Rgb, quality: int) -> Rgb:
    noisy = rgb + np.random.default_rng(1).normal(0, 2, rgb.shape)
    _, data = cv2.imencode(
        ".jpg", np.clip(noisy, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return cv2.imdecode(data, cv2.IMREAD_COLOR).astype(np.uint8)


@pytest.mark.parametrize("quality", [50, 90])
@pytest.mark.parametrize("colour", TISSUE.values(), ids=TISSUE.keys())
def test_stained_tissue_is_kept_through_jpeg(colour: tuple[int, int, int], quality: int) -> None:
    mask = tissue_mask(as_jpeg(on_glass(colour), quality), 16.0, SPEC)
    assert mask[33:87, 33:87].mean() > 0.95
    assert mask.sum() < 66 * 66


@pytest.mark.parametrize("quality", [50, 90])
@pytest.mark.parametrize("colour", NOT_TISSUE.values(), ids=NOT_TISSUE.keys())
def test_glass_ink_and_border_are_rejected_through_jpeg(colour: tuple[int, int, int], quality: int) -> None:
    assert not tissue_mask(as_jpeg(on_glass(colour), quality), 16.0, SPEC).any()


def test_blurred_tissue_is_kept() -> None:
    rgb = cv2.GaussianBlur(on_glass(TISSUE["eosin"]), (0, 0), 6).astype(np.uint8)
    assert tissue_mask(rgb, 16.0, SPEC)[35:85, 35:85].all()


def test_ink_beside_tissue_leaves_the_tissue() -> None:
    rgb = on_glass(TISSUE["eosin"])
    rgb[30:90, 70:90] = NOT_TISSUE["green ink"]
    mask = tissue_mask(rgb, 16.0, SPEC)
    assert mask[32:88, 32:68].all()
    assert not mask[32:88, 73:].any()


def test_dust_goes_and_small_holes_close() -> None:
    rgb = on_glass(TISSUE["eosin"])
    rgb[5:15, 5:15] = TISSUE["eosin"]  # 25,600 µm² of dust
    rgb[55:63, 55:63] = 244  # 16,384 µm² of hole
    mask = tissue_mask(rgb, 16.0, SPEC)
    assert not mask[:25, :25].any()
    assert mask[50:70, 50:70].all()


def test_large_pieces_and_large_holes_stay() -> None:
    rgb = on_glass(TISSUE["eosin"])
    rgb[2:20, 2:20] = TISSUE["eosin"]
    rgb[45:75, 45:75] = 244
    mask = tissue_mask(rgb, 16.0, SPEC)
    assert mask[4:18, 4:18].all()
    assert not mask[50:70, 50:70].any()


def test_saturation_of_the_release_decides() -> None:
    rgb = on_glass(TISSUE["pale eosin"])
    assert not tissue_mask(rgb, 16.0, SPEC.model_copy(update={"saturation": 40})).any()


def test_areas_are_in_micrometres() -> None:
    small = on_glass(TISSUE["eosin"], side=14)  # 14 px: 50,176 µm² at 16 mpp, 12,544 µm² at 8 mpp
    assert tissue_mask(small, 16.0, SPEC).any()
    assert not tissue_mask(small, 8.0, SPEC).any()


def test_same_pixels_same_mask() -> None:
    rgb = as_jpeg(on_glass(TISSUE["washed-out"]), 30)
    first = tissue_mask(rgb, 16.0, SPEC)
    assert np.array_equal(first, tissue_mask(rgb.copy(), 16.0, SPEC))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 3)])
def test_tiny_slides_have_a_mask_too(shape: tuple[int, int]) -> None:
    rgb = np.full((*shape, 3), TISSUE["eosin"], np.uint8)
    everything = TissueSpec(min_area_um2=0)
    assert tissue_mask(rgb, 16.0, everything).shape == shape
    assert tissue_mask(rgb, 16.0, everything).all()
