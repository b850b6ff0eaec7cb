import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from xmag.config import Worker
from xmag.errors import Code, InferenceError, PlaceError, ReleaseError
from xmag.nn import runtime
from xmag.nn.runtime import Engine, choose_device, softmax

CPU = Worker(device="cpu")


def engine(releases, **worker) -> Engine:
    return Engine(releases.folder, releases.trusted, Worker(device="cpu", **worker))


def tiles(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 3), dtype=np.uint8)


def short_of_memory(encoder, fits):
    """The encoder as it is when only ``fits`` tiles fit into the device's memory."""

    class Short:
        def __init__(self):
            self.sizes = []

        def __call__(self, batch):
            self.sizes.append(len(batch))
            if len(batch) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return encoder(batch)

    return Short()


def test_encode_gives_one_embedding_for_each_tile_in_order(releases):
    subject = engine(releases)
    encoder = subject.encoder(releases.encoder())
    found = subject.encode(encoder, tiles(11))
    assert (found.shape, found.dtype) == ((11, 24), np.float32)
    assert np.array_equal(found, subject.encode(encoder, tiles(11)))
    one = np.concatenate([subject.encode(encoder, tiles(11)[i : i + 1]) for i in range(11)])
    assert np.allclose(found, one, atol=1e-5)


def test_predict_explains_its_logits(releases):
    subject = engine(releases)
    head = subject.head(releases.head(releases.encoder()))
    bag = np.random.default_rng(0).standard_normal((13, 24)).astype(np.float32)
    found = subject.predict(head, bag)
    assert found.probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert np.allclose(
        np.log(found.probabilities) - found.logits, (np.log(found.probabilities) - found.logits)[0]
    )
    assert found.attention.shape == (13,)
    assert found.attention.sum() == pytest.approx(1, abs=1e-5)
    bias = head.module.classifier.bias.numpy()
    assert np.allclose(found.evidence.sum(0) + bias, found.logits, atol=1e-5)


@pytest.mark.parametrize("fits", [1, 2, 5])
def test_a_batch_too_large_for_memory_is_halved(releases, fits):
    subject = engine(releases)
    encoder = subject.encoder(releases.encoder())
    short = short_of_memory(encoder, fits)
    assert np.allclose(subject.encode(short, tiles(9)), subject.encode(encoder, tiles(9)), atol=1e-5)
    assert short.sizes[0] == 9
    assert max(short.sizes[short.sizes.index(min(short.sizes)) :]) <= fits


def test_one_tile_too_large_for_memory(releases):
    subject = engine(releases)
    with pytest.raises(InferenceError) as caught:
        subject.encode(short_of_memory(None, 0), tiles(3))
    assert caught.value.code == Code.INFER_OOM


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_main_memory_runs_out(releases, error):
    def fail(batch):
        raise error

    with pytest.raises(InferenceError) as caught:
        engine(releases).encode(fail, tiles(2))
    assert caught.value.code == Code.INFER_OOM


def test_another_fault_is_not_called_memory(releases):
    def fail(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        engine(releases).encode(fail, tiles(2))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite(releases, bad):
    subject = engine(releases)
    with pytest.raises(InferenceError) as caught:
        subject.encode(lambda batch: torch.full((len(batch), 24), bad), tiles(2))
    assert caught.value.code == Code.INFER_NAN
    head = subject.head(releases.head(releases.encoder()))
    with pytest.raises(InferenceError) as caught:
        subject.predict(head, np.full((4, 24), bad, np.float32))
    assert caught.value.code == Code.INFER_NAN


def test_a_bag_of_another_encoder(releases):
    subject = engine(releases)
    head = subject.head(releases.head(releases.encoder()))
    with pytest.raises(ReleaseError) as caught:
        subject.predict(head, np.zeros((4, 25), np.float32))
    assert caught.value.code == Code.MODEL_INTEGRITY


def test_releases_are_loaded_once_and_the_oldest_leaves(releases, monkeypatch):
    monkeypatch.setattr(runtime, "LOADED", 2)
    subject = engine(releases)
    first, second, third = (releases.encoder(seed) for seed in range(3))
    kept = subject.encoder(first)
    assert subject.encoder(first) is kept
    subject.encoder(second)
    assert subject.encoder(first) is kept
    subject.encoder(third)
    assert subject.encoder(first) is kept
    assert list(subject._loaded) == [third, first]


def test_a_bad_release_does_not_disturb_the_good_one(releases):
    subject = engine(releases)
    good = subject.encoder(releases.encoder(0))
    bad = releases.encoder(1)
    path = releases.folder / bad / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    for _ in range(2):
        with pytest.raises(ReleaseError) as caught:
            subject.ensure(bad)
        assert caught.value.code == Code.MODEL_INTEGRITY
    assert subject.encoder(good.digest) is good
    assert subject.encode(good, tiles(1)).shape == (1, 24)


def test_missing_and_mistaken_releases(releases):
    subject = engine(releases)
    encoder = releases.encoder()
    head = releases.head(encoder)
    with pytest.raises(ReleaseError) as caught:
        subject.head("0" * 64)
    assert caught.value.code == Code.MODEL_UNAVAILABLE
    for call, digest in ((subject.head, encoder), (subject.encoder, head)):
        with pytest.raises(ReleaseError) as caught:
            call(digest)
        assert caught.value.code == Code.MODEL_INTEGRITY


def test_an_untrusting_engine_loads_nothing(releases):
    digest = releases.encoder()
    with pytest.raises(ReleaseError, match="XMAG_TRUSTED_KEYS"):
        Engine(releases.folder, (), CPU).encoder(digest)


def test_threads_share_one_loaded_release(releases):
    subject, digest = engine(releases), releases.encoder()
    found, results = [], []

    def work(seed):
        encoder = subject.encoder(digest)
        found.append(encoder)
        results.append((seed, subject.encode(encoder, tiles(3, seed))))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(encoder) for encoder in found}) == 1
    for seed, result in results:
        assert np.array_equal(result, subject.encode(found[0], tiles(3, seed)))


def test_the_device_is_what_was_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(PlaceError, match="XMAG_WORKER__DEVICE") as caught:
        choose_device("cuda")
    assert caught.value.code == Code.SETUP
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == "cuda"
    assert choose_device("cpu") == "cpu"


def test_settings_of_the_engine():
    before = torch.get_num_threads()
    try:
        subject = Engine(Path("none"), (), Worker(device="cpu", batch=3, threads=1))
        assert subject.batch == 3
        assert subject.description["threads"] == "1"
        assert subject.description["device"] == "cpu"
        assert Engine(Path("none"), (), CPU).batch == 8
    finally:
        torch.set_num_threads(before)


def test_softmax_survives_large_logits():
    assert softmax(np.array([1000.0, 1000.0, -1000.0], np.float32)).tolist() == [0.5, 0.5, 0.0]
