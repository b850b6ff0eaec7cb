"""Renders: determinism, counterfactual pairs, the same tissue at any mpp, and H&E that looks like tissue."""

import hashlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmag.manifest import TASK_LABELS
from xmag.slide.synthetic.distractors import with_border, with_pen
from xmag.slide.synthetic.recipe import TASKS, Recipe, cohort, gleason, odx_traits
from xmag.slide.synthetic.render import FIELD_UM, Rendered, render
from xmag.slide.synthetic.scene import Region

SMALL = {"width_um": 448.0, "height_um": 384.0, "mpp": 2.0}
EVERY = [(task, label) for task in TASKS for label in TASK_LABELS[task]]


def digest(rendered: Rendered) -> str:
    return hashlib.sha256(rendered.rgb.tobytes() + rendered.regions.tobytes()).hexdigest()


@pytest.mark.parametrize(("task", "label"), EVERY)
def test_every_class_renders_and_repeats(task: str, label: str) -> None:
    recipe = Recipe(task, label, 5, **SMALL)
    first = render(recipe)
    assert first.rgb.shape == (192, 224, 3)
    assert first.regions.shape == (192, 224)
    assert first.label == label
    assert digest(first) == digest(render(recipe))


def test_another_process_with_other_threads_draws_the_same_bytes() -> None:
    program = (
        "import cv2, hashlib; cv2.setNumThreads(1)\n"
        "from xmag.slide.synthetic.recipe import Recipe\n"
        "from xmag.slide.synthetic.render import render\n"
        "r = render(Recipe('isup', '4', 11, width_um=900.0, height_um=700.0, mpp=1.0))\n"
        "print(hashlib.sha256(r.rgb.tobytes() + r.regions.tobytes()).hexdigest())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == digest(
        render(Recipe("isup", "4", 11, width_um=900.0, height_um=700.0, mpp=1.0))
    )


def test_import_leaves_opencv_threads_alone() -> None:
    program = (
        "import cv2; before = cv2.getNumThreads()\n"
        "import xmag.slide.synthetic.write; assert cv2.getNumThreads() == before"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("task", TASKS)
def test_other_site_is_the_same_tissue_with_another_look(task: str) -> None:
    label = TASK_LABELS[task][1]
    here, there = (render(Recipe(task, label, 8, site=site, **SMALL)) for site in (0, 1))
    assert np.array_equal(here.regions, there.regions)
    difference = np.abs(here.rgb.astype(int) - there.rgb.astype(int))
    assert difference[here.regions > 0].mean() > 10
    grey = [cv2.cvtColor(each.rgb, cv2.COLOR_RGB2GRAY).astype(float).ravel() for each in (here, there)]
    assert np.corrcoef(*grey)[0, 1] > 0.85


def test_other_seed_is_other_tissue() -> None:
    one, two = (render(Recipe("rcc", "PRCC", seed, **SMALL)) for seed in (1, 2))
    assert (one.regions != two.regions).mean() > 0.05


@pytest.mark.parametrize("task", TASKS)
def test_other_mpp_is_the_same_tissue(task: str) -> None:
    label = TASK_LABELS[task][0]
    fine = render(Recipe(task, label, 4, width_um=512.0, height_um=512.0, mpp=0.5))
    coarse = render(Recipe(task, label, 4, width_um=512.0, height_um=512.0, mpp=2.0))
    shrunk = cv2.resize(fine.rgb, (256, 256), interpolation=cv2.INTER_AREA)
    grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).astype(float).ravel() for each in (shrunk, coarse.rgb)]
    assert np.corrcoef(*grey)[0, 1] > 0.93
    assert (fine.regions[2::4, 2::4] == coarse.regions).mean() > 0.98


@pytest.mark.parametrize("mpp", [0.9, 1.1, 1.3])
def test_an_mpp_that_does_not_divide_the_size_is_the_same_tissue(mpp: float) -> None:
    whole, other = (
        render(Recipe("rcc", "ccRCC", 4, width_um=700.0, height_um=500.0, mpp=each)).rgb
        for each in (1.0, mpp)
    )
    small = [cv2.resize(each, (175, 125), interpolation=cv2.INTER_AREA) for each in (whole, other)]
    grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).astype(float).ravel() for each in small]
    assert np.corrcoef(*grey)[0, 1] > 0.95


@pytest.mark.parametrize(("task", "label"), EVERY)
def test_tissue_is_coloured_and_glass_is_grey(task: str, label: str) -> None:
    made = render(Recipe(task, label, 3, width_um=1024.0, height_um=1024.0, mpp=4.0))
    colour = made.rgb.max(axis=2).astype(int) - made.rgb.min(axis=2)
    glass = cv2.erode((made.regions == 0).astype(np.uint8), np.ones((5, 5))) > 0
    assert 0.3 < (made.regions > 0).mean() < 0.97
    assert (colour[made.regions > 0] >= 20).mean() > 0.5
    assert made.rgb[glass].min() > 200
    assert (colour[glass] >= 20).mean() < 0.01


@pytest.mark.parametrize("label", ["1", "2", "3", "4", "5"])
def test_primary_pattern_covers_more_than_the_secondary(label: str) -> None:
    for seed in range(3):
        recipe = Recipe("isup", label, seed, width_um=1000.0, height_um=1000.0, mpp=8.0)
        pair = gleason(recipe)
        assert pair is not None
        regions = render(recipe).regions
        area = {grade: int((regions == grade).sum()) for grade in (3, 4, 5)}
        assert {grade for grade in area if area[grade]} == set(pair)
        assert area[pair[0]] >= area[pair[1]]


def test_tubules_follow_the_odx_trait() -> None:
    shares, traits = [], []
    for recipe in cohort("odx", range(12), width_um=800.0, height_um=800.0, mpp=8.0):
        regions = render(recipe).regions
        tubules, solid = ((regions == part).sum() for part in (Region.BREAST_TUBULES, Region.BREAST_SOLID))
        shares.append(tubules / (tubules + solid))
        traits.append(odx_traits(recipe).tubules)
    assert np.array_equal(np.argsort(shares), np.argsort(traits))


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(EVERY),
    st.floats(20, 500),
    st.floats(20, 500),
    st.sampled_from([0.2527, 0.3, 0.5, 0.77, 1.0, 2.0, 3.3, 10.0]),
    st.integers(0, 2**31),
)
def test_any_size_and_mpp(what: tuple[str, str], width: float, height: float, mpp: float, seed: int) -> None:
    recipe = Recipe(*what, seed, width_um=width, height_um=height, mpp=mpp)
    made = render(recipe)
    assert made.rgb.shape[:2] == made.regions.shape == recipe.shape
    assert abs(recipe.shape[1] * mpp - width) <= mpp


def test_large_slides_are_mosaics_of_different_fields() -> None:
    made = render(Recipe("nsclc", "LUSC", 6, width_um=2 * FIELD_UM, height_um=FIELD_UM, mpp=8.0))
    left, right = np.hsplit(made.regions, 2)
    assert made.rgb.shape == (224, 448, 3)
    assert (left != right).mean() > 0.05
    assert {int(value) for value in np.unique(made.regions)} <= {Region.GLASS, Region.STROMA, Region.LUSC}


def test_pen_and_border_cover_what_they_should() -> None:
    glass = np.full((200, 300, 3), 240, np.uint8)
    inked = with_pen(glass, 10.0, "blue", 1)
    changed = (inked != glass).any(axis=2)
    assert 0.03 < changed.mean() < 0.2
    assert changed.any(axis=0).all()
    framed = with_border(glass, 10.0, 50.0)
    assert (framed[:5] == 0).all()
    assert (framed[5:-5, 5:-5] == 240).all()
    assert (glass == 240).all()
