import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xmag.manifest import AbmilSpec
from xmag.nn.mil import ABMIL

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
sizes = st.integers(1, 40)


def network(seed=0, in_dim=12, classes=3) -> ABMIL:
    torch.manual_seed(seed)
    return ABMIL(AbmilSpec(in_dim=in_dim, hidden_dim=16, attention_dim=8, classes=classes)).eval()


@settings(deadline=None)
@given(sizes, st.integers(1, 30), st.integers(0, 99), st.sampled_from([0.0, 1.0, -1e4]))
def test_a_padded_bag_equals_the_bag(tiles, padding, seed, filling):
    net = network(seed)
    bag = torch.randn(1, tiles, 12)
    padded = torch.cat([bag, torch.full((1, padding, 12), filling)], dim=1)
    mask = torch.arange(tiles + padding)[None] < tiles
    whole, other = net.explain(bag), net.explain(padded, mask)
    assert torch.allclose(net(padded, mask), net(bag), **TOLERANCE)
    assert torch.allclose(other.attention[:, :tiles], whole.attention, **TOLERANCE)
    assert (other.attention[:, tiles:] == 0).all()
    assert (other.evidence[:, tiles:] == 0).all()


@settings(deadline=None)
@given(st.lists(sizes, min_size=2, max_size=5), st.integers(0, 99))
def test_a_batch_of_bags_equals_each_bag_alone(lengths, seed):
    net = network(seed)
    bags = [torch.randn(length, 12) for length in lengths]
    batch = torch.nn.utils.rnn.pad_sequence(bags, batch_first=True)
    mask = torch.arange(batch.shape[1])[None] < torch.tensor(lengths)[:, None]
    alone = torch.cat([net(bag[None]) for bag in bags])
    assert torch.allclose(net(batch, mask), alone, **TOLERANCE)


@settings(deadline=None)
@given(sizes, st.integers(0, 99))
def test_the_order_of_tiles_does_not_matter(tiles, seed):
    net = network(seed)
    bag = torch.randn(1, tiles, 12)
    order = torch.randperm(tiles)
    assert torch.allclose(net(bag[:, order]), net(bag), **TOLERANCE)
    assert torch.allclose(
        net.forward_attention(bag[:, order]), net.forward_attention(bag)[:, order], **TOLERANCE
    )


@settings(deadline=None)
@given(sizes, st.integers(0, 99))
def test_evidence_and_bias_add_up_to_the_logits(tiles, seed):
    net = network(seed).double()
    found = net.explain(torch.randn(2, tiles, 12, dtype=torch.float64))
    assert torch.allclose(found.evidence.sum(1) + net.classifier.bias, found.logits, rtol=1e-12, atol=1e-12)
    assert torch.allclose(found.attention.sum(1), torch.ones(2, dtype=torch.float64), atol=1e-12)


def test_the_parts_make_the_whole():
    net, bag = network(), torch.randn(2, 9, 12)
    features = net.forward_features(bag)
    assert features.shape == (2, 16)
    assert torch.equal(net.forward_head(features), net(bag))
    assert torch.equal(net.explain(bag).logits, net(bag))
    assert torch.equal(net.explain(bag).attention, net.forward_attention(bag).softmax(1))


def test_one_tile_takes_all_attention():
    assert network().explain(torch.randn(1, 1, 12)).attention.tolist() == [[1.0]]


def test_the_scale_of_embeddings_is_normed_away():
    net, bag = network(), torch.randn(1, 6, 12)
    assert torch.allclose(net(bag * 1000), net(bag * 10), **TOLERANCE)


def test_dropout_acts_in_training_only_and_every_weight_learns():
    net, bag = network(), torch.randn(1, 50, 12)
    assert torch.equal(net(bag), net(bag))
    net.train()
    assert not torch.equal(net(bag), net(bag))
    net(bag).square().sum().backward()
    # the softmax ignores a shift common to all tiles, so that one bias has no gradient to speak of
    silent = [name for name, w in net.named_parameters() if w.grad is None or w.grad.abs().max() < 1e-9]
    assert set(silent) <= {"attention_score.bias"}
