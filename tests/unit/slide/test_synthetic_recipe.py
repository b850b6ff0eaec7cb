"""Recipes: balance, reproducibility, and what the best reader of an `odx` slide can reach."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmag.manifest import TASK_LABELS
from xmag.slide.synthetic.recipe import (
    ODX_CEILING,
    TASKS,
    Recipe,
    cohort,
    gleason,
    odx_risk,
    odx_score,
    odx_traits,
)


def auc(score: list[float], positive: list[bool]) -> float:
    rank = np.argsort(np.argsort(score))
    hit = np.array(positive)
    return float((rank[hit].sum() - hit.sum() * (hit.sum() - 1) / 2) / (hit.sum() * (~hit).sum()))


@given(st.sampled_from(TASKS), st.integers(0, 10_000), st.integers(1, 60))
def test_runs_of_seeds_are_balanced(task: str, first: int, count: int) -> None:
    labels = TASK_LABELS[task]
    seen = Counter(recipe.label for recipe in cohort(task, range(first, first + count)))
    assert max(seen.values()) - min(seen.get(label, 0) for label in labels) <= 2
    assert sum(seen.values()) == count


@pytest.mark.parametrize("task", TASKS)
def test_whole_decks_are_exactly_balanced_and_shuffled(task: str) -> None:
    labels = TASK_LABELS[task]
    found = [recipe.label for recipe in cohort(task, range(20 * len(labels)))]
    assert set(Counter(found).values()) == {20}
    assert found != list(labels) * 20


def test_a_seed_keeps_its_label_in_any_cohort() -> None:
    alone = cohort("isup", [17], site=1, mpp=1.0)[0]
    among = {recipe.seed: recipe for recipe in cohort("isup", range(30))}[17]
    assert alone.label == among.label
    assert (alone.site, alone.mpp) == (1, 1.0)


def test_the_odx_ceiling_is_what_it_says() -> None:
    recipes = cohort("odx", range(8000))
    high = [recipe.label == "high" for recipe in recipes]
    assert auc([odx_risk(recipe) for recipe in recipes], high) == pytest.approx(ODX_CEILING, abs=0.012)


def test_no_single_odx_trait_beats_the_risk() -> None:
    recipes = cohort("odx", range(4000))
    high = [recipe.label == "high" for recipe in recipes]
    traits = [odx_traits(recipe) for recipe in recipes]
    best = auc([odx_risk(recipe) for recipe in recipes], high)
    single = [[t.mitoses for t in traits], [t.grade for t in traits], [-t.tubules for t in traits]]
    assert all(0.53 < auc(values, high) < best - 0.02 for values in single)


def test_odx_risk_is_calibrated() -> None:
    recipes = cohort("odx", range(6000))
    risk = np.array([odx_risk(recipe) for recipe in recipes])
    high = np.array([recipe.label == "high" for recipe in recipes])
    bins = np.digitize(risk, [0.25, 0.5, 0.75])
    assert all(abs(risk[bins == b].mean() - high[bins == b].mean()) < 0.04 for b in range(4))


def test_odx_score_grows_with_the_burden() -> None:
    low, high = (odx_traits(recipe) for recipe in sorted(cohort("odx", range(40)), key=odx_risk)[::39])
    same = [odx_score(traits, np.random.default_rng(3)) for traits in (low, high)]
    assert same[0] < same[1]


@pytest.mark.parametrize("label", TASK_LABELS["isup"])
def test_gleason_patterns_make_the_grade(label: str) -> None:
    seen = {gleason(Recipe("isup", label, seed)) for seed in range(60)}
    if label == "0":
        assert seen == {None}
    else:
        sums = {sum(pair) for pair in seen if pair}
        assert sums == {"1": {6}, "2": {7}, "3": {7}, "4": {8}, "5": {9, 10}}[label]


@pytest.mark.parametrize(
    "wrong",
    [{"label": "LUAD"}, {"seed": -1}, {"site": 2}, {"mpp": 0.0}, {"width_um": -1.0}, {"mpp": float("nan")}],
)
def test_impossible_recipes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|labels"):
        Recipe(**({"task": "rcc", "label": "PRCC", "seed": 0} | wrong))
