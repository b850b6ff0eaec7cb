"""An archive read again with another head: from the stored bags, no slide is touched."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from xmag.analysis import join
from xmag.config import Precision, Settings
from xmag.nn.bundle import Encoder, Head
from xmag.nn.runtime import Engine
from xmag.store import Origin, embedding_key, get_embeddings, stored_origins
from xmag.units import Mpp, MppXY

TOGETHER = 16
"""Bags scored in one call."""


@dataclass(frozen=True)
class Rescored:
    """What a head says of a stored bag.

    Attributes:
        embeddings: key of the bag in the store.
        precision: of the bag's embeddings; the head itself may run at bf16.
        probabilities: by label.
        notice: what the head's and the encoder's licences ask to be shown.
    """

    task: str
    head: str
    label: str
    slide_sha256: str
    embeddings: str
    tiles: int
    mpp: tuple[float, float]
    precision: Precision
    probabilities: dict[str, float]
    notice: str


def rescore(head_digest: str, engine: Engine, settings: Settings) -> Iterator[Rescored]:
    """Score every bag that the head's encoder made, at a precision that the head accepts.

    Of bags that differ in precision alone the most exact is taken; damaged ones are passed over. Raises
    ReleaseError and InferenceError.
    """
    head = engine.head(head_digest)
    encoder = engine.encoder(head.manifest.encoder)
    chosen = iter(choose(encoder, engine.accepted(encoder, [head]), settings))
    while together := list(islice(chosen, TOGETHER)):
        yield from _score(together, head, encoder, engine, settings)


def choose(encoder: Encoder, accepted: tuple[Precision, ...], settings: Settings) -> list[tuple[str, Origin]]:
    """Key and origin of one bag for each slide and mpp, in the order of their keys."""
    best: dict[tuple[str, float, float], tuple[int, str, Origin]] = {}
    for key, origin in stored_origins(settings.store_dir):
        precision = origin.get("numerics", {}).get("precision")
        if precision not in accepted or key != _key(origin, encoder, precision):
            continue
        rank = accepted.index(precision)
        what = (origin["slide"], *origin["mpp"])
        if what not in best or rank > best[what][0]:
            best[what] = (rank, key, origin)
    return [(key, origin) for _, key, origin in best.values()]


def _key(origin: Origin, encoder: Encoder, precision: Precision) -> str:
    """The key that a job of today would look for: bags of another encoder or format have another."""
    x, y = origin["mpp"]
    tiling = encoder.manifest.tiling
    return embedding_key(origin["slide"], encoder.digest, tiling, MppXY(Mpp(x), Mpp(y)), precision)


def _score(
    together: list[tuple[str, Origin]], head: Head, encoder: Encoder, engine: Engine, settings: Settings
) -> Iterator[Rescored]:
    notice = join(head.manifest.licence.notice, encoder.manifest.licence.notice)
    read = [(key, origin, get_embeddings(settings.store_dir, key)) for key, origin in together]
    found = [(key, origin, bag) for key, origin, bag in read if bag is not None]
    scores = engine.score(head, [bag.embeddings for _, _, bag in found])
    for (key, origin, bag), probabilities in zip(found, scores, strict=True):
        yield Rescored(
            task=head.manifest.task,
            head=head.digest,
            label=head.manifest.labels[int(probabilities.argmax())],
            slide_sha256=origin["slide"],
            embeddings=key,
            tiles=len(bag.grid),
            mpp=(origin["mpp"][0], origin["mpp"][1]),
            precision=origin["numerics"]["precision"],
            probabilities=dict(zip(head.manifest.labels, probabilities.tolist(), strict=True)),
            notice=notice,
        )
