"""A small pool of decoder processes that show slides: a broken slide costs its own request only."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from anyio import CapacityLimiter, move_on_after, to_thread

from service.places import locate
from xmag.config import Settings
from xmag.db.slides import SlideRow
from xmag.errors import Code, RequestError, XmagError
from xmag.slide.decoder import Decoder

WAIT_SECONDS = 5.0

T = TypeVar("T")


@dataclass
class _Viewer:
    """One decoder process and the slide that it holds open."""

    decoder: Decoder | None = None
    slide: UUID | None = None

    def end(self) -> None:
        if self.decoder is not None:
            self.decoder.close()
        self.decoder, self.slide = None, None


class Viewers:
    """At most ``settings.decode.viewers`` slides are open; the one not looked at for longest makes room."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle = [_Viewer() for _ in range(settings.decode.viewers)]
        self._turn: CapacityLimiter | None = None
        self._lock = threading.Lock()
        self._closed = False

    async def show(self, slide: SlideRow, look: Callable[[Decoder], T]) -> T:
        """Run ``look`` on the slide's open decoder. Raises SlideError, and BUSY when all stay at work."""
        if self._turn is None:
            self._turn = CapacityLimiter(self._settings.decode.viewers)
        with move_on_after(WAIT_SECONDS) as waiting:
            async with self._turn:
                waiting.deadline = float("inf")
                return await to_thread.run_sync(self._show, slide, look, limiter=CapacityLimiter(1))
        raise RequestError(Code.BUSY, "every viewer is at work: try again in a moment")

    def close(self) -> None:
        """End all processes; one at work ends after its request."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for viewer in idle:
            viewer.end()

    def _show(self, slide: SlideRow, look: Callable[[Decoder], T]) -> T:
        viewer = self._take(slide.id)
        try:
            return look(self._opened(viewer, slide))
        except RequestError:
            raise
        except BaseException:
            viewer.end()
            raise
        finally:
            self._put(viewer)

    def _opened(self, viewer: _Viewer, slide: SlideRow) -> Decoder:
        if viewer.decoder is not None and viewer.slide == slide.id:
            try:
                viewer.decoder.check_unchanged()
                return viewer.decoder
            except XmagError:
                viewer.end()
        if viewer.decoder is None:
            viewer.decoder = Decoder(self._settings.decode)
        viewer.slide = None
        viewer.decoder.open(locate(self._settings, slide), expected=slide.fingerprint, digest=False)
        viewer.slide = slide.id
        return viewer.decoder

    def _take(self, slide_id: UUID) -> _Viewer:
        with self._lock:
            found = next((v for v in self._idle if v.slide == slide_id), self._idle[0])
            self._idle.remove(found)
            return found

    def _put(self, viewer: _Viewer) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(viewer)
                return
        viewer.end()
