import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from xmag.config import Worker
from xmag.errors import Code, InferenceError, PlaceError, ReleaseError
from xmag.nn import runtime, turn
from xmag.nn.route import Checked, Route
from xmag.nn.runtime import Engine, choose_device
from xmag.nn.scoring import softmax
from xmag.registry import read_verified

CPU = Worker(device="cpu", precision="fp32")


def engine(releases, **worker) -> Engine:
    wishes = {"device": "cpu", "precision": "fp32", "threads": 1} | worker
    return Engine(releases.folder, releases.trusted, Worker(**wishes))


def tiles(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 3), dtype=np.uint8)


def served(encoder, run):
    """The encoder with ``run`` (tiles -> embeddings) in place of fp32."""
    route = Route("fp32", "test", lambda batch: lambda: run(batch))
    return replace(encoder, routes=(Checked(route, 1.0, np.empty((0, 24), np.float32)),))


def short_of_memory(encoder, fits, error=None):
    """The encoder when only ``fits`` tiles fit into the device's memory, and the sizes that were tried."""
    sizes = []

    def run(batch):
        sizes.append(len(batch))
        if len(batch) > fits:
            raise error or torch.OutOfMemoryError("CUDA out of memory")
        return encoder(torch.from_numpy(batch)).numpy()

    return served(encoder, run), sizes


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


def test_batches_are_of_the_engines_size(releases):
    subject = engine(releases, batch=4)
    encoder, sizes = short_of_memory(subject.encoder(releases.encoder()), 100)
    assert subject.encode(encoder, tiles(10)).shape == (10, 24)
    assert sizes == [4, 4, 2]
    assert subject.encode(encoder, tiles(0)).shape == (0, 24)


@pytest.mark.parametrize("fits", [1, 2, 5])
def test_a_batch_too_large_for_memory_is_halved_for_good(releases, fits):
    subject = engine(releases)
    encoder = subject.encoder(releases.encoder())
    short, sizes = short_of_memory(encoder, fits)
    assert np.allclose(subject.encode(short, tiles(9)), subject.encode(encoder, tiles(9)), atol=1e-5)
    assert sizes[0] == 8
    assert subject.batch <= fits
    tried = len(sizes)
    subject.encode(short, tiles(9))
    assert max(sizes[tried:]) <= fits


def test_one_tile_too_large_for_memory(releases):
    subject = engine(releases)
    short, _ = short_of_memory(subject.encoder(releases.encoder()), 0)
    with pytest.raises(InferenceError) as caught:
        subject.encode(short, tiles(3))
    assert caught.value.code == Code.INFER_OOM


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_what_counts_as_out_of_memory(releases, error):
    subject = engine(releases)
    short, sizes = short_of_memory(subject.encoder(releases.encoder()), 2, error)
    assert subject.encode(short, tiles(3)).shape == (3, 24)
    assert sizes == [3, 2, 1]


def test_another_fault_is_not_called_memory(releases):
    def fail(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    subject = engine(releases)
    with pytest.raises(RuntimeError, match="shapes"):
        subject.encode(served(subject.encoder(releases.encoder()), fail), tiles(2))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite(releases, bad):
    subject = engine(releases)
    encoder = subject.encoder(releases.encoder())
    with pytest.raises(InferenceError) as caught:
        subject.encode(served(encoder, lambda batch: np.full((len(batch), 24), bad, np.float32)), tiles(2))
    assert caught.value.code == Code.INFER_NAN
    head = subject.head(releases.head(encoder.digest))
    for call in (subject.predict, lambda head, bag: subject.score(head, [bag])):
        with pytest.raises(InferenceError) as caught:
            call(head, np.full((4, 24), bad, np.float32))
        assert caught.value.code == Code.INFER_NAN


def test_urgent_batches_overtake_and_the_waiting_are_asked(releases, monkeypatch):
    monkeypatch.setattr(turn, "WAIT_SECONDS", 0.01)
    subject = engine(releases, batch=1)
    order, started, go_on, asked = [], threading.Event(), threading.Event(), threading.Event()

    def named(name):
        def run(batch):
            order.append(name)
            started.set()
            assert go_on.wait(5)
            return np.zeros((len(batch), 24), np.float32)

        return served(encoder, run)

    encoder = subject.encoder(releases.encoder())
    routine = threading.Thread(target=subject.encode, args=(named("routine"), tiles(3)))
    routine.start()
    assert started.wait(5)
    wishes = {"urgent": True, "on_wait": asked.set}
    urgent = threading.Thread(target=subject.encode, args=(named("urgent"), tiles(2)), kwargs=wishes)
    urgent.start()
    assert asked.wait(5)
    while not subject._turn._waiting:
        pass
    go_on.set()
    routine.join()
    urgent.join()
    assert order[:2] == ["routine", "urgent"]
    assert sorted(order) == ["routine"] * 3 + ["urgent"] * 2
    assert subject.busy_seconds > 0


def test_a_release_in_use_does_not_wait_for_another_to_load(releases, monkeypatch):
    subject = engine(releases)
    known = subject.encoder(releases.encoder(0))
    other, loading, go_on = releases.encoder(1), threading.Event(), threading.Event()

    def slow(*arguments):
        loading.set()
        assert go_on.wait(5)
        return read_verified(*arguments)

    monkeypatch.setattr(runtime, "read_verified", slow)
    thread = threading.Thread(target=subject.encoder, args=(other,))
    thread.start()
    assert loading.wait(5)
    assert subject.encode(subject.encoder(known.digest), tiles(2)).shape == (2, 24)
    go_on.set()
    thread.join()
    assert list(subject._loaded) == [known.digest, other]


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
        assert "precision" not in subject.description
        assert subject.batch == 3
        assert subject.description["threads"] == "1"
        assert subject.description["device"] == "cpu"
        assert Engine(Path("none"), (), CPU).batch == 8
    finally:
        torch.set_num_threads(before)


def test_softmax_survives_large_logits():
    assert softmax(np.array([1000.0, 1000.0, -1000.0], np.float32)).tolist() == [0.5, 0.5, 0.0]
