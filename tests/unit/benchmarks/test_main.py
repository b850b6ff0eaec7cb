"""`python -m benchmarks`: which words it takes, and that parts are kept from run to run."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import __main__ as program

pytest.importorskip("matplotlib", reason="the bench extra draws the report")
SAMPLE = Path(__file__).parent / "sample.json"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(program, "RESULTS", tmp_path / "results" / "latest.json")
    monkeypatch.setattr(program, "PAGE", tmp_path / "docs" / "performance.md")
    monkeypatch.setattr(program, "choose_device", lambda _: "cpu")
    monkeypatch.setattr(program, "machine", lambda: json.loads(SAMPLE.read_text())["machine"])
    return tmp_path


def run(*words: str):
    return CliRunner().invoke(program.main, words, catch_exceptions=False)


def test_an_unknown_part_is_refused(place):
    answer = run("z")
    assert answer.exit_code == 2
    assert "choose of a, b, c, d, e" in answer.output


def test_a_report_from_a_file(place):
    answer = run("report", str(SAMPLE))
    assert answer.exit_code == 0
    assert "## a. Reading" in (place / "docs" / "performance.md").read_text()
    assert not (place / "results").exists()


def test_a_part_run_again_replaces_its_figures_and_keeps_the_others(place, monkeypatch):
    (place / "results").mkdir()
    (place / "results" / "latest.json").write_text(SAMPLE.read_text())
    again = {**json.loads(SAMPLE.read_text())["parts"]["e"], "again": True}

    def part(_: str) -> dict:
        """Growth."""
        return again

    monkeypatch.setitem(program.PARTS, "e", part)
    assert run("e").exit_code == 0
    results = json.loads((place / "results" / "latest.json").read_text())
    assert results["parts"]["e"]["again"]
    assert set(results["parts"]) == set("abcde")


def test_results_of_another_device_are_not_mixed_in(place, monkeypatch):
    (place / "results").mkdir()
    (place / "results" / "latest.json").write_text(SAMPLE.read_text())
    monkeypatch.setattr(program, "choose_device", lambda _: "cuda")
    monkeypatch.setitem(program.PARTS, "a", lambda _: json.loads(SAMPLE.read_text())["parts"]["a"])
    assert run("a").exit_code == 0
    results = json.loads((place / "results" / "latest.json").read_text())
    assert (results["device"], set(results["parts"])) == ("cuda", {"a"})
