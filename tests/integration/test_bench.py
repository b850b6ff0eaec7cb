"""`xmag bench`: the JSON of each comparison on a small slide, and errors in one line."""

import functools
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import slides
from benchmarks.weights import publish_random
from cli import local
from cli.main import xmag
from xmag.manifest import VitSpec

SMALL = VitSpec(embed_dim=48, depth=1, num_heads=2)
SPREAD = {"median", "min", "max"}


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = slides.Plan(9_000, 8_000, 0.5, (1, 4, 16), tiles=6, patch_px=1024)
    return slides.made(plan, tmp_path_factory.mktemp("slides"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small random weights, and a short look at the machine."""
    small = functools.partial(publish_random, vit=SMALL)
    monkeypatch.setattr("benchmarks.subject.publish_random", small)
    monkeypatch.setattr("benchmarks.machine.SECONDS", 0.01)


def bench(*arguments: object) -> tuple[int, dict]:
    done = CliRunner().invoke(xmag, ["bench", *map(str, arguments), "--json"], catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout)


def assert_document(document: dict, comparison: str) -> dict:
    assert document["comparison"] == comparison
    machine = document["machine"]
    assert set(machine["matmul_gflops"]["cpu"]) == {"fp32", "bf16"}
    assert machine["gpu"] is not None or machine["matmul_gflops"]["cuda"] == {"fp32": None, "bf16": None}
    (one,) = document["slides"]
    assert one["slide"] == "1"
    assert one["reference"] in {name.partition(" batch")[0] for name in one["routes"]}
    for route in one["routes"].values():
        if "unavailable" not in route:
            assert set(route["cpu_seconds"]) == set(route["wall_seconds"]) == SPREAD
            assert route["tiles"] > 0
            assert route["agreement"]
    assert one["ratios"]
    return one


def test_read(slide):
    code, document = bench("read", slide, "--repeats", 1)
    assert code == 0
    one = assert_document(document, "read")
    assert set(one["routes"]) == {"ours", "ours by openslide", "openslide per tile", "tiffslide", "pyvips"}
    assert one["same_grid"]
    assert one["routes"]["ours"]["reading"]["route"] == "jpeg-tiles"
    assert str(slide.parent) not in json.dumps(document)


def test_read_a_few_tiles_without_the_bench_extra(slide, monkeypatch):
    find = "benchmarks.reading.importlib.util.find_spec"
    monkeypatch.setattr(find, lambda name: None if name in ("pyvips", "tiffslide") else name)
    _, document = bench("read", slide, "--repeats", 1, "--tiles", 2)
    routes = assert_document(document, "read")["routes"]
    assert routes["pyvips"] == routes["tiffslide"] == {"unavailable": "install the bench extra"}
    assert routes["openslide per tile"]["tiles"] == 2


def test_encode_with_random_weights(slide, tmp_path):
    code, document = bench("encode", slide, "--repeats", 1, "--tiles", 2, "--data", tmp_path)
    assert code == 0
    one = assert_document(document, "encode")
    assert one["weights"] == "random"
    ours = [route for name, route in one["routes"].items() if name.startswith("ours fp32")]
    assert all(route["agreement"]["least_cosine"] > 0.9999 for route in ours)
    assert {route["regime"] for route in ours} == {"batch 1", "saturated"}


def test_slide_with_promoted_weights(slide, tmp_path):
    key = local.signing_key(tmp_path)
    head = publish_random(tmp_path / "releases", key, SMALL)
    local.set_active(tmp_path, "nsclc", head)
    code, document = bench("slide", slide, "--repeats", 1, "--data", tmp_path)
    assert code == 0
    one = assert_document(document, "slide")
    assert one["weights"] == head
    assert one["routes"]["ours"]["agreement"]["max_probability_difference"] < 0.02
    assert one["routes"]["ours"]["tiles"] == one["routes"]["plain script"]["tiles"] == one["tiles"]
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["read", "missing.svs"], "SLIDE_NOT_FOUND"),
        (["read", "text.svs"], "SLIDE_UNSUPPORTED"),
        (["slide", "text.svs", "--release", "abc"], "NOT_FOUND"),
    ],
)
def test_an_error_is_one_object(tmp_path, monkeypatch, arguments, code):
    (tmp_path / "text.svs").write_text("no slide")
    monkeypatch.chdir(tmp_path)
    exit_code, document = bench(*arguments)
    assert (exit_code, document["error"]["code"]) == (1, code)


def test_a_table_for_people(slide):
    done = CliRunner().invoke(xmag, ["bench", "read", str(slide), "--repeats", "1"], catch_exceptions=False)
    assert "openslide per tile" in done.stdout
    assert "cpu seconds vs ours" in done.stdout
