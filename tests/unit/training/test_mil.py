import numpy as np
import pytest
import torch

from training.metrics import accuracy
from training.mil import MilSpec, architecture, class_weights, pad, probabilities, train, warm_cosine
from xmag.nn.mil import ABMIL

SPEC = MilSpec(hidden_dim=16, attention_dim=8, epochs=15, rate=5e-3, batch=8)


def toy(count: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """One telling tile among noise says the class."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    bags = [rng.normal(size=(int(rng.integers(3, 12)), 6)).astype(np.float32) for _ in targets]
    for bag, target in zip(bags, targets, strict=True):
        bag[rng.integers(len(bag)), :2] = (6.0, -6.0) if target else (-6.0, 6.0)
    return bags, targets


def test_a_head_learns_which_tile_matters() -> None:
    head = train(*toy(80, 0), 2, SPEC)
    bags, targets = toy(60, 1)
    assert accuracy(targets, probabilities(head, bags)) > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    one, same, other = (train(*toy(16, 0), 2, SPEC.model_copy(update={"seed": seed})) for seed in (3, 3, 4))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def test_training_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    train(*toy(8, 0), 2, SPEC.model_copy(update={"epochs": 1}))
    assert torch.equal(torch.rand(3), expected)


def test_every_parameter_moves() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SPEC.seed)
        before = ABMIL(architecture(6, 2, SPEC)).state_dict()
    after = train(*toy(16, 0), 2, SPEC.model_copy(update={"epochs": 2})).state_dict()
    # The score's bias shifts every tile alike, so the softmax takes it out again.
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still <= {"attention_score.bias"}


def test_a_trained_head_is_in_eval_mode() -> None:
    assert not train(*toy(8, 0), 2, SPEC.model_copy(update={"epochs": 1})).training


def test_a_padded_batch_says_the_same_as_single_bags() -> None:
    bags, targets = toy(9, 2)
    head = train(bags, targets, 2, SPEC.model_copy(update={"epochs": 1}))
    with torch.inference_mode():
        together = head(*pad(bags)).softmax(1).double().numpy()
    np.testing.assert_allclose(together, probabilities(head, bags), atol=1e-6)


def test_padding_is_masked_and_bags_keep_their_order() -> None:
    bags = [np.full((n, 2), n, np.float32) for n in (2, 5, 1)]
    batch, mask = pad(bags)
    assert batch.shape == (3, 5, 2)
    assert mask.sum(1).tolist() == [2, 5, 1]
    assert torch.equal(batch[~mask], torch.zeros(7, 2))
    assert batch[:, 0, 0].tolist() == [2, 5, 1]


def test_rare_classes_weigh_as_much_as_common_ones() -> None:
    targets = np.array([0] * 9 + [2])
    weights = class_weights(targets, 3)
    assert weights[0] * 9 == pytest.approx(float(weights[2]))
    assert float(weights[torch.from_numpy(targets)].mean()) == pytest.approx(1.0)


def test_the_rate_rises_then_falls_to_nothing() -> None:
    rates = [warm_cosine(step, 5, 50) for step in range(51)]
    assert rates[4] == 1.0
    assert rates[:5] == sorted(rates[:5])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[50] == pytest.approx(0.0)
