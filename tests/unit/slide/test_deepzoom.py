"""What a viewer gets, and what it never gets."""

import io
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from xmag.config import Decode
from xmag.errors import Code, RequestError
from xmag.slide import reader, resample
from xmag.slide.decoder import Decoder
from xmag.slide.deepzoom import thumbnail

Rgb = NDArray[np.uint8]


def image(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_thumbnail_is_the_whole_slide(decoder: Decoder, write, picture: Rgb) -> None:
    decoder.open(write("a.svs", picture, (0.5, 0.5), (1, 4)))
    small = image(decoder.thumbnail(300))
    assert (small.format, small.size) == ("JPEG", (300, 220))
    expected = Image.fromarray(picture).resize((300, 220), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(small, np.int16) - np.asarray(expected, np.int16)).mean() < 3  # JPEG alone: 2.1


@pytest.mark.parametrize(("asked", "got"), [(0, 1), (-5, 1), (100_000, 1500)])
def test_thumbnail_sizes_are_bounded(decoder: Decoder, write, picture: Rgb, asked: int, got: int) -> None:
    decoder.open(write("a.svs", picture))
    assert max(image(decoder.thumbnail(asked)).size) == got


def test_tiles_tessellate_the_slide(decoder: Decoder, write, picture: Rgb) -> None:
    decoder.open(write("a.svs", picture, (0.5, 0.5), (1, 4)), digest=False)
    descriptor = ElementTree.fromstring(decoder.dzi())
    assert (descriptor.get("TileSize"), descriptor.get("Overlap"), descriptor.get("Format")) == (
        "254",
        "1",
        "jpeg",
    )
    level = (max(picture.shape) - 1).bit_length()
    whole = np.zeros_like(picture)
    for row in range(-(-picture.shape[0] // 254)):
        for column in range(-(-picture.shape[1] // 254)):
            tile = np.asarray(image(decoder.dzi_tile(level, column, row)))
            y, x = max(254 * row - 1, 0), max(254 * column - 1, 0)
            whole[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    assert np.abs(whole.astype(np.int16) - picture).mean() < 2
    assert image(decoder.dzi_tile(0, 0, 0)).size == (1, 1)


@pytest.mark.parametrize("place", [(99, 0, 0), (-1, 0, 0), (11, 6, 0), (11, 0, 5), (11, -1, 0)])
def test_tiles_outside_are_not_found(
    decoder: Decoder, write, picture: Rgb, place: tuple[int, int, int]
) -> None:
    decoder.open(write("a.svs", picture))
    with pytest.raises(RequestError) as caught:
        decoder.dzi_tile(*place)
    assert caught.value.code is Code.NOT_FOUND


def test_pictures_carry_no_text_of_the_slide(decoder: Decoder, write, picture: Rgb) -> None:
    decoder.open(write("a.svs", picture))
    for data in (decoder.thumbnail(200), decoder.dzi_tile(5, 0, 0)):
        assert b"Doe" not in data
        assert not image(data).info.keys() - {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi"}


def test_a_slide_without_low_levels_is_shrunk_in_blocks(decoder: Decoder, write) -> None:
    flat = np.full((4300, 4300, 3), (230, 150, 190), np.uint8)
    flat[:, 2150:] = 244
    decoder.open(write("a.tif", flat), digest=False)
    assert np.abs(np.asarray(image(decoder.dzi_tile(0, 0, 0))).astype(int) - (237, 197, 217)).max() < 4
    assert np.abs(np.asarray(image(decoder.thumbnail(1))).astype(int) - (237, 197, 217)).max() < 4
    tile = np.asarray(image(decoder.dzi_tile(7, 0, 0))).astype(int)
    assert tile.shape == (68, 68, 3)
    assert np.abs(tile[:, :26] - (230, 150, 190)).max() < 8
    assert np.abs(tile[:, 42:] - 244).max() < 8


def test_one_pixel_of_a_large_slide_is_read_in_blocks(monkeypatch: pytest.MonkeyPatch, write) -> None:
    location = write("a.tif", np.full((600, 9000, 3), (230, 150, 190), np.uint8))
    read = reader._read
    sides: list[int] = []

    def watch(slide: reader.Slide, level: int, left: int, top: int, width: int, height: int) -> object:
        sides.extend((width, height))
        return read(slide, level, left, top, width, height)

    monkeypatch.setattr(reader, "_read", watch)
    slide = reader.open_slide(
        location, Decode(), mpp=None, expected=None, digest=False, on_progress=lambda _: None
    )
    with slide.resources:
        small = np.asarray(image(thumbnail(slide, 16, lambda _: None)))
    assert max(sides) < 2 * resample.MAX_BLOCK
    assert np.abs(small.astype(int) - (230, 150, 190)).max() < 4
