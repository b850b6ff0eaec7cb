"""Decoder processes kept warm from slide to slide: starting one costs more than reading a small slide."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from xmag.config import Decode
from xmag.errors import XmagError
from xmag.slide.decoder import Decoder

SLIDES = 64
"""A decoder is renewed after so many slides, whatever its libraries may have kept of them."""


class Decoders:
    """Idle decoders; safe to share between threads; use it as a context manager."""

    def __init__(self, limits: Decode) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._idle: list[tuple[Decoder, int]] = []
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def lend(self) -> Iterator[Decoder]:
        """A decoder for one slide; raises SlideError DECODE_CRASH when none can start.

        After an error it is not lent again: what a slide broke must not meet the next one.
        """
        decoder, slides = self._take()
        try:
            yield decoder
        except BaseException:
            decoder.close()
            raise
        self._put(decoder, slides + 1)

    def close(self) -> None:
        """End the idle decoders; one at work ends when it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for decoder, _ in idle:
            decoder.close()

    def _take(self) -> tuple[Decoder, int]:
        while True:
            with self._lock:
                idle = self._idle.pop() if self._idle else None
            if idle is None:
                return Decoder(self._limits), 0
            if idle[0].alive:
                return idle
            idle[0].close()

    def _put(self, decoder: Decoder, slides: int) -> None:
        try:
            decoder.forget()
        except XmagError:
            decoder.close()
        with self._lock:
            if not self._closed and not decoder.closed and slides < SLIDES:
                self._idle.append((decoder, slides))
                return
        decoder.close()
