import pytest
import torch

from xmag.manifest import PreprocessSpec
from xmag.nn.preprocess import normalise

SPEC = PreprocessSpec(input_px=4)


def test_numbers_and_layout():
    tiles = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    tiles[0, 1, 2] = torch.tensor([255, 128, 1], dtype=torch.uint8)
    found = normalise(tiles, SPEC)
    assert (found.dtype, found.shape) == (torch.float32, (2, 3, 4, 4))
    expected = [(v / 255 - m) / s for v, m, s in zip((255, 128, 1), SPEC.mean, SPEC.std, strict=True)]
    assert found[0, :, 1, 2].tolist() == pytest.approx(expected, abs=1e-6)
    black = [-m / s for m, s in zip(SPEC.mean, SPEC.std, strict=True)]
    assert found[1, :, 3, 3].tolist() == pytest.approx(black, abs=1e-6)


@pytest.mark.parametrize(
    "tiles",
    [
        torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
        torch.zeros(1, 8, 8, 3, dtype=torch.uint8),
        torch.zeros(4, 4, 3, dtype=torch.uint8),
        torch.zeros(1, 4, 4, 4, dtype=torch.uint8),
        torch.zeros(1, 4, 4, 3),
    ],
)
def test_nothing_is_resized_or_converted_in_silence(tiles):
    with pytest.raises(ValueError, match="uint8"):
        normalise(tiles, SPEC)
