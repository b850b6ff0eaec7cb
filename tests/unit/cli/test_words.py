"""What the commands answer to people who ask for something odd."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner, Result

from cli import local, submit
from cli.analyze import parse_mpp
from cli.keys import _ends
from cli.main import main, xmag
from xmag.errors import Code, PlaceError, RequestError


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.delenv("XMAG_DATABASE_URL", raising=False)


def asked(*words: object) -> Result:
    return CliRunner().invoke(xmag, [str(word) for word in words])


@pytest.mark.parametrize("mpp", ["900", "0.01", "nan", "0.25,900", "0.05,20"])
def test_an_mpp_that_cannot_be_names_the_range(tmp_path, mpp):
    answer = asked("analyze", tmp_path / "a.svs", "--mpp", mpp, "--json", "--data", tmp_path)
    error = json.loads(answer.output)["error"]
    assert (answer.exit_code, error["code"]) == (1, "INVALID_REQUEST")
    assert "0.05 to 20" in error["detail"]


def test_an_mpp_needs_its_reason_and_is_kept(tmp_path):
    with pytest.raises(RequestError, match="go together"):
        parse_mpp("0.25", None)
    assert parse_mpp("0.25,0.5", "seen").mpp.y == 0.5


@pytest.mark.parametrize(("prefix", "words"), [("b", "no release begins"), ("a", "2 releases begin")])
def test_a_digest_that_is_not_one(tmp_path, monkeypatch, capsys, prefix, words):
    monkeypatch.setattr(local, "listing", lambda _: ["a" * 64, "a" * 63 + "b", "c" * 64])
    with pytest.raises(SystemExit) as ended:
        main(["weights", "promote", prefix, "--data", str(tmp_path)])
    assert ended.value.code == 1
    assert f"error: NOT_FOUND: {words}" in capsys.readouterr().err
    assert local.find_release(local.local_settings(tmp_path), "c") == "c" * 64


def test_no_releases_is_said(tmp_path):
    answer = asked("weights", "list", "--data", tmp_path)
    assert answer.exit_code == 0
    assert "xmag weights publish" in answer.output


@pytest.mark.parametrize("stopped", [False, True])
def test_a_missing_database_names_the_folder(tmp_path, stopped):
    if stopped:
        (tmp_path / "postgres.json").write_text(json.dumps({"password": "x", "port": 9}))
    answer = asked("keys", "list", "--data", tmp_path)
    assert isinstance(answer.exception, PlaceError)
    assert answer.exception.code == Code.DATABASE_UNAVAILABLE
    assert str(tmp_path) in answer.exception.detail


def test_days_may_be_a_fraction():
    assert _ends(0.01) - datetime.now(UTC) <= timedelta(days=0.01)
    for days in (float("nan"), 1e12):
        with pytest.raises(RequestError):
            _ends(days)


@pytest.mark.parametrize("days", ["0", "-1"])
def test_days_lie_ahead(tmp_path, days):
    assert asked("keys", "create", "ann", "--days", days, "--data", tmp_path).exit_code == 2


def test_a_failed_job_is_named_beside_its_error():
    error = {"code": "NO_TISSUE", "detail": "no tissue"}
    job = {"id": "7", "state": "failed", "error": error}
    assert json.loads(submit._text(job, job, as_json=True)) == {"error": error, "job": "7"}
