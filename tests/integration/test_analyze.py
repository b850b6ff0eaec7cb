"""A slide through the one path, with releases published and signed like any other."""

import hashlib
import json
import threading
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from xmag.analyze import Progress, Request, analyze, to_json
from xmag.config import Settings, Worker
from xmag.errors import Code, ReleaseError, SlideError
from xmag.heatmap import render_png
from xmag.manifest import (
    TASK_LABELS,
    AbmilSpec,
    EncoderManifest,
    HeadManifest,
    Licence,
    PreprocessSpec,
    TilingSpec,
    VitSpec,
)
from xmag.nn.bundle import encoder_payload, head_payload
from xmag.nn.mil import ABMIL
from xmag.nn.runtime import Engine
from xmag.nn.vit import build_vit
from xmag.registry import public_key_text, publish
from xmag.slide.decoder import Decoder
from xmag.slide.info import MppOverride
from xmag.slide.location import SlideLocation
from xmag.slide.synthetic.recipe import Recipe
from xmag.slide.synthetic.write import write_slide, write_svs, write_tiff
from xmag.store import get_embeddings, get_overlay
from xmag.units import Mpp, MppXY

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SMALL = VitSpec(patch_size=28, embed_dim=48, depth=2, num_heads=3, init_values=1.0)
NOTICE = "demo weights: not for diagnosis"
REASON = MppOverride(MppXY(Mpp(2.0), Mpp(2.0)), "read from the scanner's sheet")


def put(settings, kind, payload, **values) -> str:
    weights, self_test = payload
    manifest = kind(
        name="small",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        code_version="0.1.0",
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        self_test_sha256=hashlib.sha256(self_test).hexdigest(),
        **values,
    )
    return publish(settings.releases_dir, manifest, weights, self_test, "card", KEY)


def put_encoder(settings, spec=SMALL, seed=0, use="demo", notice=NOTICE, **tiling) -> str:
    torch.manual_seed(seed)
    licence = Licence(name="random weights", permitted_use=use, notice=notice)
    payload = encoder_payload(build_vit(spec), PreprocessSpec())
    return put(
        settings, EncoderManifest, payload, architecture=spec, licence=licence, tiling=TilingSpec(**tiling)
    )


def put_head(settings, encoder, task, in_dim=48, use="demo", notice=NOTICE) -> str:
    torch.manual_seed(len(task))
    spec = AbmilSpec(in_dim=in_dim, hidden_dim=32, attention_dim=16, classes=len(TASK_LABELS[task]))
    licence = Licence(name="random weights", permitted_use=use, notice=notice)
    values = {"architecture": spec, "task": task, "labels": TASK_LABELS[task], "encoder": encoder}
    return put(settings, HeadManifest, head_payload(ABMIL(spec)), licence=licence, **values)


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    small = {"width_um": 1300.0, "height_um": 1000.0, "mpp": 1.0}
    write_slide(folder / "tissue.svs", Recipe("nsclc", "LUAD", 3, **small))
    write_slide(folder / "other.svs", Recipe("nsclc", "LUSC", 4, **small))
    glass = np.full((600, 700, 3), 243, np.uint8)
    write_svs(folder / "glass.svs", glass, 1.0, levels=(1,))
    tissue = np.random.default_rng(0).normal((190, 120, 170), 12, (672, 672, 3)).clip(0, 255)
    write_tiff(folder / "nompp.tif", tissue.astype(np.uint8), 2.0, levels=(1,), mpp_in_file=False)
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    return Settings(
        data=tmp_path_factory.mktemp("data"),
        trusted_keys=(public_key_text(KEY),),
        worker=Worker(device="cpu", batch=4),
    )


@pytest.fixture(scope="module")
def heads(settings) -> dict[str, str]:
    encoder = put_encoder(settings)
    return {task: put_head(settings, encoder, task) for task in TASK_LABELS}


@pytest.fixture
def engine(settings) -> Engine:
    return Engine(settings.releases_dir, settings.trusted_keys, settings.worker)


@pytest.fixture
def fresh(settings, tmp_path) -> Settings:
    """The same releases over an empty store."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "releases").symlink_to(settings.releases_dir)
    return settings.model_copy(update={"data": data})


def ignore(progress) -> None:
    pass


def request(slides, name, heads, mpp=None) -> Request:
    return Request(SlideLocation(slides, PurePosixPath(name)), heads, mpp)


def without_seconds(document):
    provenance = {k: v for k, v in document["provenance"].items() if k != "seconds"}
    for encoder in provenance["encoders"]:
        encoder.pop("embeddings_reused")
    return document | {"provenance": provenance}


def test_a_slide_in_four_predictions_and_a_heatmap_out(slides, heads, engine, fresh):
    seen = []
    found = analyze(request(slides, "tissue.svs", heads), engine, fresh, seen.append)
    assert [prediction.task for prediction in found.predictions] == list(heads)
    for prediction in found.predictions:
        assert prediction.outcome == "predicted"
        assert tuple(prediction.probabilities) == TASK_LABELS[prediction.task]
        assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-12)
        assert prediction.label == max(prediction.probabilities, key=prediction.probabilities.__getitem__)
        assert prediction.release == heads[prediction.task]
        assert (prediction.notice, prediction.permitted_use) == (NOTICE, "demo")
    (sha,) = set(found.overlays.values())
    overlay = get_overlay(fresh.store_dir, sha)
    assert len(overlay.grid) == found.tiles
    for task in heads:
        assert overlay.attention[task].sum() == pytest.approx(1, abs=1e-4)
        assert render_png(overlay, task, None).startswith(b"\x89PNG")
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == ["open", "mask", "encode", "head", "write"]
    encode = [(progress.done, progress.total) for progress in seen if progress.stage == "encode"]
    assert list(dict.fromkeys(encode)) == [
        (min(4 * i, found.tiles), found.tiles) for i in range(-(-found.tiles // 4) + 1)
    ]


def test_the_json_is_the_documented_object(slides, heads, engine, settings):
    found = to_json(analyze(request(slides, "tissue.svs", heads), engine, settings, ignore))
    assert json.loads(json.dumps(found)) == found
    data = (slides / "tissue.svs").read_bytes()
    assert found["slide"] == {
        "sha256": hashlib.sha256(data).hexdigest(),
        "width": 1300,
        "height": 1000,
        "mpp": {"x": 1.0, "y": 1.0},
        "mpp_source": "file",
        "vendor": "aperio",
    }
    assert {"tiles", "predictions", "provenance", "notice"} < found.keys()
    (encoder,) = found["provenance"]["encoders"]
    assert encoder["tiling"] == TilingSpec().model_dump(mode="json")
    assert 0 < encoder["tissue_share"] <= 1
    assert {"open", "head", "write"} <= found["provenance"]["seconds"].keys()
    for private in ("tissue.svs", str(slides)):
        assert private not in json.dumps(found)


def test_the_same_slide_twice_gives_the_same_document(slides, heads, engine, settings, fresh):
    first = analyze(request(slides, "other.svs", heads), engine, settings, ignore)
    again = analyze(request(slides, "other.svs", heads), Engine(*_parts(settings)), fresh, ignore)
    assert without_seconds(to_json(first)) == without_seconds(to_json(again))
    assert first.overlays == again.overlays
    different = analyze(request(slides, "tissue.svs", heads), engine, fresh, ignore)
    assert different.predictions != first.predictions


def test_a_second_run_reuses_the_embeddings(slides, heads, engine, fresh):
    runs = [analyze(request(slides, "tissue.svs", heads), engine, fresh, ignore) for _ in range(2)]
    assert [run.provenance["encoders"][0]["embeddings_reused"] for run in runs] == [False, True]
    assert "encode" in runs[0].provenance["seconds"]
    assert "encode" not in runs[1].provenance["seconds"]
    assert without_seconds(to_json(runs[0])) == without_seconds(to_json(runs[1]))


def test_reused_embeddings_keep_the_history_of_their_making(slides, heads, engine, fresh, monkeypatch):
    made = analyze(request(slides, "tissue.svs", heads), engine, fresh, ignore).provenance
    monkeypatch.setattr("xmag.__version__", "9.9.9")
    monkeypatch.setattr(Engine, "description", {"device": "cuda", "device_name": "another"})
    reused = analyze(request(slides, "tissue.svs", heads), engine, fresh, ignore).provenance
    assert (reused["code_version"], reused["engine"]["device"]) == ("9.9.9", "cuda")
    assert reused["encoders"][0]["embedded_by"] == made["code_version"]
    assert reused["encoders"][0]["numerics"] == made["encoders"][0]["numerics"]
    assert made["encoders"][0]["numerics"]["device"] == "cpu"


def test_damaged_embeddings_are_made_again(slides, heads, engine, fresh):
    first = analyze(request(slides, "tissue.svs", heads), engine, fresh, ignore)
    (path,) = (fresh.store_dir / "embeddings").rglob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    again = analyze(request(slides, "tissue.svs", heads), engine, fresh, ignore)
    assert not again.provenance["encoders"][0]["embeddings_reused"]
    assert again.predictions == first.predictions
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_a_full_size_vit_b_14_stores_768_numbers_for_each_tile(slides, engine, settings):
    encoder = put_encoder(settings, VitSpec(init_values=1.0), seed=14, min_tissue=0.6)
    head = put_head(settings, encoder, "isup", in_dim=768)
    found = analyze(request(slides, "tissue.svs", {"isup": head}), engine, settings, ignore)
    bag = get_embeddings(settings.store_dir, found.embeddings[encoder])
    assert bag is not None
    assert bag.embeddings.shape == (found.tiles, 768)
    assert len(np.unique(bag.embeddings, axis=0)) == found.tiles


def test_heads_of_two_encoders_get_a_bag_and_an_overlay_each(slides, heads, engine, fresh):
    coarse = put_encoder(fresh, seed=9, use="clinical", notice="", target_mpp=3.0)
    both = {"nsclc": heads["nsclc"], "odx": put_head(fresh, coarse, "odx", use="research", notice="beta")}
    found = analyze(request(slides, "tissue.svs", both), engine, fresh, ignore)
    assert len(found.embeddings) == 2
    grids = {task: get_overlay(fresh.store_dir, found.overlays[task]).grid for task in both}
    assert len(grids["odx"]) < len(grids["nsclc"]) == found.tiles
    alone = analyze(request(slides, "tissue.svs", {"odx": both["odx"]}), engine, fresh, ignore)
    assert alone.predictions == found.predictions[1:]
    assert (alone.predictions[0].permitted_use, alone.notice) == ("research", "beta")
    assert found.notice == f"{NOTICE}; beta"


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("where", ["open", "mask", "encode", "head", "write"])
def test_progress_may_stop_the_work_at_any_stage(slides, heads, engine, fresh, where):
    def stop(progress):
        if progress.stage == where and progress.done:
            raise StoppedError

    with pytest.raises(StoppedError) as caught:
        analyze(request(slides, "tissue.svs", heads), engine, fresh, stop)
    assert caught.tb is not None  # holds every frame, so that nothing ends by chance
    assert "read-ahead" not in [thread.name for thread in threading.enumerate()]
    found = analyze(request(slides, "tissue.svs", heads), engine, fresh, ignore)
    assert found.provenance["encoders"][0]["embeddings_reused"] == (where in {"head", "write"})


def test_slow_reads_are_heard_of(slides, heads, engine, fresh, monkeypatch):
    reply = Decoder._reply

    def told(self, on_progress, *given, **named):
        on_progress(0.5)
        return reply(self, on_progress, *given, **named)

    monkeypatch.setattr(Decoder, "_reply", told)
    seen = []
    found = analyze(request(slides, "tissue.svs", heads), engine, fresh, seen.append)
    assert Progress("mask", 50, 100) in seen
    assert seen.count(Progress("encode", 0, found.tiles)) >= 2


def test_a_missing_release_is_an_error_before_the_slide_is_read(slides, engine, fresh):
    with pytest.raises(ReleaseError) as caught:
        analyze(request(slides, "absent.svs", {"nsclc": "0" * 64}), engine, fresh, ignore)
    assert caught.value.code == Code.MODEL_UNAVAILABLE


def test_a_head_whose_encoder_is_missing(slides, engine, fresh):
    orphan = put_head(fresh, "f" * 64, "nsclc")
    with pytest.raises(ReleaseError) as caught:
        analyze(request(slides, "tissue.svs", {"nsclc": orphan}), engine, fresh, ignore)
    assert caught.value.code == Code.MODEL_UNAVAILABLE


def test_a_head_that_does_not_fit(slides, heads, engine, fresh):
    encoder = put_encoder(fresh)
    wrong = [{"rcc": heads["nsclc"]}, {"nsclc": put_head(fresh, encoder, "nsclc", in_dim=49)}]
    for given in wrong:
        with pytest.raises(ReleaseError) as caught:
            analyze(request(slides, "tissue.svs", given), engine, fresh, ignore)
        assert caught.value.code == Code.MODEL_INTEGRITY


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("glass.svs", Code.NO_TISSUE),
        ("nompp.tif", Code.MPP_MISSING),
        ("absent.svs", Code.SLIDE_NOT_FOUND),
    ],
)
def test_slides_that_cannot_be_read(slides, heads, engine, fresh, name, code):
    with pytest.raises(SlideError) as caught:
        analyze(request(slides, name, heads), engine, fresh, ignore)
    assert caught.value.code == code
    assert not list(fresh.store_dir.rglob("*.safetensors"))


def test_a_given_mpp_is_used_and_kept_with_its_reason(slides, heads, engine, fresh):
    found = analyze(request(slides, "nompp.tif", heads, REASON), engine, fresh, ignore)
    provenance = found.provenance
    assert (provenance["mpp"], provenance["mpp_source"]) == ({"x": 2.0, "y": 2.0}, "request")
    assert provenance["mpp_reason"] == REASON.reason
    assert found.tiles == 9


def test_a_slide_that_changes_while_it_is_read_stores_nothing(slides, heads, engine, fresh, tmp_path):
    path = tmp_path / "changing.svs"
    path.write_bytes((slides / "tissue.svs").read_bytes())

    def touch(progress):
        if progress.stage == "encode" and progress.done == 4:
            path.write_bytes((slides / "other.svs").read_bytes())

    with pytest.raises(SlideError):
        analyze(request(tmp_path, path.name, heads), engine, fresh, touch)
    assert not list(fresh.store_dir.rglob("*.safetensors"))


def _parts(settings: Settings):
    return settings.releases_dir, settings.trusted_keys, settings.worker
