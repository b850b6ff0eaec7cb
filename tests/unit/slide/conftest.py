"""Small slides written on the spot, and a decoder process."""

import io
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest
import simplejpeg
import tifffile
from numpy.typing import NDArray
from PIL import Image

from xmag.config import Decode
from xmag.slide.decoder import Decoder
from xmag.slide.location import SlideLocation
from xmag.slide.synthetic.recipe import Recipe
from xmag.slide.synthetic.render import render

Rgb = NDArray[np.uint8]
WriteSlide = Callable[..., SlideLocation]

APERIO = "Aperio Image Library v11.2.1 \r\n{w}x{h} [0,0 {w}x{h}] (256x256) ZIP/RGB|AppMag = 20|Patient = Doe"


@pytest.fixture
def picture() -> Rgb:
    """Glass with one large piece of pink and purple tissue, smooth, no multiple of any tile; 1500 x 1100."""
    height, width = 1100, 1500
    rng = np.random.default_rng(0)
    coarse = rng.random((height // 20, width // 20), dtype=np.float32)
    share = cv2.GaussianBlur(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), (0, 0), 6)
    share = np.clip((share - 0.3) * 2.5, 0, 1)[..., None]
    tissue = share * np.array([150, 90, 170.0]) + (1 - share) * np.array([235, 170, 205.0])
    rgb = np.full((height, width, 3), 244, np.uint8)
    rgb[150:1000, 200:] = tissue[150:1000, 200:].astype(np.uint8)
    return cv2.GaussianBlur(rgb, (0, 0), 3).astype(np.uint8)


@pytest.fixture
def write(tmp_path: Path) -> WriteSlide:
    """Write a lossless tiled TIFF beneath ``tmp_path``; a ``.svs`` name makes it an Aperio slide."""

    def write_slide(
        name: str,
        rgb: Rgb,
        mpp: tuple[float, float] | None = (0.5, 0.5),
        levels: Sequence[int] = (1,),
    ) -> SlideLocation:
        height, width = rgb.shape[:2]
        text = APERIO.format(w=width, h=height) + (f"|MPP = {mpp[0]}" if mpp else "")
        resolution = (1e4 / mpp[0], 1e4 / mpp[1]) if mpp else (1, 1)
        with tifffile.TiffWriter(tmp_path / name) as file:
            for downsample in levels:
                size = (width // downsample, height // downsample)
                whole = rgb[: size[1] * downsample, : size[0] * downsample]
                level = rgb if downsample == 1 else cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
                file.write(
                    level,
                    tile=(256, 256),
                    photometric="rgb",
                    compression="zlib",
                    description=text if name.endswith(".svs") else None,
                    metadata=None,
                    subfiletype=int(downsample > 1),
                    resolution=resolution,
                    resolutionunit="CENTIMETER" if mpp else "NONE",
                )
        return SlideLocation(tmp_path, PurePosixPath(name))

    return write_slide


@pytest.fixture(scope="session")
def decoders() -> Iterator[list[Decoder]]:
    running: list[Decoder] = []
    yield running
    for each in running:
        each.close()


@pytest.fixture
def decoder(decoders: list[Decoder]) -> Decoder:
    """The same child for many tests, a new one after a test that ended it."""
    if not decoders or decoders[-1].closed:
        decoders.append(Decoder(Decode()))
    return decoders[-1]


@pytest.fixture(scope="session")
def reference() -> Iterator[Decoder]:
    """A child that reads by OpenSlide alone."""
    with Decoder(Decode(route="openslide")) as child:
        yield child


@pytest.fixture(scope="session")
def stained() -> Rgb:
    """H&E-like texture with glass at its borders; 1600 x 1600."""
    return render(Recipe("isup", "3", 5, width_um=400, height_um=400, mpp=0.25)).rgb


@dataclass
class JpegTiff:
    """A TIFF of JPEG tiles, byte by byte: what tifffile would not write is written here.

    ``streams`` (see `level`) may be changed before `write`; equal ones share their bytes in the file.
    """

    order: str = "<"
    big: bool = False
    rgb: bool = False
    sampling: str = "420"
    tables: bool = True
    tile: int = 128
    mpp: float = 0.5
    levels: list[tuple[dict[int, object], list[bytes]]] = field(default_factory=list)

    def level(self, picture: Rgb) -> list[bytes]:
        """Add a level; its streams, row by row."""
        side = self.tile
        padded = np.pad(picture, ((0, -len(picture) % side), (0, -picture.shape[1] % side), (0, 0)))
        streams = [
            self.stream(padded[y : y + side, x : x + side])
            for y in range(0, len(padded), side)
            for x in range(0, padded.shape[1], side)
        ]
        self.add(picture.shape[1], picture.shape[0], streams)
        return streams

    def add(self, width: int, height: int, streams: list[bytes]) -> None:
        """Add a level of known streams."""
        per_cm = round(1e8 / self.mpp)
        tags: dict[int, object] = {254: int(bool(self.levels)), 256: width, 257: height, 258: (8, 8, 8)}
        tags |= {259: 7, 262: 2 if self.rgb else 6, 277: 3, 282: (per_cm, 10_000), 283: (per_cm, 10_000)}
        tags |= {284: 1, 296: 3, 322: self.tile, 323: self.tile}
        if self.tables:
            tags[347] = cut_stream(self.whole_stream(np.zeros((16, 16, 3), np.uint8)))[0]
        self.levels.append((tags, streams))

    def whole_stream(self, picture: Rgb) -> bytes:
        if not self.rgb:
            return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(picture), 90, "RGB", self.sampling))
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=90, keep_rgb=True, subsampling=0)
        return buffer.getvalue()

    def stream(self, picture: Rgb) -> bytes:
        """A tile as Aperio writes it: no colour in its header, tables only when the level has none."""
        tables, rest = cut_stream(self.whole_stream(picture))
        return rest if self.tables else tables[:-2] + rest[2:]

    def write(self, path: Path) -> SlideLocation:
        with path.open("wb") as file:
            file.write(self._head(0))
            directories = [self._tags(file, *level) for level in self.levels]
            link = len(self._head(0)) - (8 if self.big else 4)
            for tags in directories:
                at = file.seek(0, io.SEEK_END)
                file.seek(link)
                file.write(struct.pack(self.order + "IQ"[self.big], at))
                file.seek(at)
                file.write(struct.pack(self.order + "HQ"[self.big], len(tags)) + b"".join(tags))
                link = file.tell()
                file.write(bytes(8 if self.big else 4))
        return SlideLocation(path.parent, PurePosixPath(path.name))

    def _head(self, first: int) -> bytes:
        name = b"II" if self.order == "<" else b"MM"
        if self.big:
            return name + struct.pack(self.order + "HHHQ", 43, 8, 0, first)
        return name + struct.pack(self.order + "HI", 42, first)

    def _tags(self, file: io.BufferedWriter, tags: dict[int, object], streams: list[bytes]) -> list[bytes]:
        places: dict[bytes, int] = {b"": 0}
        for stream in streams:
            if stream not in places:
                places[stream] = file.tell()
                file.write(stream)
        wide = "u8" if self.big else "u4"
        offsets = np.array([places[stream] for stream in streams], self.order + wide)
        counts = np.array([len(stream) for stream in streams], self.order + "u4")
        every = tags | {324: offsets, 325: counts}
        return [self._entry(file, tag, every[tag]) for tag in sorted(every)]

    def _entry(self, file: io.BufferedWriter, tag: int, value: object) -> bytes:
        if isinstance(value, np.ndarray):
            kind, count, data = {4: 4, 8: 16}[value.itemsize], len(value), value.tobytes()
        elif isinstance(value, bytes):
            kind, count, data = 7, len(value), value
        elif tag in (282, 283):
            kind, count, data = 5, 1, struct.pack(self.order + "2I", *value)  # type: ignore[misc]
        elif isinstance(value, tuple):
            kind, count, data = 3, len(value), struct.pack(f"{self.order}{len(value)}H", *value)
        elif tag < 258:
            kind, count, data = 4, 1, struct.pack(self.order + "I", value)
        else:
            kind, count, data = 3, 1, struct.pack(self.order + "H", value)
        room = 8 if self.big else 4
        if len(data) > room:
            at = file.tell()
            file.write(data)
            data = struct.pack(self.order + "IQ"[self.big], at)
        return struct.pack(self.order + ("HHI", "HHQ")[self.big], tag, kind, count) + data.ljust(room, b"\0")


def cut_stream(stream: bytes) -> tuple[bytes, bytes]:
    """Tables and the rest of a JPEG stream, each a stream; nothing in them tells the colours."""
    at, tables, rest = 2, b"", b""
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if stream[at + 1] in (0xDB, 0xC4):
            tables += stream[at:end]
        elif stream[at + 1] < 0xE0:
            rest += stream[at:end]
        at = end
    scan = bytearray(stream[at:])
    frame = bytearray(rest)
    for index in range(3):
        frame[10 + 3 * index] = scan[5 + 2 * index] = index + 1  # components named as in YCbCr
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + bytes(frame + scan)


@pytest.fixture
def jpeg_tiff() -> type[JpegTiff]:
    return JpegTiff
