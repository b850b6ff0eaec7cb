"""What is measured: an engine with one head and its encoder, from a data folder or of random weights."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from benchmarks.routes import located
from benchmarks.weights import publish_random
from xmag.config import Decode, Settings, Worker
from xmag.manifest import TilingSpec
from xmag.nn.bundle import Encoder, Head
from xmag.nn.runtime import Engine
from xmag.registry import public_key_text
from xmag.slide.decoder import Decoder
from xmag.slide.grid import TileGrid


@dataclass(frozen=True)
class Subject:
    """Releases and keys to make engines from, the head that is measured, and whose weights they are."""

    settings: Settings
    head_digest: str
    weights: str

    def engine(self, **worker: object) -> Engine:
        """An engine with the settings' worker group, changed as asked."""
        group = Worker.model_validate({**self.settings.worker.model_dump(), **worker})
        return Engine(self.settings.releases_dir, self.settings.trusted_keys, group)

    def loaded(self, engine: Engine) -> tuple[Encoder, Head]:
        """The encoder and the head, by an engine; raises ReleaseError."""
        head = engine.head(self.head_digest)
        return engine.encoder(head.manifest.encoder), head


@contextmanager
def random_subject() -> Iterator[Subject]:
    """A full-size ViT-B/14 of random weights in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="xmag-bench-") as name:
        key = Ed25519PrivateKey.generate()
        settings = Settings(data=Path(name), trusted_keys=(public_key_text(key),))
        yield Subject(settings, publish_random(settings.releases_dir, key), "random")


def some_tiles(path: Path, spec: TilingSpec, count: int) -> NDArray[np.uint8]:
    """At most ``count`` tissue tiles of a slide, spread over it; raises SlideError."""
    with Decoder(Decode()) as decoder:
        decoder.open(located(path), digest=False)
        plan = decoder.plan(spec)
        chosen = np.linspace(0, len(plan.grid) - 1, min(count, len(plan.grid))).astype(int)
        read = np.concatenate([tiles.copy() for tiles in decoder.tiles(plan, spec, 64)])
        return np.ascontiguousarray(read[chosen])


def whole_grid(path: Path, spec: TilingSpec) -> TileGrid:
    """The tiles that an analysis of the slide reads; raises SlideError."""
    with Decoder(Decode()) as decoder:
        decoder.open(located(path), digest=False)
        return decoder.plan(spec).grid
