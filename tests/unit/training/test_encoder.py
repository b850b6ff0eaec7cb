import numpy as np
import torch

from training.encoder import EncoderSpec, Taught, see_tissue, train_encoder
from training.stain import augment, restain
from xmag.manifest import PreprocessSpec, VitSpec
from xmag.nn.vit import embed

ARCHITECTURE = VitSpec(img_size=28, embed_dim=16, depth=1, num_heads=2, mlp_ratio=1.0, init_values=1.0)
SPEC = EncoderSpec(
    architecture=ARCHITECTURE, preprocess=PreprocessSpec(input_px=28), epochs=2, batch=4, rate=5e-3
)


def tiles(count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Each patch is dark (kind 1) or pale (kind 0)."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, (count, 2, 2), dtype=np.uint8)
    pixels = kinds.repeat(14, 1).repeat(14, 2)[..., None]
    noise = rng.integers(0, 40, (count, 28, 28, 3))
    return (215 - 130 * pixels.astype(np.int64) + noise).astype(np.uint8), kinds


def test_the_same_seed_gives_the_same_encoder() -> None:
    one, same = (train_encoder(*tiles(), 2, SPEC, lambda _d, _t: None) for _ in range(2))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
    assert not one.training


def test_every_parameter_moves() -> None:
    pixels, kinds = tiles()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SPEC.seed)
        start = Taught(ARCHITECTURE, 2)
        see_tissue(start.vit, torch.from_numpy(pixels), SPEC.preprocess)
    before, after = (
        start.vit.state_dict(),
        train_encoder(pixels, kinds, 2, SPEC, lambda _d, _t: None).state_dict(),
    )
    # Attention takes the bias of its keys out again: every query sees it alike.
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert not still


def test_the_class_token_learns_what_the_tile_holds() -> None:
    pixels, kinds = tiles(64)
    vit = train_encoder(pixels, kinds, 2, SPEC.model_copy(update={"epochs": 30}), lambda _d, _t: None)
    from xmag.nn.preprocess import normalise

    with torch.inference_mode():
        tokens = embed(vit, normalise(torch.from_numpy(pixels), SPEC.preprocess)).numpy()
    share = kinds.reshape(len(kinds), -1).mean(1)
    design = np.concatenate([tokens, np.ones((len(tokens), 1))], 1)
    fitted = design @ np.linalg.lstsq(design, share, rcond=None)[0]
    assert np.corrcoef(fitted, share)[0, 1] > 0.9


def test_progress_ends_at_the_total() -> None:
    seen: list[tuple[int, int]] = []
    train_encoder(*tiles(), 2, SPEC, lambda done, total: seen.append((done, total)))
    assert seen == [(step, 6) for step in range(1, 7)]


def test_flips_keep_tiles_and_labels_together() -> None:
    pixels, kinds = tiles(8)
    torch.manual_seed(0)
    for _ in range(8):
        changed, labels = augment(torch.from_numpy(pixels), torch.from_numpy(kinds))
        grey = changed.float().mean(-1).view(8, 2, 14, 2, 14).mean((2, 4))
        for tile, label in zip(grey, labels, strict=True):
            if 0 < label.sum() < 4:
                assert tile[label == 1].max() < tile[label == 0].min()


def test_restained_tiles_differ_but_stay_tissue() -> None:
    torch.manual_seed(0)
    before = torch.from_numpy(tiles(8)[0])
    after = restain(before)
    assert after.dtype == torch.uint8
    assert after.shape == before.shape
    assert not torch.equal(after, before)
    assert (after.float() - before.float()).abs().mean() < 40
