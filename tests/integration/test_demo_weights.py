"""The demo weights as `make demo` makes them: whole, honest about what they are, and better than chance."""

from pathlib import Path, PurePosixPath

import pytest

from cli.local import signing_key
from training.cohort import recipes
from training.demo import DemoSpec, build_demo_releases, known_releases, slides
from training.publish import NOTICE
from xmag.analyze import Request, analyze
from xmag.config import Settings
from xmag.manifest import TASK_LABELS, HeadManifest, Task
from xmag.nn.runtime import Engine
from xmag.registry import CARD, public_key_text, read_manifest
from xmag.slide.location import SlideLocation

REPOSITORY = Path(__file__).resolve().parents[2]
LEAST_AUC = {"nsclc": 0.9, "rcc": 0.9, "isup": 0.8, "odx": 0.58}
"""Macro AUC on held-out slides, well below what was measured; `odx` cannot pass 0.78."""

pytestmark = pytest.mark.timeout(1500)


def ignore(_step: str, _done: int, _total: int) -> None:
    pass


@pytest.fixture(scope="module")
def data() -> Path:
    """A data folder with demo releases, kept between runs; that of `make demo` if it has them."""
    for name in (".xmag", ".xmag/test-demo"):
        folder = REPOSITORY / name
        if (folder / "signing.key").exists() and known_releases(
            folder, public_key_text(signing_key(folder)), DemoSpec()
        ):
            return folder
    build_demo_releases(folder, signing_key(folder), ignore)
    return folder


@pytest.fixture(scope="module")
def heads(data: Path) -> dict[Task, str]:
    return build_demo_releases(data, signing_key(data), ignore)


@pytest.fixture(scope="module")
def manifests(data: Path, heads: dict[Task, str]) -> dict[str, HeadManifest]:
    found = {task: read_manifest(data / "releases", digest) for task, digest in heads.items()}
    assert all(isinstance(manifest, HeadManifest) for manifest in found.values())
    return found  # type: ignore[return-value]


def test_there_is_a_head_for_every_task_on_one_encoder(manifests: dict[str, HeadManifest]) -> None:
    assert set(manifests) == set(TASK_LABELS)
    assert len({manifest.encoder for manifest in manifests.values()}) == 1


@pytest.mark.parametrize("task", TASK_LABELS)
def test_a_head_beats_chance_on_slides_it_never_saw(task: str, manifests: dict[str, HeadManifest]) -> None:
    measured = manifests[task].metrics["synthetic held-out"]
    auc = measured["macro_auc"]
    assert auc["value"] >= LEAST_AUC[task], measured
    assert auc["low"] > 0.5, measured
    assert measured["accuracy"]["value"] > 1 / len(TASK_LABELS[task]), measured
    assert measured["n"] == sum(1 for r in recipes(DemoSpec().cohort, "test") if r.task == task)


def test_serving_reads_held_out_slides_as_well_as_the_manifest_says(
    data: Path, heads: dict[Task, str], tmp_path: Path
) -> None:
    """Through the path that serves, from the file, with an empty store."""
    _, held_out = slides(data, DemoSpec().cohort, ignore)
    keys = (public_key_text(signing_key(data)),)
    settings = Settings(data=tmp_path, trusted_keys=keys)
    engine = Engine(data / "releases", keys, settings.worker)
    chosen = [member for task in ("nsclc", "rcc") for member in held_out if member.recipe.task == task][::6]
    right = 0
    for member in chosen:
        location = SlideLocation(member.path.parent, PurePosixPath(member.path.name))
        request = Request(location, {member.recipe.task: heads[member.recipe.task]})
        (said,) = analyze(request, engine, settings, lambda _: None).predictions
        assert said.notice == NOTICE
        assert said.permitted_use == "demo"
        right += said.label == member.recipe.label
    assert right / len(chosen) > 0.6


def test_every_release_says_what_it_is(
    data: Path, manifests: dict[str, HeadManifest], heads: dict[Task, str]
) -> None:
    encoder = next(iter(manifests.values())).encoder
    for digest in (*heads.values(), encoder):
        manifest = read_manifest(data / "releases", digest)
        assert manifest.licence.permitted_use == "demo"
        assert manifest.licence.notice == NOTICE
        card = (data / "releases" / digest / CARD).read_text()
        assert NOTICE in card
        assert "synthetic" in card


def test_a_second_build_trains_nothing(data: Path, heads: dict[Task, str]) -> None:
    steps: list[str] = []
    again = build_demo_releases(data, signing_key(data), lambda step, _d, _t: steps.append(step))
    assert again == heads
    assert steps == []


def test_a_damaged_or_foreign_record_is_not_trusted(data: Path, heads: dict[Task, str]) -> None:
    trusted = public_key_text(signing_key(data))
    other = DemoSpec().model_copy(update={"mil": DemoSpec().mil.model_copy(update={"seed": 1})})
    assert known_releases(data, trusted, DemoSpec()) == heads
    assert known_releases(data, trusted, other) == {}
    assert known_releases(data / "nowhere", trusted, DemoSpec()) == {}
