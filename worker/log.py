"""JSON lines on stderr. What is logged is an event's name and the job's id: never a value from a slide."""

import json
import logging
import sys
import threading
import traceback
from typing import Any

FIELDS = ("job", "code", "error", "trace", "outcome", "seconds", "count", "digest", "numerics")


class JsonLines(logging.Formatter):
    """One JSON object for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, logger, event, and those of `FIELDS` that the record has."""
        line: dict[str, Any] = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update((name, getattr(record, name)) for name in FIELDS if hasattr(record, name))
        if record.exc_info and record.exc_info[1]:
            line.update(without_values(record.exc_info[1]))
        return json.dumps(line)


def configure() -> None:
    """Set up logging once, at a program's start."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for library in ("celery", "kombu"):
        logging.getLogger(library).setLevel(logging.WARNING)
    threading.excepthook = _thread_died


def without_values(error: BaseException) -> dict[str, Any]:
    """Type and stack of an exception, without its message: that may hold a path or a patient's name."""
    stack = traceback.extract_tb(error.__traceback__)
    frames = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in stack]
    return {"error": type(error).__name__, "trace": frames}


def _thread_died(died: threading.ExceptHookArgs) -> None:
    fields = without_values(died.exc_value) if died.exc_value else {}
    logging.getLogger("worker").critical("a thread died", extra=fields)
