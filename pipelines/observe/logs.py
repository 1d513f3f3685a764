"""How a job speaks, by the standard `logging`: lines for people on stderr, events as JSON lines on stdout.

    people_log().warning("the record cannot be written")
    json_log().info("plan", units=12)      {"units": 12, "event": "plan", "level": "info", "timestamp": "2026-…Z"}

`ray job logs` and log collectors read stdout.
"""

import datetime
import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any

from bamba_data.terminal import printable


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        event = {
            **getattr(record, "fields", {}),
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "timestamp": f"{at:%Y-%m-%dT%H:%M:%S.%fZ}",
        }
        return json.dumps(event, default=str)


class _StreamOfNow(logging.Handler):
    """Writes to what sys.stdout or sys.stderr is at the time: tests, and Ray, put others in their places."""

    def __init__(self, stream: str, formatter: logging.Formatter) -> None:
        super().__init__()
        self._stream = stream
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        stream = getattr(sys, self._stream)
        stream.write(printable(self.format(record)) + "\n")
        stream.flush()


class EventLog(logging.LoggerAdapter[logging.Logger]):
    """Keyword arguments become fields of the event."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, {"extra": {"fields": dict(kwargs)}}


def people_log() -> logging.Logger:
    """Lines on stderr, where they do not mix with what a command prints."""
    return _logger("bamba.people", "stderr", logging.Formatter("%(message)s"))


def json_log() -> EventLog:
    """Events on stdout, one JSON line each, keys in the order of the call."""
    return EventLog(_logger("bamba.events", "stdout", _JsonFormatter()))


def _logger(name: str, stream: str, formatter: logging.Formatter) -> logging.Logger:
    """With its handler, from the first call on. The root logger's handlers would say everything twice."""
    log = logging.getLogger(name)
    if not log.handlers:
        log.addHandler(_StreamOfNow(stream, formatter))
        log.setLevel(logging.INFO)
        log.propagate = False
    return log
