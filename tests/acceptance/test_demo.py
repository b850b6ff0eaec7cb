"""`xmag demo` from the command line to the contact sheet, on few and small slides."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.local import signing_key
from training.demo import DemoSpec, build_demo_releases, known_releases
from xmag.registry import public_key_text

REPOSITORY = Path(__file__).resolve().parents[2]
NOTICE = "demo weights: not for diagnosis"

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh data folder that has the weights already: making them has its own test."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    source = REPOSITORY / ".xmag"
    if not (source / "signing.key").exists() or not known_releases(
        source, public_key_text(signing_key(source)), DemoSpec()
    ):
        source = REPOSITORY / ".xmag" / "test-demo"
        build_demo_releases(source, signing_key(source), lambda _s, _d, _t: None)
    (folder / "demo").mkdir(parents=True)
    shutil.copytree(source / "releases", folder / "releases")
    shutil.copy(source / "demo" / "weights.json", folder / "demo")
    shutil.copy(source / "signing.key", folder)
    return folder


@pytest.fixture(scope="module")
def first(data: Path) -> subprocess.CompletedProcess[str]:
    return run(data)


def run(data: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", "demo", "--data", str(data), "--port", "0"]
    options = ["--task", "nsclc", "--task", "rcc", "--side", "2688"]
    return subprocess.run([*command, *options], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_it_ends_well_and_prints_a_row_for_each_slide(first: subprocess.CompletedProcess[str]) -> None:
    assert first.returncode == 0, first.stderr
    heading, *rest = first.stdout.splitlines()
    assert heading.split() == ["slide", "task", "truth", "prediction", "probability", "outcome", "seconds"]
    rows = [line.split() for line in rest[:5]]
    assert [row[2] for row in rows] == ["LUAD", "LUSC", "ccRCC", "PRCC", "ChRCC"]
    assert {row[5] for row in rows} == {"predicted"}
    assert NOTICE in first.stdout
    assert "training the encoder" not in first.stderr


def test_every_result_carries_the_notice(data: Path, first: subprocess.CompletedProcess[str]) -> None:
    assert first.returncode == 0, first.stderr
    rows = json.loads((data / "demo" / "results.json").read_text())
    assert [row["notice"] for row in rows] == [NOTICE] * 5
    assert all(0 < row["probability"] <= 1 for row in rows)


def test_the_pictures_are_there(data: Path, first: subprocess.CompletedProcess[str]) -> None:
    assert first.returncode == 0, first.stderr
    heatmaps = list((data / "demo" / "heatmaps").glob("*.png"))
    assert len(heatmaps) == 5
    for path in (*heatmaps, data / "demo" / "contact_sheet.png"):
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            assert image.format == "PNG"
            assert min(image.size) > 300
            assert len(image.convert("RGB").resize((32, 32)).getcolors(1024)) > 20


def test_a_second_run_makes_nothing_again(data: Path, first: subprocess.CompletedProcess[str]) -> None:
    assert first.returncode == 0, first.stderr
    made = {path: path.stat().st_mtime_ns for path in (data / "slides").rglob("*.*") if path.is_file()}
    releases = {path.name for path in (data / "releases").iterdir()}
    second = run(data)
    assert second.returncode == 0, second.stderr
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert {path.name for path in (data / "releases").iterdir()} == releases
    assert [line.split()[:4] for line in second.stdout.splitlines()[:6]] == [
        line.split()[:4] for line in first.stdout.splitlines()[:6]
    ]


def test_the_readme_shows_what_the_demo_makes(data: Path, first: subprocess.CompletedProcess[str]) -> None:
    assert first.returncode == 0, first.stderr
    with Image.open(data / "demo" / "contact_sheet.png") as image:
        size = (1200, round(1200 * image.height / image.width))
        sheet = image.convert("RGB").resize(size, Image.Resampling.BOX)
    shown = REPOSITORY / "docs" / "screenshots" / "contact_sheet.png"
    assert f"docs/screenshots/{shown.name}" in (REPOSITORY / "README.md").read_text()
    if looks_differ(sheet, shown):
        sheet.save(shown, optimize=True)
        pytest.fail("the demo looks different now: its picture was written anew, look at it and commit it")


def looks_differ(sheet: Image.Image, shown: Path) -> bool:
    """Whether the layout differs; words, and shades of attention that another processor trained, may."""
    if not shown.exists():
        return True
    with Image.open(shown) as image:
        small = (sheet.width // 4, sheet.height // 4)
        pair = [np.asarray(each.convert("RGB").resize(small), float) for each in (image, sheet)]
        return image.size != sheet.size or bool(np.abs(pair[0] - pair[1]).mean() > 25)
