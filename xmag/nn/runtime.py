"""The engine: one device, one forward pass at a time, a few loaded releases."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from xmag.config import Worker
from xmag.errors import Code, InferenceError, PlaceError, ReleaseError
from xmag.manifest import EncoderManifest
from xmag.nn.bundle import Encoder, Head, load_encoder, load_head
from xmag.registry import read_verified

LOADED = 8
"""Releases kept in memory: an encoder, four heads, and room for their successors."""

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

    A release is loaded and self-tested beside those in use and enters the cache only when it passed, so a bad
    release never takes the place of a good one.
    """

    def __init__(self, releases_dir: Path, trusted_keys: Sequence[str], worker: Worker) -> None:
        """Raises PlaceError SETUP when CUDA is asked for and absent. Sets torch's threads, process-wide."""
        self._releases_dir = releases_dir
        self._trusted_keys = tuple(trusted_keys)
        self._loaded: OrderedDict[str, Encoder | Head] = OrderedDict()
        self._loading = threading.Lock()
        self._running = threading.Lock()
        self.device = choose_device(worker.device)
        self.batch = worker.batch or BATCH[self.device]
        if worker.threads:
            torch.set_num_threads(worker.threads)
        if self.device == "cuda":
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False

    @property
    def description(self) -> dict[str, str]:
        """What the numbers depend on besides the weights, for provenance."""
        return {
            "device": self.device,
            "device_name": torch.cuda.get_device_name() if self.device == "cuda" else "cpu",
            "runtime": f"torch {torch.__version__}",
            "precision": "fp32",
            "threads": str(torch.get_num_threads()),
            "batch": str(self.batch),
        }

    def ensure(self, digest: str) -> Encoder | Head:
        """The release, loaded when needed; raises MODEL_UNAVAILABLE, MODEL_INTEGRITY, INFER_OOM."""
        with self._loading:
            found = self._loaded.get(digest) or self._load(digest)
            self._loaded[digest] = found
            self._loaded.move_to_end(digest)
            while len(self._loaded) > LOADED:
                self._loaded.popitem(last=False)
            return found

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

    def encode(self, encoder: Encoder, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings (b, d) of RGB tiles (b, h, w, 3), halving the batch while memory is short.

        Raises InferenceError INFER_OOM (one tile does not fit) and INFER_NAN.
        """
        size = max(1, len(tiles))
        while True:
            try:
                return self._encode(encoder, tiles, size)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
            if size == 1:
                raise InferenceError(Code.INFER_OOM, "one tile does not fit into the device's memory")
            size = (size + 1) // 2
            self._release_memory()

    def predict(self, head: Head, bag: NDArray[np.float32]) -> HeadOutput:
        """Run a head on a bag (n, d); raises INFER_OOM, INFER_NAN, MODEL_INTEGRITY when d does not fit."""
        if bag.ndim != 2 or bag.shape[1] != head.manifest.architecture.in_dim:
            raise ReleaseError(Code.MODEL_INTEGRITY, "the head reads embeddings of another length")
        try:
            with self._running, torch.inference_mode():
                found = head.module.explain(torch.from_numpy(bag).to(self.device).unsqueeze(0))
                logits, attention, evidence = (
                    tensor[0].cpu().numpy() for tensor in (found.logits, found.attention, found.evidence)
                )
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise InferenceError(Code.INFER_OOM, "the bag does not fit into the device's memory") from None
        _require_finite(logits, attention, evidence)
        return HeadOutput(softmax(logits), logits, attention, evidence)

    def _load(self, digest: str) -> Encoder | Head:
        release = read_verified(self._releases_dir, digest, self._trusted_keys)
        try:
            if isinstance(release.manifest, EncoderManifest):
                return load_encoder(release, self.device)
            return load_head(release, self.device)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise InferenceError(
                Code.INFER_OOM, "the release does not fit into the device's memory"
            ) from None

    def _encode(self, encoder: Encoder, tiles: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
        parts = []
        with self._running, torch.inference_mode():
            for start in range(0, len(tiles), size):
                part = torch.from_numpy(tiles[start : start + size]).to(self.device)
                parts.append(encoder(part).float().cpu().numpy())
        embeddings = np.concatenate(parts)
        _require_finite(embeddings)
        return embeddings

    def _release_memory(self) -> None:
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


def out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python ran out of device or main memory."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "DefaultCPUAllocator" in str(error)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities (c,) in double precision."""
    powers = np.exp(logits.astype(np.float64) - float(logits.max()))
    return np.asarray(powers / powers.sum())


def _require_finite(*arrays: NDArray[np.float32]) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise InferenceError(Code.INFER_NAN, "the network gave a number that is not finite")
