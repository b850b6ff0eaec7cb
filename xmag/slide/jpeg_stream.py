"""JPEG streams of a TIFF made whole: with the shared tables, and with the TIFF's word on their colours."""

SOI, SOS = b"\xff\xd8", 0xDA
FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended and progressive Huffman frames."""

TABLES = frozenset({0xC4, 0xDB, 0xDD})
"""Huffman tables, quantisation tables, restart interval."""

IGNORED = frozenset({*range(0xE0, 0xF0), 0xFE})
"""Application segments and comments: JFIF and Adobe ones would speak of colour."""

_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
_SHORTEST = 4
"""Bytes of a marker and its length."""


class StreamError(Exception):
    """Bytes that are no stream of the expected kind."""


class Streams:
    """Makes the streams of one level whole.

    Args:
        tables: the level's JPEG tables as the file holds them; may be empty.
        rgb: whether the streams store RGB, else YCbCr.
        width: of every tile in pixels.
        height: of every tile in pixels.

    Raises StreamError for tables that are none.
    """

    def __init__(self, tables: bytes, *, rgb: bool, width: int, height: int) -> None:
        self._size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        # without it libjpeg guesses the colours from component names and a JFIF marker
        adobe = _ADOBE + (b"\x00" if rgb else b"\x01")
        self._start = SOI + adobe + (_tables(tables) if tables else b"")
        self._head = b""
        self._whole_head = b""

    def whole(self, tile: bytes) -> bytes:
        """A stream that any decoder reads; raises StreamError unless 8-bit, of 3 components and of our size.

        Nothing is decoded before its dimensions are known to be the level's.
        """
        if not self._head or not tile.startswith(self._head):
            kept, scan = self._kept(tile)
            # the same in nearly all tiles of a level
            self._head, self._whole_head = tile[: scan + 2], self._start + kept + tile[scan : scan + 2]
        return self._whole_head + tile[len(self._head) :]

    def _kept(self, tile: bytes) -> tuple[bytes, int]:
        """The segments before the scan that matter, and where the scan starts."""
        kept, frames, at = [], 0, 2
        marker, end = _segment(tile, at) if tile.startswith(SOI) else (-1, 0)
        while marker != SOS:
            segment = tile[at:end]
            if marker in FRAMES:
                frames += 1
                self._check_frame(segment)
            elif marker not in TABLES and marker not in IGNORED:
                raise StreamError
            if marker not in IGNORED:
                kept.append(segment)
            at = end
            marker, end = _segment(tile, at)
        if frames != 1:
            raise StreamError
        return b"".join(kept), at

    def _check_frame(self, segment: bytes) -> None:
        """8 bits, our size, three components."""
        if len(segment) != 19 or segment[4] != 8 or segment[5:9] != self._size or segment[9] != 3:
            raise StreamError


def _segment(data: bytes, at: int) -> tuple[int, int]:
    """Marker of the segment at ``at``, and where it ends."""
    if at + _SHORTEST > len(data) or data[at] != 0xFF:
        raise StreamError
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if end < at + _SHORTEST or end > len(data):
        raise StreamError
    return data[at + 1], end


def _tables(stream: bytes) -> bytes:
    """The table segments of a stream that holds nothing else."""
    if not stream.startswith(SOI):
        raise StreamError
    at, kept = 2, []
    while at < len(stream) and stream[at : at + 2] != b"\xff\xd9":
        marker, end = _segment(stream, at)
        if marker in TABLES:
            kept.append(stream[at:end])
        elif marker not in IGNORED:
            raise StreamError
        at = end
    return b"".join(kept)
