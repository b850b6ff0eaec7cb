"""The engine: one device, one forward pass at a time, a few loaded releases.

An encoder is served by every route that agrees with fp32 (`xmag.nn.agreement`); the caller chooses among the
precisions that all its heads accept.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from xmag.config import Precision, Worker
from xmag.errors import Code, InferenceError, PlaceError, ReleaseError
from xmag.manifest import EncoderManifest
from xmag.nn.agreement import accepts, with_routes
from xmag.nn.bundle import Encoder, Head, load_encoder, load_head
from xmag.nn.route import Route, out_of_memory, require_finite
from xmag.nn.scoring import Score, scorer, softmax
from xmag.nn.torch_routes import TORCH
from xmag.nn.turn import Turn, nothing
from xmag.registry import read_verified

LOADED = 8
"""Releases kept in memory: an encoder, four heads, and room for their successors."""

SAMPLE = 8
"""Bags of a first call of `Engine.score` that its speed-up is tried on."""

BATCH = {"cpu": 8, "cuda": 128}


@dataclass(frozen=True)
class HeadOutput:
    """What a head says of a slide.

    Attributes:
        probabilities: (c,) float64, softmax of the logits, sums to 1.
        logits: (c,) float32.
        attention: (n,) float32, sums to 1.
        evidence: (n, c) float32; its sum over tiles plus the classifier's bias gives the logits.
    """

    probabilities: NDArray[np.float64]
    logits: NDArray[np.float32]
    attention: NDArray[np.float32]
    evidence: NDArray[np.float32]


class Engine:
    """Owns the device; safe to share between threads.

    A release is loaded, self-tested and compared with fp32 beside those in use, which go on, and enters the
    cache only when it passed: a bad release never takes the place of a good one.

    Attributes:
        device: "cpu" or "cuda".
        batch: the most tiles of a forward pass; smaller for good once memory was short.
    """

    def __init__(self, releases_dir: Path, trusted_keys: Sequence[str], worker: Worker) -> None:
        """Raises PlaceError SETUP when CUDA is asked for and absent. Sets torch's threads, process-wide."""
        self._releases_dir = releases_dir
        self._trusted_keys = tuple(trusted_keys)
        self._wish = worker.precision
        self._loaded: OrderedDict[str, Encoder | Head] = OrderedDict()
        self._scorers: dict[str, Score] = {}
        self._cache = threading.Lock()
        self._loading = threading.Lock()
        self._turn = Turn()
        self.device = choose_device(worker.device)
        self.batch = worker.batch or BATCH[self.device]
        if worker.threads:
            torch.set_num_threads(worker.threads)
        if self.device == "cuda":
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False

    @property
    def description(self) -> dict[str, str]:
        """What the numbers depend on besides the weights and the precision, for provenance."""
        return {
            "device": self.device,
            "device_name": torch.cuda.get_device_name() if self.device == "cuda" else "cpu",
            "runtime": TORCH,
            "threads": str(torch.get_num_threads()),
            "batch": str(self.batch),
        }

    @property
    def busy_seconds(self) -> float:
        """How long the device has worked since the start."""
        return self._turn.busy_seconds

    def ensure(self, digest: str) -> Encoder | Head:
        """The release, loaded when needed; raises MODEL_UNAVAILABLE, MODEL_INTEGRITY, INFER_OOM."""
        found = self._cached(digest)
        if found is not None:
            return found
        with self._loading:
            return self._cached(digest) or self._keep(self._load(digest))

    def encoder(self, digest: str) -> Encoder:
        """The loaded encoder; raises as `ensure` does, MODEL_INTEGRITY also when it is a head."""
        found = self.ensure(digest)
        if not isinstance(found, Encoder):
            raise ReleaseError(Code.MODEL_INTEGRITY, "an encoder was asked for, but the release is a head")
        return found

    def head(self, digest: str) -> Head:
        """The loaded head; raises as `ensure` does, MODEL_INTEGRITY also when it is an encoder."""
        found = self.ensure(digest)
        if not isinstance(found, Head):
            raise ReleaseError(Code.MODEL_INTEGRITY, "a head was asked for, but the release is an encoder")
        return found

    def accepted(self, encoder: Encoder, heads: Sequence[Head]) -> tuple[Precision, ...]:
        """Precisions at which all these heads may be served, fastest first; "fp32" is always the last."""
        return tuple(
            checked.route.precision
            for checked in encoder.routes
            if all(accepts(head, encoder, checked, self._probabilities) for head in heads)
        )

    def numerics(self, encoder: Encoder, precision: Precision) -> dict[str, str | float]:
        """What computes at a precision, for provenance; ``cosine`` is the smallest to fp32 of the check.

        ``refused`` says why a faster precision is not served. Raises ValueError when this one is not.
        """
        checked = encoder.at(precision)
        facts: dict[str, str | float] = {"precision": precision, "runtime": checked.route.runtime}
        facts["device"] = self.description["device_name"]
        if precision != "fp32":
            facts["cosine"] = checked.cosine
        if encoder.refused:
            facts["refused"] = "; ".join(f"{which}: {why}" for which, why in encoder.refused.items())
        return facts

    def encode(
        self,
        encoder: Encoder,
        tiles: NDArray[np.uint8],
        precision: Precision = "fp32",
        *,
        urgent: bool = False,
        on_wait: Callable[[], None] = nothing,
    ) -> NDArray[np.float32]:
        """Embeddings (b, d) of RGB tiles (b, h, w, 3), in batches; urgent ones go before all that wait.

        ``on_wait`` is called about every half second while the device is busy with others, and may raise.
        Raises InferenceError INFER_OOM (one tile does not fit) and INFER_NAN, and ValueError when the encoder
        is not served at the precision.
        """
        if not len(tiles):
            return np.empty((0, encoder.manifest.architecture.embed_dim), np.float32)
        return self._run(encoder.at(precision).route, tiles, urgent, on_wait)

    def predict(self, head: Head, bag: NDArray[np.float32]) -> HeadOutput:
        """Run a head on a bag (n, d); raises INFER_OOM, INFER_NAN, MODEL_INTEGRITY when d does not fit.

        It takes milliseconds and goes before the batches that wait.
        """
        _require_fit(head, bag)
        with _memory("the bag"), self._turn.take(urgent=True), torch.inference_mode():
            found = head.module.explain(torch.from_numpy(bag).to(self.device).unsqueeze(0))
            logits, attention, evidence = (
                tensor[0].cpu().numpy() for tensor in (found.logits, found.attention, found.evidence)
            )
        require_finite(logits, attention, evidence)
        return HeadOutput(softmax(logits), logits, attention, evidence)

    def score(self, head: Head, bags: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
        """Probabilities (c,) of each bag (n, d), in bulk: at bf16 where the head agrees with fp32.

        The check, at a head's first call and on bags of this call too, allows a difference of 0.01 to
        `predict`, the reference. Raises as `predict` does.
        """
        if not bags:
            return []
        for bag in bags:
            _require_fit(head, bag)
        run = self._scorer(head, bags[:SAMPLE])
        return [softmax(self._logits(run, bag)) for bag in bags]

    def _logits(self, run: Score, bag: NDArray[np.float32]) -> NDArray[np.float32]:
        with _memory("the bag"), self._turn.take():
            logits = run(bag)
        require_finite(logits)
        return logits

    def _scorer(self, head: Head, sample: Sequence[NDArray[np.float32]]) -> Score:
        """Made at first use; checked on the head's stored bag, its encoder's where at hand, and a sample."""
        found = self._scorers.get(head.digest)
        if found is not None:
            return found
        with self._loading:
            if head.digest not in self._scorers:
                encoder = self._cached(head.manifest.encoder)
                known = [encoder.routes[-1].bag] if isinstance(encoder, Encoder) else []
                checks = [bag for bag in (head.bag, *known, *sample) if len(bag)]
                self._scorers[head.digest] = scorer(head, self._wish, checks)
            return self._scorers[head.digest]

    def _probabilities(self, head: Head, bag: NDArray[np.float32]) -> NDArray[np.float64]:
        return self.predict(head, bag).probabilities

    def _cached(self, digest: str) -> Encoder | Head | None:
        with self._cache:
            found = self._loaded.get(digest)
            if found is not None:
                self._loaded.move_to_end(digest)
            return found

    def _keep(self, release: Encoder | Head) -> Encoder | Head:
        with self._cache:
            self._loaded[release.digest] = release
            while len(self._loaded) > LOADED:
                self._scorers.pop(self._loaded.popitem(last=False)[0], None)
        return release

    def _load(self, digest: str) -> Encoder | Head:
        release = read_verified(self._releases_dir, digest, self._trusted_keys)
        with _memory("the release"):
            if not isinstance(release.manifest, EncoderManifest):
                return load_head(release, self.device)
            encoder = load_encoder(release, self.device)
            return with_routes(encoder, self._wish, self.batch, self._run)

    def _run(
        self,
        route: Route,
        tiles: NDArray[np.uint8],
        urgent: bool = False,
        on_wait: Callable[[], None] = nothing,
    ) -> NDArray[np.float32]:
        """Every batch takes its own turn; one that memory is short for is halved and run again."""
        parts: list[NDArray[np.float32]] = []
        done = 0
        while done < len(tiles):
            batch = tiles[done : done + self.batch]
            try:
                work = route.stage(batch)
                with self._turn.take(urgent, on_wait, lingers=urgent):
                    parts.append(work())
                done += len(batch)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                self._halve(len(batch))
        embeddings = np.concatenate(parts)
        require_finite(embeddings)
        return embeddings

    def _halve(self, size: int) -> None:
        """The batch for as long as the engine lives: memory that was short once is short again."""
        if size == 1:
            raise InferenceError(Code.INFER_OOM, "one tile does not fit into the device's memory")
        self.batch = min(self.batch, (size + 1) // 2)
        if self.device == "cuda":
            torch.cuda.empty_cache()


def choose_device(wish: str) -> str:
    """ "cpu" or "cuda"; "auto" takes CUDA when there. Raises PlaceError SETUP."""
    available = torch.cuda.is_available()
    if wish == "cuda" and not available:
        raise PlaceError(
            Code.SETUP,
            "no CUDA device is visible: check the driver (nvidia-smi), or set XMAG_WORKER__DEVICE=cpu",
        )
    if wish == "auto":
        return "cuda" if available else "cpu"
    return wish


def _require_fit(head: Head, bag: NDArray[np.float32]) -> None:
    if bag.ndim != 2 or bag.shape[1] != head.manifest.architecture.in_dim:
        raise ReleaseError(Code.MODEL_INTEGRITY, "the head reads embeddings of another length")


@contextmanager
def _memory(what: str) -> Iterator[None]:
    """Turns a lack of memory into InferenceError INFER_OOM."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise InferenceError(Code.INFER_OOM, f"{what} does not fit into the device's memory") from None
