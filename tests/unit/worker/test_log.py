"""What reaches the log never holds a value."""

import json
import logging
import subprocess
import sys

from worker.log import JsonLines

PRIVATE = "/slides/Jane Doe.svs"


def record(**fields) -> logging.LogRecord:
    try:
        raise ValueError(PRIVATE)
    except ValueError:
        return logging.LogRecord("worker", logging.ERROR, "", 0, "the work failed", (), sys.exc_info())


def test_an_exception_is_told_by_type_and_place_alone():
    line = JsonLines().format(record())
    assert PRIVATE not in line
    told = json.loads(line)
    assert (told["error"], told["event"], told["level"]) == ("ValueError", "the work failed", "error")
    assert told["trace"][-1].startswith("test_log.py:")


def test_only_known_fields_are_written():
    made = logging.makeLogRecord({"msg": "claimed", "job": "1", "path": PRIVATE, "levelname": "INFO"})
    told = json.loads(JsonLines().format(made))
    assert told["job"] == "1"
    assert "path" not in told


def test_the_dispatcher_starts_without_torch():
    code = "import sys, worker.dispatcher; assert not {'torch', 'timm', 'xmag.nn'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_app_reads_no_setting_until_asked(monkeypatch):
    code = "import worker.app"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"XMAG_NONSENSE": "1", "PATH": ""}
    )
    assert done.returncode == 0, done.stderr
