"""Small slides written on the spot, and a decoder process."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from xmag.config import Decode
from xmag.slide.decoder import Decoder
from xmag.slide.location import SlideLocation

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
