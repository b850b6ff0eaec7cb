"""A slide in over REST, predictions out; the command line gives the same numbers."""

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import xmag as command
from tests.acceptance.conftest import NOTICE, UNHURRIED


def analyze(*arguments: str) -> tuple[int, dict]:
    done = CliRunner().invoke(command, ["analyze", "--json", *arguments])
    return done.exit_code, json.loads(done.stdout)


def numbers(document: dict) -> list[tuple]:
    return [
        (one["task"], one["label"], one["probabilities"], one["release"]) for one in document["predictions"]
    ]


def without_store(data: Path, copy: Path) -> Path:
    """The same releases in a data folder that holds no embeddings yet."""
    shutil.copytree(data / "releases", copy / "releases")
    for name in ("active.json", "signing.key"):
        shutil.copy(data / name, copy)
    return copy


def test_rest_and_command_line_give_the_same_numbers(xmag, monkeypatch, tmp_path):
    name = xmag.slide()
    body = {"slide": {"root": "slides", "path": name}, "tasks": ["nsclc", "rcc"], "priority": "stat"}
    job = xmag.client.submit(body, "same-numbers")
    assert xmag.client.submit(body, "same-numbers")["id"] == job["id"]
    (ended,) = xmag.ended(job["id"])
    assert (ended["state"], ended["error"], ended["attempts"]) == ("succeeded", None, 1)
    result = xmag.client.result(job["id"])
    monkeypatch.setenv("XMAG_WORKER__BATCH", "2")
    for variable, value in UNHURRIED.items():
        monkeypatch.setenv(variable, value)
    fresh = without_store(xmag.data, tmp_path)
    code, document = analyze(str(xmag.data / "slides" / name), "--data", str(fresh))
    assert code == 0
    assert not any(one["embeddings_reused"] for one in document["provenance"]["encoders"])
    assert document["tiles"] == result["tiles"] > 4
    assert document["slide"] == result["slide"]
    assert numbers(document) == numbers(result)
    assert {one["notice"] for one in document["predictions"]} == {NOTICE}


def test_an_upload_is_read_like_a_file(xmag, master_slide, tmp_path):
    job = xmag.submit("nsclc")
    outside = tmp_path / "private name.svs"
    outside.write_bytes(master_slide.read_bytes() + b"upload")
    arguments = ["submit", str(outside), "--tasks", "nsclc", "--wait", "--json", "--data", str(xmag.data)]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    uploaded = json.loads(done.stdout)
    xmag.ended(job)
    assert (
        uploaded["predictions"][0]["probabilities"]
        == (xmag.client.result(job)["predictions"][0]["probabilities"])
    )
    told = xmag.query("select count(*) from slides where relative like %s", "%private%")
    assert told == [(0,)]


def test_a_slide_reached_through_links(xmag, master_slide, tmp_path):
    (tmp_path / "linked").symlink_to(master_slide.parent)
    link = tmp_path / "linked" / master_slide.name
    code, document = analyze(str(link), "--tasks", "nsclc", "--data", str(xmag.data))
    assert code == 0
    assert document["slide"]["mpp_source"] == "file"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["missing.svs"], "SLIDE_NOT_FOUND"),
        (["text.svs"], "SLIDE_UNSUPPORTED"),
        (["text.svs", "--tasks", "teeth"], "UNKNOWN_TASK"),
        (["text.svs", "--tasks", "odx"], "MODEL_UNAVAILABLE"),
        (["text.svs", "--mpp", "0.5"], "INVALID_REQUEST"),
    ],
)
def test_a_failure_prints_one_object_and_exits_with_1(xmag, tmp_path, monkeypatch, arguments, expected):
    (tmp_path / "text.svs").write_text("no slide")
    monkeypatch.chdir(tmp_path)
    code, document = analyze(*arguments, "--data", str(xmag.data))
    assert (code, document["error"]["code"]) == (1, expected)
    assert os.fspath(tmp_path) not in json.dumps(document)


def test_files_of_the_data_folder_that_hold_secrets_are_private(xmag):
    for name in ("api-key", "signing.key", "postgres.json", "redis.json"):
        assert (xmag.data / name).stat().st_mode & 0o077 == 0
