"""The parent's side of the decoder process: slides are opened nowhere else.

A broken file may abort, hang or bloat the libraries that read it. That costs the child; the parent gets
DECODE_CRASH or DECODE_TIMEOUT and goes on. After either, after an interrupted call and after tiles that were
not read to their end, the decoder is closed: make a new one.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from xmag.config import Decode
from xmag.errors import Code, JobError, RequestError, SlideError, XmagError
from xmag.manifest import TilingSpec
from xmag.slide import wire
from xmag.slide.grid import TileGrid
from xmag.slide.info import LevelInfo, MppOverride, Reading, SlideInfo
from xmag.slide.location import Fingerprint, SlideLocation
from xmag.units import Level0Px, Mpp, MppXY

START_SECONDS = 60.0
"""Longest start of the child, whatever the limit of silence."""

_KINDS: dict[Code, type[XmagError]] = {
    Code.PATH_OUTSIDE_ROOT: RequestError,
    Code.NOT_FOUND: RequestError,
    Code.INTERNAL: JobError,
}


@dataclass(frozen=True)
class TilePlan:
    """Which tiles to read and how, and the tissue they lie on: ``mask`` (h, w) over the whole slide."""

    grid: TileGrid
    mask: NDArray[np.bool_]
    reading: Reading


def ignore(_: float) -> None:
    """Take no notice of progress."""


class Decoder:
    """One child process that reads one slide at a time; not thread-safe; use it as a context manager."""

    def __init__(self, limits: Decode) -> None:
        self._limits = limits
        self._streaming = False
        self.reread = 0
        """Tiles of the last `tiles` that the JPEG route left to OpenSlide: a stream missing or damaged."""
        self._channel, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = _spawn(theirs.fileno(), limits)
        except OSError:
            self._channel.close()
            raise SlideError(
                Code.DECODE_CRASH, "no decoder process could start: check the memory and process limits"
            ) from None
        self._closed = False
        self._channel.settimeout(max(limits.timeout_seconds, START_SECONDS))
        self._reply(ignore)
        self._channel.settimeout(limits.timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether the child is gone and a new decoder is needed."""
        return self._closed

    @property
    def alive(self) -> bool:
        """Whether the child runs: it may end by itself, as when the system is short of memory."""
        return not self._closed and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def open(
        self,
        location: SlideLocation,
        *,
        mpp: MppOverride | None = None,
        expected: Fingerprint | None = None,
        digest: bool = True,
        on_progress: Callable[[float], None] = ignore,
    ) -> SlideInfo:
        """Open a slide in place of the one before.

        Args:
            location: where it lies.
            mpp: wins over the file's resolution.
            expected: the file as it was registered; SLIDE_CHANGED when it differs.
            digest: take the SHA-256, else it is "" in the result.
            on_progress: share hashed, 0-1.

        Raises SLIDE_NOT_FOUND, SLIDE_UNSUPPORTED, SLIDE_CORRUPT, SLIDE_TOO_LARGE, SLIDE_CHANGED,
        PATH_OUTSIDE_ROOT, DECODE_CRASH, DECODE_TIMEOUT.
        """
        header, _ = self._call(
            {
                "command": "open",
                "root": str(location.root.absolute()),
                "relative": str(location.relative),
                "mpp": None if mpp is None else {"x": mpp.mpp.x, "y": mpp.mpp.y, "reason": mpp.reason},
                "expected": None if expected is None else asdict(expected),
                "digest": digest,
            },
            on_progress,
        )
        return _slide_info(header["info"])

    def plan(self, spec: TilingSpec, on_progress: Callable[[float], None] = ignore) -> TilePlan:
        """Find the tissue and the tiles; raises MPP_MISSING, NO_TISSUE, SLIDE_TOO_LARGE and as `open`.

        A slide without small levels is read whole, which takes minutes: ``on_progress`` hears the share, 0-1.
        """
        header, payload = self._call({"command": "plan", "spec": spec.model_dump()}, on_progress)
        return _tile_plan(header, payload)

    def tiles(
        self, plan: TilePlan, spec: TilingSpec, batch: int, on_progress: Callable[[float], None] = ignore
    ) -> Generator[NDArray[np.uint8], None, None]:
        """Yield (b, tile_px, tile_px, 3) RGB in grid order; the last may be smaller.

        The child reads ahead while the caller works; ``on_progress`` hears of each block of a slow read.
        Leaving the iterator early closes the decoder.
        """
        grid = plan.grid
        header = {"span": grid.span, "tile_px": grid.tile_px, "batch": batch, "spec": spec.model_dump()}
        self._ask({"command": "tiles", **header}, grid.cells.astype(np.int32).tobytes())
        self._streaming = True
        self.reread = 0
        try:
            for start in range(0, len(grid), batch):
                tiles = np.empty((min(batch, len(grid) - start), grid.tile_px, grid.tile_px, 3), np.uint8)
                answer, _ = self._reply(on_progress, into=tiles.data.cast("B"))
                self.reread = int(answer["reread"])
                yield tiles
            self._streaming = False
        finally:
            if self._streaming:
                self.close()

    def check_unchanged(self) -> None:
        """Raise SLIDE_CHANGED when a file of the open slide was replaced, rewritten or removed."""
        self._call({"command": "check"})

    def thumbnail(self, max_px: int) -> bytes:
        """The whole slide within ``max_px`` along its longer side, JPEG."""
        return self._call({"command": "thumbnail", "max_px": max_px})[1]

    def dzi(self) -> str:
        """The Deep Zoom descriptor, XML."""
        return str(self._call({"command": "dzi"})[0]["xml"])

    def dzi_tile(self, level: int, column: int, row: int) -> bytes:
        """One Deep Zoom tile, JPEG; RequestError NOT_FOUND out of range."""
        return self._call({"command": "dzi_tile", "level": level, "column": column, "row": row})[1]

    def forget(self) -> None:
        """Close the slide, so that an idle child holds no file and no pixels of it."""
        self._call({"command": "forget"})

    def stop(self) -> None:
        """End the child from another thread: the call under way there raises DECODE_CRASH and closes."""
        if self._process.returncode is not None:  # its number may be another's by now
            return
        with suppress(ProcessLookupError, PermissionError):
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the child; it only reads, so it needs no farewell."""
        if self._closed:
            return
        self._closed = True
        self._channel.close()
        self.stop()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)

    def _call(
        self, header: dict[str, Any], on_progress: Callable[[float], None] = ignore
    ) -> tuple[dict[str, Any], bytes]:
        self._ask(header)
        return self._reply(on_progress)

    def _ask(self, header: dict[str, Any], *payload: bytes) -> None:
        if self._closed or self._streaming:
            raise JobError(Code.INTERNAL, "the decoder is closed or still busy with tiles")
        with self._guard():
            wire.send(self._channel, header, *payload)

    def _reply(
        self, on_progress: Callable[[float], None], into: memoryview | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """The next answer and its payload, or, with ``into``, the payload put there."""
        with self._guard():
            header, size = wire.receive_header(self._channel)
            while "progress" in header:
                on_progress(header["progress"])
                header, size = wire.receive_header(self._channel)
            if "error" not in header and into is not None:
                if size != into.nbytes:
                    raise wire.WireError
                wire.receive_into(self._channel, into)
                return header, b""
            payload = bytes(wire.receive(self._channel, size))
        if "error" in header:
            self._streaming = False
            raise _error(header["error"])
        return header, payload

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Close on anything that leaves the conversation unfinished."""
        try:
            yield
        except TimeoutError:
            self.close()
            raise SlideError(
                Code.DECODE_TIMEOUT,
                f"no sign of progress for {self._limits.timeout_seconds:g} s: the file may be damaged or its "
                "storage stuck",
            ) from None
        except (EOFError, OSError, wire.WireError):
            self.close()
            raise SlideError(
                Code.DECODE_CRASH, f"the decoder process ended ({self._ending()}): the file is likely damaged"
            ) from None
        except BaseException:
            self.close()
            raise

    def _ending(self) -> str:
        code = self._process.returncode
        return f"signal {-code}" if code is not None and code < 0 else f"status {code}"


def _spawn(fd: int, limits: Decode) -> subprocess.Popen[bytes]:
    """Start the child in its own session, with nothing of ours but one end of the socket."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    command = [sys.executable, "-P", "-m", "xmag.slide.decoder_main", str(fd), limits.model_dump_json()]
    return subprocess.Popen(  # noqa: S603
        command,
        cwd="/",
        env={"PYTHONPATH": path, "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(fd,),
        start_new_session=True,
    )


def _error(fields: dict[str, str]) -> XmagError:
    code = Code(fields["code"])
    return _KINDS.get(code, SlideError)(code, fields["detail"])


def _slide_info(fields: dict[str, Any]) -> SlideInfo:
    mpp = fields["mpp"]
    return SlideInfo(
        sha256=fields["sha256"],
        width=Level0Px(fields["width"]),
        height=Level0Px(fields["height"]),
        mpp=None if mpp is None else MppXY(Mpp(mpp[0]), Mpp(mpp[1])),
        mpp_source=fields["mpp_source"],
        vendor=fields["vendor"],
        levels=tuple(LevelInfo(*each) for each in fields["levels"]),
    )


def _tile_plan(fields: dict[str, Any], payload: bytes) -> TilePlan:
    height, width = fields["mask"]
    count = fields["count"]
    mask_end = (height * width + 7) // 8
    bits = np.frombuffer(payload, np.uint8, mask_end)
    grid = TileGrid(
        cells=np.frombuffer(payload, np.int32, 2 * count, mask_end).reshape(count, 2),
        tissue=np.frombuffer(payload, np.float32, count, mask_end + 8 * count),
        span=(fields["span"][0], fields["span"][1]),
        tile_px=fields["tile_px"],
        columns=fields["columns"],
        rows=fields["rows"],
    )
    mask = np.unpackbits(bits, count=height * width).reshape(height, width).astype(np.bool_)
    return TilePlan(grid, mask, Reading(**fields["reading"]))
