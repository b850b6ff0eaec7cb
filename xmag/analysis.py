"""What an analysis says: plain values that any program may read; `xmag.analyze` makes them."""

from dataclasses import dataclass
from typing import Any, Literal

from xmag.slide.info import SlideInfo

Stage = Literal["open", "mask", "encode", "head", "write"]
Outcome = Literal["predicted", "abstained", "out_of_distribution", "qc_failed", "not_applicable"]


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total``: per cent (open, mask), tiles (encode), heads (head), else steps."""

    stage: Stage
    done: int
    total: int


@dataclass(frozen=True)
class Prediction:
    """One task's answer; ``notice`` and ``permitted_use`` hold what its encoder and its head ask for."""

    task: str
    outcome: Outcome
    label: str | None
    probabilities: dict[str, float]
    release: str
    notice: str
    licence: str
    permitted_use: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Analysis:
    """What became of a slide.

    Attributes:
        tiles: of the first task's encoder; `provenance` has the count of each encoder.
        overlays: task -> SHA-256 of the overlay file in the store.
        embeddings: encoder digest -> key in the store.
    """

    slide: SlideInfo
    tiles: int
    predictions: tuple[Prediction, ...]
    overlays: dict[str, str]
    embeddings: dict[str, str]
    provenance: dict[str, Any]
    notice: str


def join(*sentences: str) -> str:
    """Those that are not empty, each once: what several licences ask to be shown."""
    return "; ".join(dict.fromkeys(filter(None, sentences)))


def to_json(analysis: Analysis) -> dict[str, Any]:
    """The object that ``xmag analyze --json`` prints and a result's document holds."""
    slide = analysis.slide
    return {
        "slide": {
            "sha256": slide.sha256,
            "width": slide.width,
            "height": slide.height,
            "mpp": mpp_json(slide),
            "mpp_source": slide.mpp_source,
            "vendor": slide.vendor,
        },
        "tiles": analysis.tiles,
        "predictions": [_prediction_json(prediction) for prediction in analysis.predictions],
        "provenance": analysis.provenance,
        "notice": analysis.notice,
    }


def mpp_json(slide: SlideInfo) -> dict[str, float] | None:
    """``{"x": .., "y": ..}`` in micrometres for each level-0 px."""
    return None if slide.mpp is None else {"x": slide.mpp.x, "y": slide.mpp.y}


def _prediction_json(prediction: Prediction) -> dict[str, Any]:
    return {
        "task": prediction.task,
        "outcome": prediction.outcome,
        "label": prediction.label,
        "probabilities": prediction.probabilities,
        "release": prediction.release,
        "notice": prediction.notice,
        "licence": {"name": prediction.licence, "permitted_use": prediction.permitted_use},
        "reasons": list(prediction.reasons),
    }
