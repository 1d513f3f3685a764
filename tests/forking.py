"""Ranks as forks of a process that has imported everything: a second of work, not five of imports each.

Python's own `forkserver`: the process that is forked has one thread and has computed nothing. What is about launchers,
restarts and signals starts as a user starts it: by a command, or torchrun.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from unittest import mock

from tests.clusters import free_port

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.trainer.job", "tests.faults.loader_job"])
#: As torchrun: when a rank has failed the others are told to stop, and killed if they do not.
STOP_SECONDS = 30.0

Entry = Callable[[Sequence[str]], int]


class Ranks:
    """Ranks under way, with what tests use of a Popen. Alone, or as those of torchrun; warnings are errors there."""

    def __init__(
        self, entry: Entry, arguments: Sequence[str], ranks: int, env: Mapping[str, str], stdout: Path, stderr: Path
    ) -> None:
        places: list[dict[str, str]] = [{}]
        if ranks > 1:
            shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
            shared["LOCAL_WORLD_SIZE"] = str(ranks)
            places = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
        self.processes = [
            CONTEXT.Process(target=_rank, args=(entry, list(arguments), {**env, **place}, str(stdout), str(stderr)))
            for place in places
        ]
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):  # of the server, which the first start starts
            for process in self.processes:
                process.start()

    @property
    def pids(self) -> list[int]:
        return [int(process.pid or 0) for process in self.processes]

    @property
    def pid(self) -> int:
        """Of the first rank."""
        return self.pids[0]

    def poll(self) -> int | None:
        """None while any of them runs, else as `wait`."""
        codes = [process.exitcode for process in self.processes]
        return None if None in codes else _code(codes)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code of one process; of several, 1 if any failed. The others of one that fails are stopped."""
        end = time.monotonic() + timeout if timeout else None
        while (code := self.poll()) is None:
            if any(process.exitcode for process in self.processes):
                for process in self.processes:
                    process.terminate()
                for process in self.processes:
                    process.join(STOP_SECONDS)
                self.kill()
            elif end and time.monotonic() > end:
                raise subprocess.TimeoutExpired("ranks", timeout or 0)
            else:
                time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        for pid in self.pids:
            os.kill(pid, number)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


def run_forked(
    entry: Entry, arguments: Sequence[str], ranks: int, env: Mapping[str, str], timeout_seconds: float = 240
) -> "subprocess.CompletedProcess[str]":
    """What `entry(arguments)` returns and says, run to its end."""
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        started = Ranks(entry, arguments, ranks, env, stdout, stderr)
        try:
            code = started.wait(timeout_seconds)
        finally:
            started.kill()
        return subprocess.CompletedProcess(list(arguments), code, stdout.read_text(), stderr.read_text())


def typed(*words: object, ranks: int = 1, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """What `python -m WORDS` says, on several ranks as by torchrun."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return run_forked(_run_module, [str(cwd or Path.cwd()), *map(str, words)], ranks, env)


def _run_module(arguments: Sequence[str]) -> int:
    folder, module, *words = arguments
    os.chdir(folder)
    sys.argv = [module, *words]
    sys.modules.pop(module, None)  # runpy would warn that it is here already
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _code(codes: Sequence[int | None]) -> int:
    return codes[0] or 0 if len(codes) == 1 else int(any(codes))


def _rank(entry: Entry, arguments: list[str], env: dict[str, str], *said: str) -> None:
    os.setsid()
    for number, name in enumerate(said, 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [entry.__module__, *arguments]
    try:
        code = entry(arguments)
    except BaseException:  # noqa: BLE001 - as the interpreter ends
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
