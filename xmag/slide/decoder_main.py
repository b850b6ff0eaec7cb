"""The decoder process: opens slides under limits and answers its parent over one socket.

Started by `xmag.slide.decoder` as ``python -m xmag.slide.decoder_main FD LIMITS``. A damaged file may abort
or hang the libraries in here; that ends this process and nothing else.
"""

import os
import resource
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import openslide

from xmag.config import Decode
from xmag.errors import Code, JobError, SlideError, XmagError
from xmag.manifest import TilingSpec
from xmag.slide import deepzoom, reader, tiles, wire
from xmag.slide.grid import TileGrid
from xmag.slide.info import MppOverride, SlideInfo
from xmag.slide.location import Fingerprint, SlideLocation
from xmag.units import Mpp, MppXY

SIGN_SECONDS = 0.25
"""Least time between two signs of progress."""

Header = dict[str, Any]


class Session:
    """One parent, at most one open slide."""

    def __init__(self, channel: socket.socket, limits: Decode) -> None:
        self.channel = channel
        self.limits = limits
        self.opened: reader.Slide | None = None
        self._last_sign = time.monotonic()

    @property
    def slide(self) -> reader.Slide:
        """The open slide; raises INTERNAL when none is open."""
        if self.opened is None:
            raise JobError(Code.INTERNAL, "no slide is open in the decoder")
        return self.opened

    def reply(self, header: Header, *payload: bytes | memoryview) -> None:
        """Send an answer."""
        wire.send(self.channel, header, *payload)
        self._last_sign = time.monotonic()

    def tick(self, done: float) -> None:
        """Tell the parent now and then that work goes on."""
        if time.monotonic() - self._last_sign >= SIGN_SECONDS:
            self.reply({"progress": done})


def main() -> None:
    """Serve the parent until it hangs up."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    limits = Decode.model_validate_json(sys.argv[2])
    _limit(limits.memory_bytes)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, args=(channel.fileno(),), daemon=True).start()
    session = Session(channel, limits)
    session.reply({"ready": True})
    while True:
        try:
            header, size = wire.receive_header(channel)
            payload = wire.receive(channel, size)
        except (EOFError, OSError):
            return
        _serve(session, header, bytes(payload))


def _limit(memory_bytes: int) -> None:
    if sys.platform == "linux":  # elsewhere the kernel does not enforce it
        _lower(resource.RLIMIT_AS, memory_bytes)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, 1024)


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _end_with_parent(fd: int) -> None:
    """End even in the middle of a read when the parent is gone, however it went."""
    poll = select.poll()
    poll.register(fd, 0)
    while not any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll()):
        time.sleep(SIGN_SECONDS)
    os._exit(1)


def _serve(session: Session, header: Header, payload: bytes) -> None:
    """Answer one command; this is the process's edge, so every error becomes a reply."""
    try:
        COMMANDS[header["command"]](session, header, payload)
    except ConnectionError:
        sys.exit(1)
    except XmagError as error:
        _refuse(session, error)
    except MemoryError:
        _refuse(session, SlideError(Code.SLIDE_TOO_LARGE, "the slide needs more memory than a decoder gets"))
    except (openslide.OpenSlideError, OSError):
        _refuse(session, _damage(session))
    except Exception as error:  # noqa: BLE001
        _refuse(session, JobError(Code.INTERNAL, f"the decoder failed: {type(error).__name__}"))


def _refuse(session: Session, error: XmagError) -> None:
    session.reply({"error": {"code": error.code, "detail": error.detail}})


def _damage(session: Session) -> XmagError:
    """Why a read failed: a slide that changed underneath is not corrupt."""
    try:
        if session.opened is not None:
            session.opened.identity.check()
    except XmagError as error:
        return error
    return SlideError(Code.SLIDE_CORRUPT, "the slide is damaged or cut short: copy or scan it again")


def _open(session: Session, header: Header, _: bytes) -> None:
    _close(session)
    mpp, expected = header["mpp"], header["expected"]
    session.opened = reader.open_slide(
        SlideLocation(Path(header["root"]), PurePosixPath(header["relative"])),
        session.limits,
        mpp=MppOverride(MppXY(Mpp(mpp["x"]), Mpp(mpp["y"])), mpp["reason"]) if mpp else None,
        expected=Fingerprint(**expected) if expected else None,
        digest=header["digest"],
        on_progress=session.tick,
    )
    session.reply({"info": _info_fields(session.opened.info)})


def _close(session: Session) -> None:
    opened, session.opened = session.opened, None
    if opened is not None:
        opened.close()


def _info_fields(info: SlideInfo) -> Header:
    return {
        "sha256": info.sha256,
        "width": info.width,
        "height": info.height,
        "mpp": None if info.mpp is None else [info.mpp.x, info.mpp.y],
        "mpp_source": info.mpp_source,
        "vendor": info.vendor,
        "levels": [[each.width, each.height, each.downsample] for each in info.levels],
    }


def _plan(session: Session, header: Header, _: bytes) -> None:
    spec = TilingSpec.model_validate(header["spec"])
    grid, mask = tiles.plan(session.slide, spec, session.limits, session.tick)
    fields = {
        "span": grid.span,
        "tile_px": grid.tile_px,
        "columns": grid.columns,
        "rows": grid.rows,
        "count": len(grid),
        "mask": mask.shape,
        "reading": asdict(tiles.reading(session.slide, grid, spec)),
    }
    session.reply(fields, np.packbits(mask).tobytes(), grid.cells.tobytes(), grid.tissue.tobytes())


def _tiles(session: Session, header: Header, payload: bytes) -> None:
    spec = TilingSpec.model_validate(header["spec"])
    cells = np.frombuffer(payload, np.int32).reshape(-1, 2)
    grid = TileGrid(
        cells=cells,
        tissue=np.zeros(len(cells), np.float32),
        span=(header["span"][0], header["span"][1]),
        tile_px=header["tile_px"],
        columns=0,
        rows=0,
    )
    for batch, reread in tiles.read_tiles(session.slide, grid, spec, header["batch"], session.tick):
        session.reply({"reread": reread}, batch.data.cast("B"))


def _check(session: Session, *_: object) -> None:
    session.slide.identity.check()
    session.reply({"unchanged": True})


def _forget(session: Session, *_: object) -> None:
    _close(session)
    session.reply({})


def _thumbnail(session: Session, header: Header, _: bytes) -> None:
    session.reply({}, deepzoom.thumbnail(session.slide, header["max_px"], session.tick))


def _dzi(session: Session, *_: object) -> None:
    session.reply({"xml": deepzoom.dzi(session.slide)})


def _dzi_tile(session: Session, header: Header, _: bytes) -> None:
    place = (header["level"], header["column"], header["row"])
    session.reply({}, deepzoom.dzi_tile(session.slide, *place, session.tick))


COMMANDS: dict[str, Callable[[Session, Header, bytes], None]] = {
    "open": _open,
    "plan": _plan,
    "tiles": _tiles,
    "check": _check,
    "forget": _forget,
    "thumbnail": _thumbnail,
    "dzi": _dzi,
    "dzi_tile": _dzi_tile,
}


if __name__ == "__main__":
    main()
