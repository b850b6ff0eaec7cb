"""One encode serves all who ask; what is stored is read again without its slide; urgent work goes first."""

# ruff: noqa: F401, F811 - fixtures are imported

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from tests.integration.test_analyze import (
    REASON,
    engine,
    fresh,
    heads,
    ignore,
    put_encoder,
    put_head,
    request,
    settings,
    slides,
)
from xmag.analyze import analyze
from xmag.errors import Code, SlideError
from xmag.flights import Flights
from xmag.manifest import TASK_LABELS
from xmag.nn.runtime import Engine
from xmag.rescore import rescore
from xmag.slide.decoder import Decoder
from xmag.slide.decoders import Decoders
from xmag.store import get_embeddings, put_embeddings


class Counted:
    """An engine's encode, counted; it may be held up."""

    def __init__(self, engine: Engine, monkeypatch) -> None:
        self.tiles, self.order = 0, []
        encode = engine.encode

        def counted(encoder, tiles, *given, **named):
            found = encode(encoder, tiles, *given, **named)
            self.tiles += len(tiles)
            self.order.append(named.get("urgent", False))
            return found

        monkeypatch.setattr(engine, "encode", counted)


def test_jobs_for_one_slide_at_once_encode_it_once(slides, heads, engine, fresh, monkeypatch):
    counted, flights = Counted(engine, monkeypatch), Flights()

    def run(task):
        asked = request(slides, "tissue.svs", {task: heads[task]})
        return analyze(asked, engine, fresh, ignore, decoders=pool, flights=flights)

    with Decoders(fresh.decode) as pool, ThreadPoolExecutor(4) as threads:
        found = list(threads.map(run, heads))
    assert counted.tiles == found[0].tiles
    assert sorted(run.provenance["encoders"][0]["embeddings_reused"] for run in found) == [False, *[True] * 3]


def known(slides, name, found):
    location = request(slides, name, {}).location
    return {"expected": location.fingerprint(), "known": found.slide}


def test_a_known_slide_is_not_opened_again(slides, heads, engine, fresh, monkeypatch):
    asked = request(slides, "tissue.svs", heads)
    first = analyze(asked, engine, fresh, ignore)
    monkeypatch.setattr(Decoder, "open", lambda *_, **__: pytest.fail("it was opened"))
    again = analyze(replace(asked, **known(slides, "tissue.svs", first)), engine, fresh, ignore)
    assert again.predictions == first.predictions
    assert again.slide == first.slide
    assert [run.provenance["slide_opened"] for run in (first, again)] == [True, False]


def test_a_known_slide_that_changed_is_opened(slides, heads, engine, fresh, tmp_path):
    path = tmp_path / "one.svs"
    path.write_bytes((slides / "tissue.svs").read_bytes())
    asked = request(tmp_path, path.name, heads)
    first = analyze(asked, engine, fresh, ignore)
    asked = replace(asked, **known(tmp_path, path.name, first))
    path.write_bytes((slides / "other.svs").read_bytes())
    with pytest.raises(SlideError) as caught:
        analyze(asked, engine, fresh, ignore)
    assert caught.value.code == Code.SLIDE_CHANGED
    path.unlink()
    with pytest.raises(SlideError) as caught:
        analyze(asked, engine, fresh, ignore)
    assert caught.value.code == Code.SLIDE_NOT_FOUND


def test_a_known_slide_with_another_mpp_or_encoder_is_opened(slides, heads, engine, fresh):
    asked = request(slides, "tissue.svs", heads)
    first = analyze(asked, engine, fresh, ignore)
    asked = replace(asked, **known(slides, "tissue.svs", first))
    other = analyze(replace(asked, mpp=REASON), engine, fresh, ignore)
    assert not other.provenance["encoders"][0]["embeddings_reused"]
    assert other.slide.mpp == REASON.mpp
    coarse = {"odx": put_head(fresh, put_encoder(fresh, seed=9, target_mpp=3.0), "odx")}
    third = analyze(replace(asked, heads=coarse), engine, fresh, ignore)
    assert third.tiles < first.tiles


def test_an_urgent_slide_is_read_between_the_batches_of_another(
    slides,
    heads,
    engine,
    fresh,
    monkeypatch,
):
    counted, begun, ended = Counted(engine, monkeypatch), threading.Event(), threading.Event()

    def routine(progress):
        if progress.stage == "encode" and progress.done:
            begun.set()
            assert ended.wait(60)

    def run(name, report, urgent):
        return analyze(request(slides, name, heads), engine, fresh, report, decoders=pool, urgent=urgent)

    with Decoders(fresh.decode) as pool, ThreadPoolExecutor(2) as threads:
        slow = threads.submit(run, "tissue.svs", routine, False)
        assert begun.wait(60)
        run("other.svs", ignore, True)
        assert not slow.done()
        ended.set()
        slow.result(60)
    first, last = counted.order.index(True), len(counted.order) - 1 - counted.order[::-1].index(True)
    assert all(counted.order[first : last + 1])
    assert (counted.order[0], counted.order[-1]) == (False, False)


def test_an_archive_is_read_with_a_new_head_from_the_store_alone(
    slides,
    heads,
    engine,
    fresh,
    monkeypatch,
):
    found = {
        name: analyze(request(slides, name, heads), engine, fresh, ignore)
        for name in ("tissue.svs", "other.svs")
    }
    analyze(replace(request(slides, "other.svs", heads), mpp=REASON), engine, fresh, ignore)
    encoder = next(iter(found["tissue.svs"].embeddings))
    new = put_head(fresh, encoder, "odx")
    monkeypatch.setattr("xmag.slide.decoder._spawn", lambda *_: pytest.fail("a decoder was started"))
    read = {(each.slide_sha256, each.mpp): each for each in rescore(new, engine, fresh)}
    assert len(read) == 3
    for name, first in found.items():
        asked = replace(request(slides, name, {"odx": new}), **known(slides, name, first))
        (prediction,) = analyze(asked, engine, fresh, ignore).predictions
        mine = read[first.slide.sha256, (1.0, 1.0)]
        assert mine.tiles == first.tiles
        assert tuple(mine.probabilities) == TASK_LABELS["odx"]
        assert (mine.task, mine.head, mine.label) == ("odx", new, prediction.label)
        assert mine.notice == prediction.notice
        assert np.allclose(
            list(mine.probabilities.values()), list(prediction.probabilities.values()), atol=0.01
        )


def test_damaged_bags_are_passed_over(slides, heads, engine, fresh):
    analyze(request(slides, "tissue.svs", heads), engine, fresh, ignore)
    (path,) = (fresh.store_dir / "embeddings").rglob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert list(rescore(heads["nsclc"], engine, fresh)) == []


def test_bags_that_a_job_would_not_take_are_passed_over(slides, heads, engine, fresh, monkeypatch):
    found = analyze(request(slides, "tissue.svs", heads), engine, fresh, ignore)
    (encoder,) = found.embeddings
    bare = {"slide": found.slide.sha256, "encoder": encoder}
    for number, origin in enumerate((bare, {**bare, "numerics": {"precision": "fp32"}, "mpp": [1.0, 1.0]})):
        old = replace(get_embeddings(fresh.store_dir, found.embeddings[encoder]), origin=origin)
        put_embeddings(fresh.store_dir, f"{number:064x}", old)
    assert [each.embeddings for each in rescore(heads["nsclc"], engine, fresh)] == [found.embeddings[encoder]]
    monkeypatch.setattr("xmag.store.FORMAT", 3)
    assert list(rescore(heads["nsclc"], engine, fresh)) == []
