"""Pixels from a file's own JPEG tiles, shrunk while they are decoded. Runs in the decoder process.

Of a slide whose level is one tiled directory of JPEG streams only the streams that a wanted tile touches are
read, each once, and libjpeg-turbo makes them 1/2, 1/4 or 1/8 of their size by working on fewer frequencies.
Everything else is OpenSlide's: other vendors and compressions (JPEG 2000 among them), DICOM, levels that two
directories could be, and every tile that touches a stream that is missing or does not decode cleanly.

Agreement with OpenSlide at the same level: without shrinking the same pixels, but for a level that was cut
short when it was made, where OpenSlide starts between two pixels and mixes them. Shrinking by decoding takes
means of 2 x 2 to 8 x 8 pixels, which `xmag.slide.equalise` brings near to the release's filter: on stained
tissue a mean absolute difference below 3 of 255 to Lanczos, below 6 on very sharp scans, and embeddings of a
cosine of at least 0.999. To plain means it is below 1, or 3 where colour is subsampled along one axis only.
White lies outside the level, as OpenSlide's.
"""

import os
import struct

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from xmag.slide import resample
from xmag.slide.equalise import REACH, taps
from xmag.slide.jpeg_stream import StreamError, Streams
from xmag.slide.reader import Slide
from xmag.slide.resample import Box
from xmag.slide.tiff import numbers
from xmag.slide.tiff_levels import JpegLevel, jpeg_level

VENDORS = frozenset({"aperio", "generic-tiff"})
"""OpenSlide's names of the formats whose levels are whole directories, without overlap or canvas."""

SCALES = (8, 4, 2, 1)
CACHE_BYTES = 256 * 1024**2
"""Most decoded pixels that are kept for the next row of tiles."""

NEAR = 1 / 256
"""Pixels by which a corner may miss a whole pixel and still be one."""

Rgb = NDArray[np.uint8]
Taps = NDArray[np.float32] | None


class BrokenTileError(Exception):
    """A compressed tile is missing or does not decode cleanly: OpenSlide has to decide."""


def jpeg_tiles(
    slide: Slide, level: int, steps: tuple[float, float], resampling: str, window: int
) -> "JpegTiles | None":
    """The JPEG tiles of a level, shrunk as far as ``steps`` allow; None where they are left to OpenSlide.

    Args:
        slide: an open slide.
        level: index of the pyramid level.
        steps: its pixels for each pixel wanted along x and y; 2 % short of a scale is near enough.
        resampling: the filter to come near to.
        window: height in shrunken pixels of what is wanted at once.
    """
    if slide.route == "openslide" or slide.info.vendor not in VENDORS:
        return None
    here = slide.info.levels[level]
    found = jpeg_level(slide.fd, here.width, here.height)
    if found is None:
        return None
    scale = next((each for each in SCALES if each <= min(steps) * 1.02), 1)
    weights = (taps(resampling, scale, steps[0] / scale), taps(resampling, scale, steps[1] / scale))
    try:
        return JpegTiles(slide.fd, found, scale, window, weights)
    except (struct.error, StreamError):
        return None


class JpegTiles:
    """One level at 1/``scale`` of its size.

    Args:
        fd: the slide's file.
        level: where it holds the level.
        scale: 1, 2, 4 or 8.
        window: height in shrunken pixels of what is wanted at once.
        weights: along x and y, as `xmag.slide.equalise.taps` gives them.

    Raises struct.error and StreamError for damaged tables.
    """

    def __init__(
        self, fd: int, level: JpegLevel, scale: int, window: int, weights: tuple[Taps, Taps] = (None, None)
    ) -> None:
        self.scale = scale
        self._fd = fd
        self._level = level
        self._weights = weights
        self._offsets = numbers(fd, level.offsets)
        self._counts = numbers(fd, level.counts)
        self._streams = Streams(level.tables, rgb=level.rgb, width=level.tile_width, height=level.tile_height)
        self._width, self._height = level.tile_width // scale, level.tile_height // scale
        rows = window // self._height + 3
        self._places = max(1, min(CACHE_BYTES // (self._width * self._height * 3), rows * level.across))
        self._cache: dict[tuple[int, int], Rgb | None] = {}

    def cut(self, box: Box, out: Rgb, resampling: str) -> None:
        """Fill ``out`` (h, w, 3) with a box of the shrunken level; raises BrokenTileError.

        Whole pixels one to one are copied, all else is resampled at real coordinates.
        """
        height, width = out.shape[:2]
        left, top = round(box[0]), round(box[1])
        nearest = (left, top, left + width, top + height)
        if all(abs(real - whole) < NEAR for real, whole in zip(box, nearest, strict=True)):
            self.fill(left, top, out)
        else:
            out[...] = resample.shrink(self.read, box, (width, height), resampling, lambda _: None)

    def read(self, left: int, top: int, width: int, height: int) -> tuple[Image.Image, float, float]:
        """A region of the shrunken level as `xmag.slide.resample.Read` wants it; raises BrokenTileError."""
        pixels = np.empty((height, width, 3), np.uint8)
        self.fill(left, top, pixels)
        return Image.fromarray(pixels), float(left), float(top)

    def fill(self, left: int, top: int, out: Rgb) -> None:
        """Fill ``out`` (h, w, 3) from whole pixels of the shrunken level; raises BrokenTileError."""
        x, y = self._weights
        if x is None and y is None:
            self._copy(left, top, out)
            return
        wide = np.empty((out.shape[0] + 2 * REACH, out.shape[1] + 2 * REACH, 3), np.uint8)
        self._copy(left - REACH, top - REACH, wide)
        only = np.ones(1, np.float32)
        near = cv2.sepFilter2D(wide, -1, only if x is None else x, only if y is None else y)
        out[...] = near[REACH:-REACH, REACH:-REACH]

    def _copy(self, left: int, top: int, out: Rgb) -> None:
        """Fill ``out`` (h, w, 3) from the tiles that it touches; white beyond them."""
        tall, wide = self._height, self._width
        bottom, right = top + out.shape[0], left + out.shape[1]
        rows = range(max(0, top // tall), min(self._level.down, -(-bottom // tall)))
        columns = range(max(0, left // wide), min(self._level.across, -(-right // wide)))
        if top < 0 or left < 0 or bottom > self._level.down * tall or right > self._level.across * wide:
            out[...] = 255
        for row in rows:
            y = row * tall
            y0, y1 = max(top, y), min(bottom, y + tall)
            for column in columns:
                x = column * wide
                x0, x1 = max(left, x), min(right, x + wide)
                tile = self._tile(row, column)
                out[y0 - top : y1 - top, x0 - left : x1 - left] = tile[y0 - y : y1 - y, x0 - x : x1 - x]

    def _tile(self, row: int, column: int) -> Rgb:
        """A tile (h, w, 3), decoded or kept; of those kept the one not used for longest makes room."""
        key = (row, column)
        if key in self._cache:
            tile = self._cache.pop(key)
        else:
            tile = self._decode(row, column)
            if len(self._cache) >= self._places:
                del self._cache[next(iter(self._cache))]
        self._cache[key] = tile
        if tile is None:
            raise BrokenTileError
        return tile

    def _decode(self, row: int, column: int) -> Rgb | None:
        level, scale = self._level, self.scale
        inside = (level.height - row * level.tile_height, level.width - column * level.tile_width)
        if inside[0] >= level.tile_height and inside[1] >= level.tile_width:
            return self._pixels(row, column, scale)
        # what lies beyond the border is anything, so it must be white before pixels are averaged
        whole = self._pixels(row, column, 1)
        if whole is None:
            return None
        whole[inside[0] :] = 255
        whole[:, inside[1] :] = 255
        if scale == 1:
            return whole
        size = (self._width, self._height)
        return np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.uint8)

    def _pixels(self, row: int, column: int, scale: int) -> Rgb | None:
        """A tile decoded at 1/``scale``; None when it does not decode cleanly."""
        width, height = self._level.tile_width // scale, self._level.tile_height // scale
        try:
            stream = self._streams.whole(self._stream(row * self._level.across + column))
            pixels: Rgb = simplejpeg.decode_jpeg(
                stream, "RGB", fastdct=False, fastupsample=False, min_height=height, min_width=width
            )
        except (StreamError, ValueError, RuntimeError):
            return None
        return pixels if pixels.shape == (height, width, 3) else None

    def _stream(self, index: int) -> bytes:
        """A tile as the file holds it; StreamError when it is missing, cut or longer than its pixels."""
        offset, count = int(self._offsets[index]), int(self._counts[index])
        if offset <= 0 or not 0 < count <= self._level.tile_width * self._level.tile_height * 6:
            raise StreamError
        stream = os.pread(self._fd, count, offset)
        if len(stream) != count:
            raise StreamError
        return stream
