"""The report: from a sample of results, with and without a GPU, to a page that claims nothing unmeasured."""

import copy
import json
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.sections import number
from benchmarks.targets import verdicts

pytest.importorskip("matplotlib", reason="the bench extra draws the report")

SAMPLE = json.loads((Path(__file__).parent / "sample.json").read_text())


def verdict(runs, words: str):
    return next(each for each in verdicts(runs) if words in each.what)


def test_a_page_from_a_run_without_a_gpu(tmp_path):
    page = tmp_path / "performance.md"
    report.write([SAMPLE], page)
    text = page.read_text()
    assert "none: cells that need one are empty" in text
    assert "GPU idle while jobs wait | < 10 % | - | - |" in text
    for picture in ("reading", "encoding", "figure3", "submitters", "tissue", "queue"):
        assert f"plots/{picture}.png" in text
        assert (tmp_path / "plots" / f"{picture}.png").stat().st_size > 2000
    assert max(len(line.split("|")) for line in text.splitlines()) > 5
    assert "None" not in text
    assert "nan" not in text


def test_gpu_cells_fill_from_a_run_on_one(tmp_path):
    gpu = copy.deepcopy(SAMPLE)
    gpu["device"], gpu["machine"]["gpu"] = "cuda", "a GPU"
    gpu["parts"]["d"]["service"]["submitters"]["16"]["engine_busy_share"] = 0.95
    report.write([SAMPLE, gpu], tmp_path / "performance.md")
    text = (tmp_path / "performance.md").read_text()
    assert "## Run on the GPU" in text
    assert "plots/cuda-reading.png" in text
    assert verdict([SAMPLE, gpu], "GPU idle").reached is True
    assert verdict([SAMPLE], "GPU idle").reached is None


def test_a_target_that_is_missed_says_no():
    slow = copy.deepcopy(SAMPLE)
    slow["parts"]["a"]["slides"][0]["ratios"]["cpu_seconds_vs_ours"]["openslide per tile"] = 5.9
    assert verdict([SAMPLE], "40x-base").reached is True
    assert verdict([slow], "40x-base").reached is False
    assert verdict([slow], "40x-base").measured == "5.9x"


@pytest.mark.parametrize(
    ("name", "value"),
    [("same_tiles", False), ("mean_abs_difference", 40.0), ("max_probability_difference", 0.5)],
)
def test_a_fast_route_that_is_wrong_reaches_nothing(name, value):
    wrong = copy.deepcopy(SAMPLE)
    wrong["parts"]["a"]["slides"][0]["routes"]["ours"]["agreement"][name] = value
    assert verdict([wrong], "40x-base").reached is False
    assert "disagree" in verdict([wrong], "40x-base").bound


@pytest.mark.parametrize("part", list("abcde"))
def test_a_part_that_was_not_run_leaves_its_section_out(tmp_path, part):
    less = copy.deepcopy(SAMPLE)
    del less["parts"][part]
    report.write([less], tmp_path / "performance.md")
    assert f"## {part}." not in (tmp_path / "performance.md").read_text()


def test_the_table_for_a_terminal_has_every_target():
    assert len(report.text_table([SAMPLE]).splitlines()) == len(verdicts([SAMPLE]))


def test_numbers_are_short():
    assert [number(value) for value in (0.00043567, 0.12345, 1.2345, 123.45, 1234.5, None, 0)] == [
        "0.000436",
        "0.123",
        "1.23",
        "123",
        "1,234",
        "-",
        "0.000",
    ]
