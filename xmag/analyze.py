"""The one path from a slide to predictions; the worker, the command line and training all take it.

    open -> mask -> encode -> head -> write

Heads that read the same encoder share one encoding. Files are written here; the caller writes the row.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

import xmag
from xmag.analysis import Analysis, Prediction, Progress, Stage, mpp_json, to_json
from xmag.config import Settings
from xmag.errors import Code, ReleaseError, SlideError
from xmag.heatmap import Overlay
from xmag.manifest import TASK_LABELS, Licence
from xmag.nn.bundle import Encoder, Head
from xmag.nn.runtime import Engine, HeadOutput
from xmag.slide.decoder import Decoder
from xmag.slide.info import MppOverride, SlideInfo
from xmag.slide.location import Fingerprint, SlideLocation
from xmag.store import StoredBag, embedding_key, get_embeddings, put_embeddings, put_overlay

__all__ = ["Analysis", "Prediction", "Progress", "Request", "analyze", "to_json"]

STRICTNESS = ("demo", "research", "clinical")
"""Of permitted uses, from the narrowest."""


@dataclass(frozen=True)
class Request:
    """A slide and the head release to use for each task."""

    location: SlideLocation
    heads: dict[str, str]
    mpp: MppOverride | None = None
    expected: Fingerprint | None = None


@dataclass(frozen=True)
class _Group:
    """An encoder and the heads that read it, by task."""

    encoder: Encoder
    heads: dict[str, Head] = field(default_factory=dict)


@dataclass(frozen=True)
class _Bag:
    stored: StoredBag
    key: str
    reused: bool


class _Watch:
    """Reports progress and adds up each stage's seconds."""

    def __init__(self, report: Callable[[Progress], None]) -> None:
        self._report = report
        self.seconds: dict[str, float] = {}

    def tell(self, stage: Stage, done: int, total: int) -> None:
        self._report(Progress(stage, done, total))

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - start


def analyze(
    request: Request, engine: Engine, settings: Settings, on_progress: Callable[[Progress], None]
) -> Analysis:
    """Read a slide with every asked head.

    The slide is always opened and hashed; a bag already in the store is not decoded or encoded again.
    ``on_progress`` is called between batches and may raise to stop. Raises SlideError, ReleaseError,
    InferenceError, RequestError PATH_OUTSIDE_ROOT and PlaceError DISK_FULL.
    """
    watch = _Watch(on_progress)
    groups = _load(request.heads, engine)
    with Decoder(settings.decode) as decoder:
        with watch.stage("open"):
            watch.tell("open", 0, 100)
            slide = decoder.open(
                request.location,
                mpp=request.mpp,
                expected=request.expected,
                on_progress=lambda share: watch.tell("open", round(share * 100), 100),
            )
            watch.tell("open", 100, 100)
        bags = {
            digest: _bag(decoder, slide, group.encoder, engine, settings, watch)
            for digest, group in groups.items()
        }
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
        notice=_join(*(prediction.notice for prediction in predictions)),
    )


def _load(heads: dict[str, str], engine: Engine) -> dict[str, _Group]:
    """Load every release first: what is missing or damaged must not cost an hour of encoding."""
    groups: dict[str, _Group] = {}
    for task, digest in heads.items():
        head = engine.head(digest)
        encoder = engine.encoder(head.manifest.encoder)
        _require_fit(task, head, encoder)
        groups.setdefault(encoder.digest, _Group(encoder)).heads[task] = head
    if not groups:
        raise ReleaseError(Code.MODEL_UNAVAILABLE, "no head was asked for: name at least one task")
    return groups


def _require_fit(task: str, head: Head, encoder: Encoder) -> None:
    if head.manifest.task != task:
        raise ReleaseError(
            Code.MODEL_INTEGRITY, f"the release given for {task} is a head for {head.manifest.task}"
        )
    if head.manifest.architecture.in_dim != encoder.manifest.architecture.embed_dim:
        raise ReleaseError(Code.MODEL_INTEGRITY, f"the head for {task} does not fit its encoder's embeddings")


def _bag(
    decoder: Decoder, slide: SlideInfo, encoder: Encoder, engine: Engine, settings: Settings, watch: _Watch
) -> _Bag:
    """The slide's bag from the store, or encoded and stored."""
    tiling = encoder.manifest.tiling
    if slide.mpp is not None:
        key = embedding_key(slide.sha256, encoder.digest, tiling, slide.mpp)
        found = get_embeddings(settings.store_dir, key)
        if found is not None:
            watch.tell("encode", len(found.grid), len(found.grid))
            return _Bag(found, key, reused=True)
    bag = _encode(decoder, encoder, engine, watch)
    assert slide.mpp is not None  # plan() raised MPP_MISSING otherwise
    key = embedding_key(slide.sha256, encoder.digest, tiling, slide.mpp)
    with watch.stage("write"):
        put_embeddings(settings.store_dir, key, bag, {"slide": slide.sha256, "encoder": encoder.digest})
    return _Bag(bag, key, reused=False)


def _encode(decoder: Decoder, encoder: Encoder, engine: Engine, watch: _Watch) -> StoredBag:
    """Plan, decode and encode; the slide must be the same file at the end as it was at the start."""
    tiling = encoder.manifest.tiling
    with watch.stage("mask"):
        watch.tell("mask", 0, 100)
        plan = decoder.plan(tiling, lambda share: watch.tell("mask", round(share * 100), 100))
        watch.tell("mask", 100, 100)
    total, done = len(plan.grid), 0
    embeddings = np.empty((total, encoder.manifest.architecture.embed_dim), np.float32)

    def tell(_: float = 0.0) -> None:
        watch.tell("encode", done, total)

    with watch.stage("encode"):
        tell()
        for tiles in decoder.tiles(plan, tiling, engine.batch, tell):
            embeddings[done : done + len(tiles)] = engine.encode(encoder, tiles)
            done += len(tiles)
            tell()
        decoder.check_unchanged()
    if done != total:
        raise SlideError(Code.DECODE_CRASH, "the decoder gave fewer tiles than planned: run the slide again")
    return StoredBag(embeddings, plan.grid)


def _run_heads(
    groups: dict[str, _Group], bags: dict[str, _Bag], engine: Engine, watch: _Watch
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
    groups: dict[str, _Group],
    bags: dict[str, _Bag],
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


def _by_task(heads: dict[str, str], groups: dict[str, _Group]) -> dict[str, tuple[Head, _Group]]:
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
        notice=_join(*(licence.notice for licence in licences)),
        licence=_join(*(licence.name for licence in licences)),
        permitted_use=_strictest(*licences),
    )


def _strictest(*licences: Licence) -> str:
    return min((licence.permitted_use for licence in licences), key=STRICTNESS.index)


def _join(*sentences: str) -> str:
    return "; ".join(dict.fromkeys(filter(None, sentences)))


def _provenance(
    request: Request,
    slide: SlideInfo,
    groups: dict[str, _Group],
    bags: dict[str, _Bag],
    engine: Engine,
    watch: _Watch,
) -> dict[str, Any]:
    """All that the numbers depend on; seconds are the only part that differs between equal runs."""
    return {
        "code_version": xmag.__version__,
        "slide_sha256": slide.sha256,
        "mpp": mpp_json(slide),
        "mpp_source": slide.mpp_source,
        "mpp_reason": request.mpp.reason if request.mpp else None,
        "heads": dict(request.heads),
        "encoders": [_encoder_json(group, bags[digest], slide) for digest, group in groups.items()],
        "engine": engine.description,
        "seconds": {stage: round(seconds, 3) for stage, seconds in watch.seconds.items()},
    }


def _encoder_json(group: _Group, bag: _Bag, slide: SlideInfo) -> dict[str, Any]:
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
    }


def _tissue_share(bag: StoredBag, slide: SlideInfo) -> float:
    """Share of the slide's area that is tissue within the tiles."""
    x, y = bag.grid.span
    return float(bag.grid.tissue.sum(dtype=np.float64) * x * y / (slide.width * slide.height))
