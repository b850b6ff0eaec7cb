"""What reaches the log never holds a value."""

import json
import logging
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
