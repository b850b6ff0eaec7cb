"""The one path from a slide to predictions; the worker, the command line and training all take it.

    open -> mask -> encode -> head -> write

Heads that read the same encoder share one encoding. Files are written here; the caller writes the row.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import xmag
from xmag.analysis import Analysis, Prediction, Progress, join, mpp_json, to_json
from xmag.bag import Bag, Group, Work, find_bag, get_bag
from xmag.config import Settings
from xmag.errors import Code, ReleaseError
from xmag.flights import Flights
from xmag.heatmap import Overlay
from xmag.manifest import TASK_LABELS, Licence
from xmag.nn.bundle import Encoder, Head
from xmag.nn.runtime import Engine, HeadOutput
from xmag.slide.decoder import Decoder
from xmag.slide.decoders import Decoders
from xmag.slide.info import MppOverride, SlideInfo
from xmag.slide.location import Fingerprint, SlideLocation
from xmag.store import StoredBag, put_overlay
from xmag.watch import Watch

__all__ = ["Analysis", "Prediction", "Progress", "Request", "analyze", "to_json"]

STRICTNESS = ("demo", "research", "clinical")
"""Of permitted uses, from the narrowest."""


@dataclass(frozen=True)
class Request:
    """A slide and the head release to use for each task.

    Attributes:
        expected: the file as it was registered.
        known: what an earlier analysis found in that same file; with it a slide whose bags are all in the
            store is not opened.
    """

    location: SlideLocation
    heads: dict[str, str]
    mpp: MppOverride | None = None
    expected: Fingerprint | None = None
    known: SlideInfo | None = None


def analyze(
    request: Request,
    engine: Engine,
    settings: Settings,
    on_progress: Callable[[Progress], None],
    *,
    decoders: Decoders | None = None,
    flights: Flights | None = None,
    urgent: bool = False,
) -> Analysis:
    """Read a slide with every asked head.

    A bag already in the store is not decoded or encoded again, and one that another thread is encoding is
    waited for.

    Args:
        request: what to read.
        engine: the device.
        settings: limits and folders.
        on_progress: called between batches; it may raise to stop.
        decoders: warm ones to borrow from; else one is started and ended.
        flights: shared by all who should not encode a bag twice.
        urgent: its batches go before all others on the engine.

    Raises SlideError, ReleaseError, InferenceError, RequestError PATH_OUTSIDE_ROOT and PlaceError DISK_FULL.
    """
    watch = Watch(on_progress)
    groups = _load(request.heads, engine, watch)
    work = Work(engine, settings, flights or Flights(), watch, urgent)
    slide, bags = _unopened(request, groups, work) or _opened(request, groups, work, decoders)
    outputs = _run_heads(groups, bags, engine, watch)
    with watch.stage("write"):
        watch.tell("write", 0, 1)
        overlays = _write_overlays(groups, bags, outputs, slide, settings)
        watch.tell("write", 1, 1)
    predictions = tuple(
        _predict(task, head, group.encoder, outputs[task])
        for task, (head, group) in _by_task(request.heads, groups).items()
    )
    return Analysis(
        slide=slide,
        tiles=len(next(iter(bags.values())).stored.grid),
        predictions=predictions,
        overlays=overlays,
        embeddings={digest: bag.key for digest, bag in bags.items()},
        provenance=_provenance(request, slide, groups, bags, engine, watch),
        notice=join(*(prediction.notice for prediction in predictions)),
    )


def _load(heads: dict[str, str], engine: Engine, watch: Watch) -> dict[str, Group]:
    """Load every release first: what is missing or damaged must not cost an hour of encoding."""
    groups: dict[str, Group] = {}
    for task, (head, encoder) in watch.patiently("open", lambda: _pairs(heads, engine)).items():
        _require_fit(task, head, encoder)
        groups.setdefault(encoder.digest, Group(encoder)).heads[task] = head
    if not groups:
        raise ReleaseError(Code.MODEL_UNAVAILABLE, "no head was asked for: name at least one task")
    return {
        digest: replace(group, precisions=engine.accepted(group.encoder, list(group.heads.values())))
        for digest, group in groups.items()
    }


def _pairs(heads: dict[str, str], engine: Engine) -> dict[str, tuple[Head, Encoder]]:
    loaded = {task: engine.head(digest) for task, digest in heads.items()}
    return {task: (head, engine.encoder(head.manifest.encoder)) for task, head in loaded.items()}


def _require_fit(task: str, head: Head, encoder: Encoder) -> None:
    if head.manifest.task != task:
        raise ReleaseError(
            Code.MODEL_INTEGRITY, f"the release given for {task} is a head for {head.manifest.task}"
        )
    if head.manifest.architecture.in_dim != encoder.manifest.architecture.embed_dim:
        raise ReleaseError(Code.MODEL_INTEGRITY, f"the head for {task} does not fit its encoder's embeddings")


def _unopened(
    request: Request, groups: dict[str, Group], work: Work
) -> tuple[SlideInfo, dict[str, Bag]] | None:
    """The known slide and its stored bags, None when the file changed or a bag is missing."""
    slide, location = request.known, request.location
    if slide is None or location.in_folder or location.fingerprint() != request.expected:
        return None
    if request.mpp is not None:
        slide = replace(slide, mpp=request.mpp.mpp, mpp_source="request")
    if slide.mpp is None:
        return None
    bags = {digest: find_bag(slide, group, work) for digest, group in groups.items()}
    found = {digest: bag for digest, bag in bags.items() if bag is not None}
    return (slide, found) if len(found) == len(bags) else None


def _opened(
    request: Request, groups: dict[str, Group], work: Work, decoders: Decoders | None
) -> tuple[SlideInfo, dict[str, Bag]]:
    with ExitStack() as stack:
        lender = decoders or stack.enter_context(Decoders(work.settings.decode))
        decoder = stack.enter_context(lender.lend())
        slide = _open(decoder, request, work.watch)
        return slide, {digest: get_bag(decoder, slide, group, work) for digest, group in groups.items()}


def _open(decoder: Decoder, request: Request, watch: Watch) -> SlideInfo:
    with watch.stage("open"):
        watch.tell("open", 0, 100)
        slide = decoder.open(
            request.location,
            mpp=request.mpp,
            expected=request.expected,
            on_progress=lambda share: watch.tell("open", round(share * 100), 100),
        )
        watch.tell("open", 100, 100)
    return slide


def _run_heads(
    groups: dict[str, Group], bags: dict[str, Bag], engine: Engine, watch: Watch
) -> dict[str, HeadOutput]:
    total = sum(len(group.heads) for group in groups.values())
    outputs: dict[str, HeadOutput] = {}
    with watch.stage("head"):
        for digest, group in groups.items():
            for task, head in group.heads.items():
                watch.tell("head", len(outputs), total)
                outputs[task] = engine.predict(head, bags[digest].stored.embeddings)
        watch.tell("head", total, total)
    return outputs


def _write_overlays(
    groups: dict[str, Group],
    bags: dict[str, Bag],
    outputs: dict[str, HeadOutput],
    slide: SlideInfo,
    settings: Settings,
) -> dict[str, str]:
    """One overlay for each encoder, as each has its own grid; task -> SHA-256."""
    shas: dict[str, str] = {}
    for digest, group in groups.items():
        attention = {task: outputs[task].attention for task in group.heads}
        evidence = {task: outputs[task].evidence for task in group.heads}
        grid = bags[digest].stored.grid
        overlay = Overlay(grid, slide.width, slide.height, attention, evidence)
        sha = put_overlay(settings.store_dir, overlay)
        shas |= dict.fromkeys(group.heads, sha)
    return shas


def _by_task(heads: dict[str, str], groups: dict[str, Group]) -> dict[str, tuple[Head, Group]]:
    """Head and group of each task, in the order of `TASK_LABELS` whatever the request's."""
    found = {task: (head, group) for group in groups.values() for task, head in group.heads.items()}
    return {task: found[task] for task in TASK_LABELS if task in heads}


def _predict(task: str, head: Head, encoder: Encoder, output: HeadOutput) -> Prediction:
    labels = head.manifest.labels
    licences = (head.manifest.licence, encoder.manifest.licence)
    return Prediction(
        task=task,
        outcome="predicted",
        label=labels[int(output.probabilities.argmax())],
        probabilities=dict(zip(labels, output.probabilities.tolist(), strict=True)),
        release=head.digest,
        notice=join(*(licence.notice for licence in licences)),
        licence=join(*(licence.name for licence in licences)),
        permitted_use=_strictest(*licences),
    )


def _strictest(*licences: Licence) -> str:
    return min((licence.permitted_use for licence in licences), key=STRICTNESS.index)


def _provenance(
    request: Request,
    slide: SlideInfo,
    groups: dict[str, Group],
    bags: dict[str, Bag],
    engine: Engine,
    watch: Watch,
) -> dict[str, Any]:
    """All that the numbers depend on; seconds are the only part that differs between equal runs."""
    return {
        "code_version": xmag.__version__,
        "slide_sha256": slide.sha256,
        "slide_opened": "open" in watch.seconds,
        "mpp": mpp_json(slide),
        "mpp_source": slide.mpp_source,
        "mpp_reason": request.mpp.reason if request.mpp else None,
        "heads": dict(request.heads),
        "encoders": [_encoder_json(group, bags[digest], slide) for digest, group in groups.items()],
        "engine": engine.description,
        "seconds": {stage: round(seconds, 3) for stage, seconds in watch.seconds.items()},
    }


def _encoder_json(group: Group, bag: Bag, slide: SlideInfo) -> dict[str, Any]:
    manifest = group.encoder.manifest
    return {
        "release": group.encoder.digest,
        "name": manifest.name,
        "tasks": list(group.heads),
        "tiling": manifest.tiling.model_dump(mode="json"),
        "preprocess": manifest.preprocess.model_dump(mode="json"),
        "tiles": len(bag.stored.grid),
        "tissue_share": _tissue_share(bag.stored, slide),
        "embeddings": bag.key,
        "embeddings_reused": bag.reused,
        "embedded_by": bag.stored.origin.get("code_version"),
        "reading": bag.stored.origin["reading"],
        "numerics": bag.stored.origin["numerics"],
    }


def _tissue_share(bag: StoredBag, slide: SlideInfo) -> float:
    """Share of the slide's area that is tissue within the tiles."""
    x, y = bag.grid.span
    return float(bag.grid.tissue.sum(dtype=np.float64) * x * y / (slide.width * slide.height))
