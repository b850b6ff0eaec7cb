"""The documents say what the code says."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from cli.settings_page import settings_page
from xmag.errors import Code

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def tracked(*suffixes: str) -> list[Path]:
    shown = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in shown.splitlines() if name.endswith(suffixes)]


def direct_dependencies() -> set[str]:
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return {re.split(r"[\[<>=; ]", line)[0] for line in lines}


def test_every_direct_dependency_has_its_reason() -> None:
    page = (ROOT / "docs/dependencies.md").read_text()
    assert {name for name in direct_dependencies() if name not in page} == set()


def test_the_page_of_settings_is_fresh() -> None:
    page = (ROOT / "docs/settings.md").read_text()
    assert page == settings_page(), "run: xmag settings > docs/settings.md"


def test_every_code_is_explained() -> None:
    page = (ROOT / "docs/errors.md").read_text()
    assert [code for code in Code if f"`{code}`" not in page] == []


def test_no_file_is_too_long_to_read() -> None:
    source = [path for path in tracked(".py") if "tests" not in path.parts and "versions" not in path.parts]
    assert [path.name for path in source if len(path.read_text().splitlines()) > 350] == []


@pytest.mark.parametrize("name", ["worker", "service", "training"])
def test_root_packages_are_ours(name: str) -> None:
    assert Path(__import__(name).__file__ or "").is_relative_to(ROOT)


def test_the_images_hold_every_package_of_the_wheel() -> None:
    packages = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied, sent = (ROOT / "Dockerfile").read_text(), (ROOT / ".dockerignore").read_text()
    assert [each for each in packages if f"COPY {each} {each}\n" not in copied] == []
    assert [each for each in packages if f"!{each}\n" not in sent] == []


def test_links_between_documents_hold() -> None:
    broken = []
    for page in tracked(".md"):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []
