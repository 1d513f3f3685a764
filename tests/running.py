"""`bamba-data` as a real process, for tests that kill, interrupt or just run it."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

COMMAND = [sys.executable, "-m", "pipelines.cli"]


def bamba(
    *arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=_env(env), timeout=timeout, check=False
    )


def bamba_on_a_terminal(*arguments: str | Path) -> tuple[int, str]:
    """The exit code of a command whose output is a terminal of 120 columns, and what a person would have seen."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    command, env = [*COMMAND, *map(str, arguments)], _env({"TERM": "xterm"})
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # a terminal whose other side is gone
            while part := os.read(ours, 1 << 16):
                seen += part
    os.close(ours)
    return process.returncode, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


@contextlib.contextmanager
def started(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A running command, in a process group of its own; the whole group is gone afterwards."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=_env(env),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill_all(process)
        if process.stdout:
            process.stdout.close()


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the process and all that it started, Ray's included: what a lost machine looks like."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The Ray workers that are running a unit."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name().startswith("ray::run_unit") or "ray::run_unit" in " ".join(child.cmdline()[:1]):
                    found.append(child)
    return found


def wait_for(condition: Any, seconds: float = 90, what: str = "it") -> Any:
    """The first true value of `condition()`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def verdict(output: str) -> dict[str, Any]:
    """The last JSON line of a build off a terminal."""
    return dict(json.loads([line for line in output.splitlines() if line.startswith("{")][-1]))


def _env(extra: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, "RAY_AUTH_MODE": "disabled", **(extra or {})}
