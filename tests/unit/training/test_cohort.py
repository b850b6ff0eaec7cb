from pathlib import Path

import cv2
import numpy as np

from cli.demo_slides import shown
from training.cohort import KINDS, MOST, CohortSpec, file_name, kinds_map, make, recipes
from xmag.manifest import TASK_LABELS
from xmag.slide.synthetic.recipe import cohort
from xmag.slide.synthetic.scene import Region

TINY = CohortSpec(train={"odx": 1, "isup": 1}, test={"odx": 1}, side_um=448.0, mpp=2.0)


def ignore(_done: int, _total: int) -> None:
    pass


def test_no_seed_is_used_twice() -> None:
    spec = CohortSpec()
    train, test = ({(r.task, r.seed) for r in recipes(spec, split)} for split in ("train", "test"))
    shows = {(s.recipe.task, s.recipe.seed) for s in shown(Path(), tuple(TASK_LABELS), 100, 1000.0)}
    assert not train & test
    assert not (train | test) & shows
    assert len(train) == sum(spec.train.values())


def test_splits_stay_apart_at_any_size() -> None:
    most = CohortSpec(train={"odx": 1}, test={"odx": 1})
    first, second = recipes(most, "train")[0].seed, recipes(most, "test")[0].seed
    assert first + MOST <= second


def test_every_label_of_every_task_is_in_both_splits() -> None:
    for split in ("train", "test"):
        found = {(r.task, r.label) for r in recipes(CohortSpec(), split)}
        assert found == {(task, label) for task, labels in TASK_LABELS.items() for label in labels}


def test_slides_are_written_once_with_their_kinds(tmp_path: Path) -> None:
    wanted = recipes(TINY, "train")
    members = make(tmp_path, wanted, ignore)
    stamps = [member.path.stat().st_mtime_ns for member in members]
    members[0].path.unlink()
    again = make(tmp_path, wanted, ignore)
    assert [member.path.stat().st_mtime_ns for member in again][1:] == stamps[1:]
    assert {path.name for path in tmp_path.iterdir()} == {
        name for member in again for name in (member.path.name, member.kinds_path.name)
    }
    kinds = cv2.imread(str(members[0].kinds_path), cv2.IMREAD_GRAYSCALE)
    assert kinds is not None
    assert kinds.shape == (16, 16)
    assert kinds.max() < KINDS


def test_a_name_tells_recipes_apart() -> None:
    one = cohort("odx", [5], 0, mpp=1.0)[0]
    assert (
        len({file_name(one), file_name(cohort("odx", [5], 1, mpp=1.0)[0]), file_name(cohort("odx", [5])[0])})
        == 3
    )


def test_breast_kinds_show_the_grade_and_others_stay_as_they_are() -> None:
    regions = np.full((56, 56), Region.BREAST_SOLID, np.uint8)
    regions[:28] = Region.STROMA
    found = set()
    for recipe in cohort("odx", range(30), mpp=1.0):
        kinds = kinds_map(recipe, regions)
        assert kinds.shape == (2, 2)
        assert (kinds[0] == Region.STROMA).all()
        found.add(int(kinds[1, 0]))
    assert found == {Region.BREAST_SOLID + step for step in (0, 2, 4)}
    assert max(found) == KINDS - 1
