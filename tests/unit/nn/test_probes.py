import numpy as np

from xmag.manifest import TilingSpec
from xmag.nn.probes import calibration_tiles, check_tiles

SMALL = TilingSpec(tile_px=28)


def test_probes_are_tissue_and_the_same_each_time() -> None:
    check, calibration = check_tiles(SMALL), calibration_tiles(SMALL)
    assert (check.shape, calibration.shape) == ((16, 28, 28, 3), (32, 28, 28, 3))
    for tiles, again in ((check, check_tiles(SMALL)), (calibration, calibration_tiles(SMALL))):
        assert tiles.dtype == np.uint8
        assert np.array_equal(tiles, again)
        red, green, blue = tiles.reshape(-1, 3).mean(0)
        assert green < min(red, blue)
        assert tiles.std() > 20


def test_no_tile_is_calibrated_on_and_checked() -> None:
    check = {tile.tobytes() for tile in check_tiles(SMALL)}
    assert len(check) == 16
    assert check.isdisjoint(tile.tobytes() for tile in calibration_tiles(SMALL))


def test_a_caller_may_write_into_its_probes() -> None:
    check_tiles(SMALL)[:] = 0
    assert check_tiles(SMALL).any()
