"""Geometry of the grid for any mask, any slide and any mpp."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from xmag.manifest import TilingSpec
from xmag.slide.grid import plan_grid, tissue_shares
from xmag.units import Mpp, MppXY

Mask = NDArray[np.bool_]
masks = arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))
mpps = st.builds(lambda x, y: MppXY(Mpp(x), Mpp(y)), st.floats(0.1, 8.0), st.floats(0.1, 8.0))
sides = st.integers(200, 30_000)
specs = st.builds(TilingSpec, min_tissue=st.floats(0.001, 1.0), tile_px=st.sampled_from([224, 256, 512]))


def shares_by_hand(mask: Mask, width: int, height: int, span: tuple[float, float]) -> NDArray[np.float64]:
    """Overlap of every mask pixel with every tile, one axis at a time."""

    def overlaps(length: int, pixels: int, step: float, tiles: int) -> NDArray[np.float64]:
        edges = np.arange(pixels + 1) * length / pixels
        low = np.arange(tiles)[:, None] * step
        return np.clip(np.minimum(low + step, edges[1:]) - np.maximum(low, edges[:-1]), 0, None)

    rows, columns = tissue_shares(mask, width, height, span).shape
    down = overlaps(height, mask.shape[0], span[1], rows)
    across = overlaps(width, mask.shape[1], span[0], columns)
    return down @ mask @ across.T / (span[0] * span[1])


@settings(deadline=None)
@given(masks, sides, sides, mpps, specs)
def test_every_tile_with_enough_tissue_is_kept_and_no_other(
    mask: Mask, width: int, height: int, mpp: MppXY, spec: TilingSpec
) -> None:
    grid = plan_grid(mask, width, height, mpp, spec)
    by_hand = shares_by_hand(mask, width, height, grid.span)
    kept = np.zeros(by_hand.shape, bool)
    kept[grid.cells[:, 1], grid.cells[:, 0]] = True
    assert kept[by_hand >= spec.min_tissue + 1e-9].all()
    assert not kept[by_hand < spec.min_tissue - 1e-9].any()
    assert np.allclose(grid.tissue, by_hand[grid.cells[:, 1], grid.cells[:, 0]], atol=1e-6)


@settings(deadline=None)
@given(masks, sides, sides, mpps, specs)
def test_the_full_grid_holds_all_tissue_once(
    mask: Mask, width: int, height: int, mpp: MppXY, spec: TilingSpec
) -> None:
    grid = plan_grid(mask, width, height, mpp, spec)
    shares = tissue_shares(mask, width, height, grid.span)
    area = shares.sum() * grid.span[0] * grid.span[1]
    assert np.isclose(area, mask.mean() * width * height, rtol=1e-7, atol=1e-3)
    assert shares.shape == (grid.rows, grid.columns)


@settings(deadline=None)
@given(masks, sides, sides, mpps, specs)
def test_every_pixel_of_the_mask_lies_in_exactly_one_cell(
    mask: Mask, width: int, height: int, mpp: MppXY, spec: TilingSpec
) -> None:
    grid = plan_grid(mask, width, height, mpp, spec)
    centre_x = (np.arange(mask.shape[1]) + 0.5) * width / mask.shape[1]
    centre_y = (np.arange(mask.shape[0]) + 0.5) * height / mask.shape[0]
    for centre, step, cells in ((centre_x, grid.span[0], grid.columns), (centre_y, grid.span[1], grid.rows)):
        low, high = np.arange(cells) * step, np.arange(1, cells + 1) * step
        inside = (low[:, None] <= centre) & (centre < high[:, None])
        assert (inside.sum(axis=0) == 1).all()


@settings(deadline=None)
@given(masks, sides, sides, mpps, specs)
def test_coordinates_round_trip_and_tiles_touch_exactly(
    mask: Mask, width: int, height: int, mpp: MppXY, spec: TilingSpec
) -> None:
    grid = plan_grid(mask, width, height, mpp, spec)
    corners = grid.corners()
    assert corners.shape == (len(grid), 4)
    assert np.array_equal(np.rint(corners[:, :2] / grid.span).astype(np.int32), grid.cells)
    assert np.allclose((corners[:, 2:] - corners[:, :2]) * [mpp.x, mpp.y], spec.tile_px * spec.target_mpp)
    starts = {
        (column, row): corner for (column, row), corner in zip(grid.cells.tolist(), corners, strict=True)
    }
    for (column, row), corner in starts.items():
        if (right := starts.get((column + 1, row))) is not None:
            assert corner[2] == right[0]


@settings(deadline=None)
@given(masks, sides, sides, mpps, specs)
def test_order_is_row_major_and_cells_lie_on_the_slide(
    mask: Mask, width: int, height: int, mpp: MppXY, spec: TilingSpec
) -> None:
    grid = plan_grid(mask, width, height, mpp, spec)
    index = grid.cells[:, 1].astype(np.int64) * grid.columns + grid.cells[:, 0]
    assert (np.diff(index) > 0).all()
    assert (grid.corners()[:, :2] < [width, height]).all()


def test_tiles_that_fit_the_slide_leave_no_sliver() -> None:
    grid = plan_grid(np.ones((28, 56), bool), 4 * 896, 2 * 896, MppXY(Mpp(0.5), Mpp(0.5)), TilingSpec())
    assert (grid.columns, grid.rows, len(grid)) == (4, 2, 8)
    assert (grid.tissue == 1).all()


def test_no_tissue_gives_an_empty_grid() -> None:
    grid = plan_grid(np.zeros((5, 5), bool), 4000, 4000, MppXY(Mpp(0.25), Mpp(0.25)), TilingSpec())
    assert len(grid) == 0
    assert grid.corners().shape == (0, 4)
