import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xmag.errors import Code, RequestError
from xmag.heatmap import Overlay, diverging, picture_size, render_png, sequential, tile_colours
from xmag.slide.grid import TileGrid


def overlay(columns, rows, span, width, height, keep=None, seed=0) -> Overlay:
    cells = np.array([(c, r) for r in range(rows) for c in range(columns)], np.int32)
    cells = cells if keep is None else cells[keep]
    rng = np.random.default_rng(seed)
    attention = rng.random(len(cells), dtype=np.float32)
    evidence = rng.standard_normal((len(cells), 3)).astype(np.float32)
    grid = TileGrid(cells, np.ones(len(cells), np.float32), span, 224, columns, rows)
    return Overlay(grid, width, height, {"rcc": attention}, {"rcc": evidence})


def picture(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


sides = st.tuples(st.integers(1, 12), st.floats(150, 900), st.floats(0.05, 1.0))


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(200, 700), st.sampled_from([None, 0, 2]), st.data())
def test_the_pixel_at_a_tiles_centre_has_its_colour_and_glass_is_clear(x, y, max_px, index, data):
    (columns, span_x, part_x), (rows, span_y, part_y) = x, y
    width, height = (
        round((n - 1 + part) * s) for n, s, part in ((columns, span_x, part_x), (rows, span_y, part_y))
    )
    width, height = max(width, 1), max(height, 1)
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=columns * rows, max_size=columns * rows)))
    keep[0] = True
    subject = overlay(columns, rows, (span_x, span_y), width, height, keep)
    image = picture(render_png(subject, "rcc", index, max_px=max_px))
    assert image.shape[1::-1] == picture_size(subject, max_px)
    colours = tile_colours(subject, "rcc", index)
    where = {tuple(cell): i for i, cell in enumerate(subject.grid.cells.tolist())}
    for row in range(rows):
        for column in range(columns):
            centre_x = (column * span_x + min((column + 1) * span_x, width)) / 2
            centre_y = (row * span_y + min((row + 1) * span_y, height)) / 2
            pixel_x, pixel_y = centre_x / width * image.shape[1], centre_y / height * image.shape[0]
            if min(span_x, width - column * span_x) * image.shape[1] < 2 * width:
                continue  # narrower than two pixels: its centre need not lie in a pixel of its own
            if min(span_y, height - row * span_y) * image.shape[0] < 2 * height:
                continue
            pixel = image[int(pixel_y), int(pixel_x)]
            tile = where.get((column, row))
            assert pixel.tolist() == ([0, 0, 0, 0] if tile is None else [*colours[tile], 255])


def test_borders_lie_where_the_tiles_meet():
    subject = overlay(4, 2, (256.0, 256.0), 1024, 512)
    image = picture(render_png(subject, "rcc", None, max_px=1024))
    colours = tile_colours(subject, "rcc", None)
    for column in range(4):
        block = image[:256, column * 256 : (column + 1) * 256, :3]
        assert (block == colours[column]).all()


def test_attention_is_a_share_of_the_greatest():
    subject = overlay(3, 1, (100.0, 100.0), 300, 100)
    subject.attention["rcc"][:] = [0.0, 0.1, 0.2]
    assert tile_colours(subject, "rcc", None).tolist() == sequential()[[0, 128, 255]].tolist()


def test_evidence_is_symmetric_about_white():
    subject = overlay(4, 1, (100.0, 100.0), 400, 100)
    subject.evidence["rcc"][:] = 0
    subject.evidence["rcc"][:3, 1] = [-2.0, 0.0, 1.0]
    found = tile_colours(subject, "rcc", 1).tolist()
    assert found == diverging()[[0, 127, 190, 127]].tolist()
    assert tile_colours(subject, "rcc", 0).tolist() == [[247, 247, 247]] * 4


def test_lightness_of_the_sequential_map_only_grows():
    lightness = cv2.cvtColor(sequential()[None], cv2.COLOR_RGB2LAB)[0, :, 0].astype(int)
    assert (np.diff(lightness) >= -1).all()
    assert lightness[-1] - lightness[0] > 150


def test_over_a_thumbnail_glass_shows_the_thumbnail():
    subject = overlay(2, 1, (100.0, 100.0), 200, 100, keep=np.array([True, False]))
    out = io.BytesIO()
    Image.new("RGB", (64, 32), (10, 200, 30)).save(out, "PNG")
    image = picture(render_png(subject, "rcc", None, max_px=200, thumbnail=out.getvalue()))
    assert image.shape == (100, 200, 3)
    assert (image[:, 100:] == [10, 200, 30]).all()
    blended = (np.array([10, 200, 30]) + tile_colours(subject, "rcc", None)[0]) / 2
    assert np.abs(image[:, :100].astype(float) - blended).max() <= 0.5


def test_the_same_overlay_gives_the_same_bytes():
    subject = overlay(5, 5, (99.5, 101.2), 480, 500)
    assert render_png(subject, "rcc", 1) == render_png(subject, "rcc", 1)


@pytest.mark.parametrize(("task", "index"), [("isup", None), ("rcc", 3), ("rcc", -1)])
def test_what_the_overlay_does_not_hold(task, index):
    with pytest.raises(RequestError) as caught:
        render_png(overlay(2, 2, (10.0, 10.0), 20, 20), task, index)
    assert caught.value.code == Code.NOT_FOUND
