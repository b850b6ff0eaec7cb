import torch

from xmag.manifest import VitSpec
from xmag.nn.vit import build_vit, embed, parameters


def test_the_default_is_a_vit_b_14_of_86_million_weights():
    assert 85_000_000 < parameters(VitSpec()) < 87_000_000
    with torch.device("meta"):
        vit = build_vit(VitSpec())
        tokens = vit.forward_features(torch.empty(3, 3, 224, 224))
        assert tokens.shape == (3, 1 + 256, 768)
        assert embed(vit, torch.empty(3, 3, 224, 224)).shape == (3, 768)
    assert vit.norm.eps == 1e-6


def test_the_embedding_is_the_normed_class_token():
    torch.manual_seed(0)
    spec = VitSpec(img_size=28, patch_size=14, embed_dim=24, depth=2, num_heads=2, reg_tokens=2)
    vit = build_vit(spec).eval()
    images = torch.randn(2, 3, 28, 28)
    tokens = vit.forward_features(images)
    assert tokens.shape == (2, 1 + 2 + 4, 24)
    assert torch.equal(embed(vit, images), tokens[:, 0])
    assert torch.allclose(tokens.mean(-1), torch.zeros(2, 7), atol=1e-6)


def test_every_weight_of_the_encoder_learns():
    torch.manual_seed(0)
    vit = build_vit(VitSpec(img_size=28, patch_size=14, embed_dim=24, depth=2, num_heads=2))
    embed(vit, torch.randn(2, 3, 28, 28)).square().sum().backward()
    assert all(weight.grad is not None for weight in vit.parameters())
