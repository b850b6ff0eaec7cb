from pathlib import Path

import numpy as np
import pytest

from training.cohort import CohortSpec, Member, make, recipes
from training.embed import Cut, cut_all, patch_kinds
from xmag.manifest import TilingSpec
from xmag.slide.synthetic.scene import Region


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Member]:
    spec = CohortSpec(train={"rcc": 2, "isup": 1}, test={"rcc": 1}, side_um=1000.0, mpp=2.0)
    return make(tmp_path_factory.mktemp("cohort"), recipes(spec, "train"), lambda _d, _t: None)


@pytest.fixture(scope="module")
def cuts(members: list[Member]) -> list[Cut]:
    return cut_all(members, TilingSpec(), lambda _d, _t: None)


def test_slides_come_back_in_order(members: list[Member], cuts: list[Cut]) -> None:
    again = cut_all(members[::-1], TilingSpec(), lambda _d, _t: None)[::-1]
    assert [cut.slide.sha256 for cut in again] == [cut.slide.sha256 for cut in cuts]
    assert len({cut.slide.sha256 for cut in cuts}) == len(members)
    for one, other in zip(cuts, again, strict=True):
        np.testing.assert_array_equal(one.tiles, other.tiles)


def test_each_tile_has_the_kinds_of_its_own_place(members: list[Member], cuts: list[Cut]) -> None:
    for member, cut in zip(members, cuts, strict=True):
        kinds = patch_kinds(member, cut.grid)
        assert kinds.shape == (len(cut.tiles), 16, 16)
        pale = cut.tiles.reshape(-1, 16, 14, 16, 14, 3).mean((2, 4, 5))
        glass = kinds == Region.GLASS
        assert pale[glass].mean() > 225
        assert pale[~glass].mean() < 215
        assert np.mean((pale > 232) == glass) > 0.85


def test_a_missing_slide_is_an_error(members: list[Member], tmp_path: Path) -> None:
    from xmag.errors import SlideError

    with pytest.raises(SlideError):
        cut_all([Member(members[0].recipe, tmp_path / "gone.svs")], TilingSpec(), lambda _d, _t: None)
