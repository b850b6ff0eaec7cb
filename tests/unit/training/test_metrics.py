import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training.metrics import BootstrapSpec, accuracy, interval, macro_auc, measure


def scores(targets: np.ndarray, classes: int, signal: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(targets), classes)) + signal * np.eye(classes)[targets]
    powers = np.exp(logits)
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_macro_auc_is_scikit_learns(classes: int) -> None:
    targets = np.random.default_rng(1).permutation(np.arange(60) % classes)
    found = np.round(scores(targets, classes, 1.0), 1)  # rounding makes ties
    expected = np.mean([roc_auc_score(targets == c, found[:, c]) for c in range(classes)])
    assert macro_auc(targets, found) == pytest.approx(expected)


def test_a_perfect_and_a_blind_reader() -> None:
    targets = np.arange(30) % 3
    assert macro_auc(targets, np.eye(3)[targets]) == 1.0
    assert accuracy(targets, np.eye(3)[targets]) == 1.0
    assert macro_auc(targets, np.full((30, 3), 1 / 3)) == 0.5


def test_the_interval_holds_the_value_and_shrinks_with_more_slides() -> None:
    widths = []
    for count in (40, 400):
        targets = np.arange(count) % 2
        found = scores(targets, 2, 1.0)
        low, high = interval(macro_auc, targets, found, BootstrapSpec(repeats=200))
        assert low <= macro_auc(targets, found) <= high
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]


def test_a_small_cohort_with_rare_classes_still_has_an_interval() -> None:
    targets = np.array([0, 0, 0, 0, 1, 2])
    report = measure(targets, scores(targets, 3, 1.0), BootstrapSpec(repeats=50))
    assert report["n"] == 6
    assert 0 <= report["macro_auc"]["low"] <= report["macro_auc"]["high"] <= 1


def test_measuring_twice_says_the_same() -> None:
    targets = np.arange(20) % 2
    found = scores(targets, 2, 0.5)
    assert measure(targets, found, BootstrapSpec(repeats=20)) == measure(
        targets, found, BootstrapSpec(repeats=20)
    )
