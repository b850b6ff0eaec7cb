import numpy as np
import pytest

from tests.unit.nn.test_routes import bf16, openvino, sharp_head, without_openvino
from tests.unit.nn.test_runtime import engine
from xmag.errors import Code, ReleaseError
from xmag.nn import scoring


def bags(count=5):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((3 + 7 * index, 24)).astype(np.float32) for index in range(count)]


def predicted(subject, head):
    return [subject.predict(head, bag).probabilities for bag in bags()]


def test_fp32_scores_are_the_predictions(releases) -> None:
    subject = engine(releases, precision="fp32")
    head = subject.head(releases.head(releases.encoder()))
    found = subject.score(head, bags())
    assert all(row.shape == (3,) and row.dtype == np.float64 for row in found)
    assert np.allclose(found, predicted(subject, head), atol=1e-6)


@bf16
@pytest.mark.parametrize("runtime", [pytest.param("openvino", marks=openvino), "torch"])
def test_bf16_scores_are_near_the_predictions(releases, monkeypatch, runtime) -> None:
    if runtime == "torch":
        without_openvino(monkeypatch)
    subject = engine(releases, precision="bf16")
    head = subject.head(releases.head(releases.encoder()))
    found = subject.score(head, bags())
    difference = np.abs(np.array(found) - predicted(subject, head)).max()
    assert 1e-7 < difference <= 0.01
    assert all(row.sum() == pytest.approx(1, abs=1e-12) for row in found)


@bf16
def test_a_head_that_differs_at_bf16_is_scored_at_fp32(releases) -> None:
    subject = engine(releases, precision="auto")
    encoder = subject.encoder(releases.encoder())
    head = subject.head(sharp_head(releases, encoder))
    assert np.allclose(subject.score(head, bags()), predicted(subject, head), atol=1e-6)


def test_a_scorer_is_made_once_and_leaves_with_its_head(releases, monkeypatch) -> None:
    made = []
    monkeypatch.setattr("xmag.nn.runtime.LOADED", 1)
    real = scoring.scorer
    monkeypatch.setattr("xmag.nn.runtime.scorer", lambda *args: made.append(1) or real(*args))
    subject = engine(releases)
    encoder = releases.encoder()
    head = subject.head(releases.head(encoder))
    subject.score(head, bags())
    assert subject.score(head, []) == []
    assert len(made) == 1
    subject.encoder(encoder)
    assert subject._scorers == {}


def test_bags_of_another_encoder_are_refused(releases) -> None:
    subject = engine(releases)
    head = subject.head(releases.head(releases.encoder()))
    with pytest.raises(ReleaseError) as caught:
        subject.score(head, [np.zeros((4, 25), np.float32)])
    assert caught.value.code == Code.MODEL_INTEGRITY
