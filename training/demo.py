"""The demo releases: one small encoder and a head for each task, from a synthetic cohort to signed folders.

cohort -> tiles -> encoder -> bags -> four heads -> measured on held-out slides -> published
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

import training
import xmag
from training import cohort, mil
from training.cohort import CohortSpec, Member
from training.embed import Cut, cut_all, embed, patch_kinds
from training.encoder import EncoderSpec, train_encoder
from training.metrics import BootstrapSpec, measure
from training.mil import MilSpec
from training.publish import Publisher
from xmag.config import Worker
from xmag.errors import ReleaseError
from xmag.files import write_atomic
from xmag.manifest import TASK_LABELS, Frozen, HeadManifest, Task, TilingSpec, canonical
from xmag.nn.bundle import Encoder
from xmag.nn.runtime import Engine
from xmag.registry import public_key_text, read_verified

Report = Callable[[str, int, int], None]
"""Step, done, total."""


DECISIVE = (
    "manifest.py",
    "nn/mil.py",
    "nn/preprocess.py",
    "nn/vit.py",
    "slide/equalise.py",
    "slide/grid.py",
    "slide/jpeg_stream.py",
    "slide/jpeg_tiles.py",
    "slide/reader.py",
    "slide/resample.py",
    "slide/synthetic",
    "slide/tiff.py",
    "slide/tiff_levels.py",
    "slide/tiles.py",
    "slide/tissue.py",
)
"""Parts of `xmag` on which the weights' numbers depend, beside all of `training`."""


class DemoSpec(Frozen):
    """Everything that the demo weights are made from."""

    cohort: CohortSpec = CohortSpec()
    encoder: EncoderSpec = EncoderSpec()
    mil: MilSpec = MilSpec()
    bootstrap: BootstrapSpec = BootstrapSpec()
    tiling: TilingSpec = TilingSpec()


@dataclass(frozen=True)
class Bags:
    """The slides of a split and their bags (n, d), in the same order."""

    members: Sequence[Member]
    bags: Sequence[NDArray[np.float32]]

    def of(self, task: Task) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
        """Bags and targets of one task."""
        rows = [row for row, member in enumerate(self.members) if member.recipe.task == task]
        return [self.bags[row] for row in rows], np.array([self.members[row].target for row in rows])


def build_demo_releases(
    data: Path, key: Ed25519PrivateKey, report: Report, spec: DemoSpec | None = None
) -> dict[Task, str]:
    """Task -> digest of the demo head in ``data/releases``; trained only when spec or code have changed."""
    spec = spec or DemoSpec()
    made_of = content_key(spec)
    heads = known_releases(data, public_key_text(key), spec)
    if not heads:
        heads = _Build(data, key, report, spec).run()
        record = json.dumps({"key": made_of, "heads": heads}, indent=1)
        write_atomic(data / "demo" / "weights.json", record.encode())
    return heads


def known_releases(data: Path, trusted: str, spec: DemoSpec) -> dict[Task, str]:
    """The heads of an earlier call, if they are whole and were made the same way; else none."""
    try:
        found = json.loads((data / "demo" / "weights.json").read_text())
        heads: dict[Task, str] = {task: found["heads"][task] for task in spec.cohort.train}
        for digest in heads.values():
            head = read_verified(data / "releases", digest, [trusted]).manifest
            assert isinstance(head, HeadManifest)
            read_verified(data / "releases", head.encoder, [trusted])
    except (FileNotFoundError, ValueError, KeyError, ReleaseError):
        return {}
    return heads if found["key"] == content_key(spec) else {}


def content_key(spec: DemoSpec) -> str:
    """Changes with the spec, torch, and the code that the weights depend on."""
    core = Path(xmag.__file__).parent
    code = sources(*(core / name for name in DECISIVE), Path(training.__file__).parent)
    return hashlib.sha256(canonical(spec) + torch.__version__.encode() + code).hexdigest()


def sources(*places: Path) -> bytes:
    """Digest of the Python files of folders and of single files."""
    files = [
        file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])
    ]
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).digest()


def generator() -> str:
    """Short digest of the code that draws slides."""
    return sources(Path(xmag.__file__).parent / "slide" / "synthetic", Path(cohort.__file__)).hex()[:12]


def slides(data: Path, spec: CohortSpec, report: Report) -> tuple[list[Member], list[Member]]:
    """Train and test slides, made when missing; a change of the generator's code makes new ones."""
    wanted = cohort.recipes(spec, "train") + cohort.recipes(spec, "test")
    made = cohort.make(data / "demo" / f"cohort-{generator()}", wanted, _step(report, "making the cohort"))
    count = sum(spec.train.values())
    return made[:count], made[count:]


@dataclass(frozen=True)
class _Build:
    data: Path
    key: Ed25519PrivateKey
    report: Report
    spec: DemoSpec

    @property
    def publisher(self) -> Publisher:
        return Publisher(self.data / "releases", self.key)

    def run(self) -> dict[Task, str]:
        train, test = slides(self.data, self.spec.cohort, self.report)
        cuts = self._cut(train, "reading the training slides")
        digest = self._encoder(train, cuts)
        engine = Engine(self.data / "releases", [public_key_text(self.key)], Worker(precision="fp32"))
        encoder = engine.encoder(digest)
        known = self._embed(engine, encoder, train, cuts, "embedding the training slides")
        held_out = self._cut(test, "reading the held-out slides")
        fresh = self._embed(engine, encoder, test, held_out, "embedding the held-out slides")
        return {task: self._head(task, digest, known, fresh) for task in self.spec.cohort.train}

    def _cut(self, members: Sequence[Member], step: str) -> list[Cut]:
        return cut_all(members, self.spec.tiling, _step(self.report, step))

    def _encoder(self, train: Sequence[Member], cuts: Sequence[Cut]) -> str:
        tiles = np.concatenate([each.tiles for each in cuts])
        kinds = np.concatenate([patch_kinds(one, each.grid) for one, each in zip(train, cuts, strict=True)])
        step = _step(self.report, "training the encoder")
        vit = train_encoder(tiles, kinds, cohort.KINDS, self.spec.encoder, step)
        facts: dict[str, Any] = {"slides": len(train), "tiles": len(tiles), "generator": generator()}
        facts |= self.spec.model_dump(mode="json")
        encoder = self.spec.encoder
        return self.publisher.encoder(vit, encoder.architecture, encoder.preprocess, self.spec.tiling, facts)

    def _embed(
        self, engine: Engine, encoder: Encoder, members: Sequence[Member], cuts: Sequence[Cut], step: str
    ) -> Bags:
        bags = []
        for each in cuts:
            bags.append(embed(each, engine, encoder, self.data / "demo" / "store"))
            self.report(step, len(bags), len(cuts))
        return Bags(members, bags)

    def _head(self, task: Task, encoder: str, known: Bags, fresh: Bags) -> str:
        classes = len(TASK_LABELS[task])
        bags, targets = known.of(task)
        head = mil.train(bags, targets, classes, self.spec.mil)
        unseen, truth = fresh.of(task)
        measured = measure(truth, mil.probabilities(head, unseen), self.spec.bootstrap)
        facts: dict[str, Any] = {"slides": len(bags), "generator": generator()}
        facts |= self.spec.model_dump(mode="json", exclude={"encoder"})
        architecture = mil.architecture(bags[0].shape[1], classes, self.spec.mil)
        self.report(f"training the head for {task}", 1, 1)
        return self.publisher.head(head, task, encoder, architecture, facts, measured)


def _step(report: Report, name: str) -> cohort.Report:
    return lambda done, total: report(name, done, total)
