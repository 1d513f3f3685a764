"""A file of JSON lines that never ends a training: what a full disk refuses waits in memory and is written later.

Every line is JSON: what is no finite number is null, and `not_finite` says what it was. A line that a killed process
left half-written is cut off when the file is opened again.
"""

import json
import logging
import math
import os
import re
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoint.free_space import FULL

MAX_WAITING_LINES = 100_000
_STEP = re.compile(rb'"step": (\d+)')


class JsonLines:
    """`furthest_step` is the last step that a line of the file tells of. An `OSError` at the start is one, unless the
    disk is full; later ones are said, once until it is well again."""

    def __init__(self, file: Path, log: logging.Logger) -> None:
        self.file, self._log = file, log
        self.furthest_step = 0
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING_LINES)
        self._descriptor: int | None = None
        self._failing = False
        try:
            self._open()
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._failed(error)

    def write(self, values: Mapping[str, Any]) -> None:
        """Append a line, after those that wait."""
        self._waiting.append(json.dumps(as_json(values), allow_nan=False).encode() + b"\n")
        try:
            self._open()
            while self._waiting:
                self._append(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            self._failed(error)
            return
        if self._failing:
            self._log.info(f"{self.file}: metrics are written again")
            self._failing = False

    def close(self) -> None:
        if self._waiting:
            self._log.error(f"{self.file}: {len(self._waiting)} lines of metrics are lost")
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> None:
        if self._descriptor is not None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o666)
        end = 0
        with self.file.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    os.ftruncate(descriptor, end)
                    break
                end += len(line)
                if step := _STEP.search(line):
                    self.furthest_step = max(self.furthest_step, int(step[1]))
        self._descriptor = descriptor

    def _append(self, line: bytes) -> None:
        """All of it or nothing."""
        assert self._descriptor is not None
        end = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise

    def _failed(self, error: OSError) -> None:
        if not self._failing:
            self._log.error(
                f"METRICS ARE NOT WRITTEN: {self.file}: {error.strerror}; training goes on, the lines wait for room"
            )
        self._failing = True


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with null for every float that is no finite number, and what those were in `not_finite`."""
    odd = {name: repr(value) for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)}
    plain = {name: None if name in odd else value for name, value in values.items()}
    return plain | ({"not_finite": odd} if odd else {})
