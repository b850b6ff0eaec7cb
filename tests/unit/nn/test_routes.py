"""Which precisions an encoder and its heads are served at, with the real converters on small networks."""

import importlib.util

import numpy as np
import pytest
import torch

from tests.unit.nn.test_runtime import engine, tiles
from xmag.manifest import AbmilSpec, HeadManifest, TilingSpec, VitSpec
from xmag.nn import agreement, openvino_routes, torch_routes
from xmag.nn.agreement import min_cosine
from xmag.nn.bundle import Encoder, head_payload
from xmag.nn.mil import ABMIL
from xmag.nn.route import Route
from xmag.nn.torch_routes import cpu_has_bf16

WIDER = VitSpec(img_size=28, patch_size=14, embed_dim=64, depth=2, num_heads=2, init_values=1.0)

bf16 = pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU has no bf16 arithmetic (AVX512-BF16 or AMX)")
openvino = pytest.mark.skipif(
    not (importlib.util.find_spec("openvino") and importlib.util.find_spec("nncf")),
    reason="the extra `openvino` is not installed",
)


def without_openvino(monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        openvino_routes, "find_spec", lambda name: None if name in ("openvino", "nncf") else find(name)
    )


def lacks_bf16(monkeypatch) -> None:
    monkeypatch.setattr(torch_routes, "cpu_has_bf16", lambda: False)
    monkeypatch.setattr(openvino_routes, "_capabilities", lambda: ["FP32", "INT8"])


def sharp_head(releases, encoder: Encoder) -> str:
    """A head that has to decide on the check tiles, where small differences become large ones."""
    torch.manual_seed(3)
    spec = AbmilSpec(in_dim=24, hidden_dim=16, attention_dim=8, classes=2)
    module = ABMIL(spec).eval()
    with torch.no_grad():
        module.classifier.weight *= 1e4
        module.classifier.bias -= module(torch.from_numpy(encoder.routes[-1].bag)[None])[0]
    weights, self_test = head_payload(module)
    values = {"architecture": spec, "task": "odx", "labels": ("low", "high"), "encoder": encoder.digest}
    return releases.put(HeadManifest, weights, self_test, **values)


@bf16
@openvino
def test_a_cpu_with_bf16_serves_it_on_openvino(releases) -> None:
    subject = engine(releases, precision="auto")
    encoder = subject.encoder(releases.encoder())
    assert subject.accepted(encoder, []) == ("bf16", "fp32")
    facts = subject.numerics(encoder, "bf16")
    assert facts["precision"] == "bf16"
    assert str(facts["runtime"]).startswith("openvino 20")
    assert 0.9995 <= float(facts["cosine"]) < 1
    assert "refused" not in facts
    found = subject.encode(encoder, tiles(11), "bf16")
    assert (found.shape, found.dtype) == ((11, 24), np.float32)
    assert min_cosine(found, subject.encode(encoder, tiles(11))) >= 0.999


@openvino
def test_int8_is_served_when_asked_for(releases) -> None:
    subject = engine(releases, precision="int8")
    encoder = subject.encoder(releases.encoder(architecture=WIDER))
    served = subject.accepted(encoder, [])
    assert (served[0], served[-1]) == ("int8", "fp32")
    facts = subject.numerics(encoder, "int8")
    assert "nncf" in str(facts["runtime"])
    assert 0.999 <= float(facts["cosine"]) < 1


@bf16
def test_without_openvino_torch_serves_bf16(releases, monkeypatch) -> None:
    without_openvino(monkeypatch)
    subject = engine(releases, precision="int8")
    encoder = subject.encoder(releases.encoder())
    assert subject.accepted(encoder, []) == ("bf16", "fp32")
    facts = subject.numerics(encoder, "bf16")
    assert facts["runtime"] == f"torch {torch.__version__}"
    assert "xmag-service[openvino]" in str(facts["refused"])
    assert set(encoder.refused) == {"int8"}
    assert min_cosine(subject.encode(encoder, tiles(5), "bf16"), subject.encode(encoder, tiles(5))) >= 0.999


def test_an_older_cpu_serves_fp32(releases, monkeypatch) -> None:
    lacks_bf16(monkeypatch)
    subject = engine(releases, precision="auto")
    encoder = subject.encoder(releases.encoder())
    assert subject.accepted(encoder, []) == ("fp32",)
    assert "no bf16" in encoder.refused["bf16"]
    with pytest.raises(ValueError, match="bf16"):
        subject.encode(encoder, tiles(1), "bf16")


def test_fp32_alone_is_neither_probed_nor_refused(releases, monkeypatch) -> None:
    monkeypatch.setattr(agreement, "check_tiles", None)
    subject = engine(releases, precision="fp32")
    encoder = subject.encoder(releases.encoder())
    assert subject.accepted(encoder, [subject.head(releases.head(encoder.digest))]) == ("fp32",)
    facts = {"precision": "fp32", "runtime": f"torch {torch.__version__}", "device": "cpu"}
    assert subject.numerics(encoder, "fp32") == facts


@openvino
def test_outliers_among_the_activations_refuse_int8(releases) -> None:
    def outliers(vit) -> None:
        with torch.no_grad():
            for block in vit.blocks:
                block.norm2.weight[0] *= 1000

    subject = engine(releases, precision="int8")
    encoder = subject.encoder(releases.encoder(architecture=WIDER, change=outliers))
    assert "int8" not in subject.accepted(encoder, [])
    assert encoder.refused["int8"].startswith("cosine 0.9")
    assert encoder.refused["int8"].endswith("< 0.999 to fp32")


@bf16
def test_numbers_too_large_for_seven_bits_refuse_bf16(releases) -> None:
    def offset(vit) -> None:
        with torch.no_grad():
            vit.pos_embed += 500

    subject = engine(releases, precision="auto")
    encoder = subject.encoder(releases.encoder(architecture=WIDER, change=offset))
    assert subject.accepted(encoder, []) == ("fp32",)
    assert "< 0.9995 to fp32" in encoder.refused["bf16"]
    assert "cosine" in str(subject.numerics(encoder, "fp32")["refused"])


@bf16
def test_a_route_whose_numbers_are_not_finite_is_refused(releases, monkeypatch) -> None:
    monkeypatch.setattr(
        agreement,
        "_builds",
        lambda *_: {"bf16": (lambda: Route("bf16", "torch", lambda t: lambda: _nan(len(t))),)},
    )
    encoder = engine(releases, precision="auto").encoder(releases.encoder())
    assert encoder.refused == {"bf16": "the network gave a number that is not finite"}


def test_every_program_of_a_route_is_checked(releases, monkeypatch) -> None:
    def build(encoder: Encoder, sizes: tuple[int, ...]) -> Route:
        exact = torch_routes.fp32(encoder)

        def stage(batch):
            work = exact.stage(batch)
            return (lambda: work()[::-1]) if len(batch) == 4 else work

        return Route("bf16", "test", stage, sizes)

    for sizes, served in (((), True), ((2, 8), True), ((8, 4), False)):
        monkeypatch.setattr(
            agreement, "_builds", lambda encoder, _, sizes=sizes: {"bf16": (lambda: build(encoder, sizes),)}
        )
        encoder = engine(releases, precision="auto").encoder(releases.encoder())
        assert ("bf16" not in encoder.refused) is served


def _nan(count: int):
    return np.full((count, 24), np.nan, np.float32)


def test_a_converter_that_breaks_costs_its_route_alone(releases, monkeypatch) -> None:
    def broken():
        raise AttributeError("no such operator\nin this version")

    def fails_later():
        return Route("bf16", "test", lambda tiles: broken)

    monkeypatch.setattr(agreement, "_builds", lambda *_: {"bf16": (broken, fails_later)})
    subject = engine(releases, precision="auto")
    encoder = subject.encoder(releases.encoder())
    assert encoder.refused == {"bf16": "AttributeError: no such operator"}
    assert subject.encode(encoder, tiles(1)).shape == (1, 24)


@bf16
def test_a_head_that_amplifies_differences_refuses_bf16(releases) -> None:
    subject = engine(releases, precision="auto")
    digest = releases.encoder()
    encoder = subject.encoder(digest)
    calm = subject.head(releases.head(digest))
    sharp = subject.head(sharp_head(releases, encoder))
    assert subject.accepted(encoder, [calm]) == ("bf16", "fp32")
    assert subject.accepted(encoder, [sharp]) == ("fp32",)
    assert subject.accepted(encoder, [calm, sharp]) == ("fp32",)


@openvino
def test_openvino_has_as_many_threads_as_torch(releases, monkeypatch) -> None:
    library, seen = openvino_routes.openvino(), []

    class Watched(library.Core):
        def compile_model(self, model, device, settings):
            seen.append(settings)
            return super().compile_model(model, device, settings)

    monkeypatch.setattr(library, "Core", Watched)
    encoder = engine(releases).encoder(releases.encoder())
    openvino_routes._compiled(openvino_routes.converted(encoder))
    assert [settings["INFERENCE_NUM_THREADS"] for settings in seen] == [1]


def test_probes_follow_the_release(releases) -> None:
    tiling = TilingSpec(tile_px=28, target_mpp=0.5)
    encoder = engine(releases, precision="auto").encoder(releases.encoder(tiling=tiling))
    assert all(len(checked.bag) in (0, 18) for checked in encoder.routes)
