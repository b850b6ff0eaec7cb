"""The command line's view of the data folder, and its group."""

import json

import click
import pytest
from click.testing import CliRunner

from cli import local
from cli.analyze import locate, parse_mpp
from cli.main import COMMANDS, main, xmag
from cli.slides import slides
from xmag.errors import Code, PlaceError, XmagError
from xmag.registry import public_key_text


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("XMAG_DATABASE_URL", "XMAG_DATA", "XMAG_TRUSTED_KEYS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"demo"}))
def test_every_command_can_be_imported(name):
    assert isinstance(xmag.get_command(click.Context(xmag), name), click.Command)


def test_help_names_every_command():
    text = CliRunner().invoke(xmag, ["--help"]).stdout
    assert all(name in text for name in COMMANDS)


def test_an_error_of_ours_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["keys", "list", "--data", str(tmp_path)])
    assert left.value.code == 1
    assert capsys.readouterr().err.startswith("error: DATABASE_UNAVAILABLE: no database runs on")


def test_the_data_folder_fills_what_the_environment_leaves_open(tmp_path):
    key = local.signing_key(tmp_path)
    (tmp_path / "postgres.json").write_text(json.dumps({"port": 5, "password": "word"}))
    settings = local.local_settings(tmp_path)
    assert settings.database_url.get_secret_value() == "postgresql+psycopg://xmag:word@127.0.0.1:5/xmag"
    assert len(settings.trusted_keys) == 1
    assert local.signing_key(tmp_path).private_bytes_raw() == key.private_bytes_raw()
    assert "word" not in repr(settings)


def test_the_key_to_trust_is_printed(tmp_path):
    found = CliRunner().invoke(xmag, ["weights", "key", "--data", str(tmp_path)])
    assert found.stdout.strip() == public_key_text(local.signing_key(tmp_path))


def test_active_heads_are_kept_by_task(tmp_path):
    local.set_active(tmp_path, "nsclc", "a")
    local.set_active(tmp_path, "rcc", "b")
    local.set_active(tmp_path, "nsclc", "c")
    assert local.chosen_heads(tmp_path, ("nsclc", "isup"), every=True) == {"nsclc": "c"}
    with pytest.raises(XmagError) as caught:
        local.chosen_heads(tmp_path, ("nsclc", "isup"), every=False)
    assert caught.value.code == Code.MODEL_UNAVAILABLE


@pytest.mark.parametrize("text", ["x", "1,2,3", ""])
def test_mpp_that_is_no_number_is_refused(text):
    with pytest.raises(XmagError, match="--mpp"):
        parse_mpp(text, "because")


def test_mpp_has_one_or_two_axes():
    assert parse_mpp(None, None) is None
    one, two = parse_mpp("0.25", "why"), parse_mpp("0.25,0.26", "why")
    assert (one.mpp.x, one.mpp.y, two.mpp.y) == (0.25, 0.25, 0.26)


def test_a_slide_is_found_through_links(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.svs").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert locate(tmp_path / "link" / "a.svs").fingerprint().size == 3


def test_slides_make_prints_the_truth(tmp_path):
    arguments = ["make", "--task", "odx", "--count", "2", "--size", "300", "--out", str(tmp_path)]
    done = CliRunner().invoke(slides, arguments)
    assert done.exit_code == 0, done.output
    rows = [line.split("  ") for line in done.stdout.splitlines()]
    assert [row[1] for row in rows] == ["odx", "odx"]
    assert {row[2] for row in rows} == {"low", "high"}


def test_production_is_not_for_the_one_command_set_up(tmp_path, monkeypatch):
    from cli.stack import running_stack

    monkeypatch.setenv("XMAG_ENV", "production")
    with pytest.raises(PlaceError, match="not for production"), running_stack(tmp_path / "data"):
        pass
