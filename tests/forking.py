"""Ranks as forks of a process that has imported everything: a second of work, not five of imports each.

Python's own `forkserver`: the process that is forked has one thread and has computed nothing. What is about launchers,
restarts and signals starts as a user starts it: by a command, or torchrun.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from unittest import mock

from tests.clusters import free_port

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.trainer.job", "tests.faults.loader_job"])
#: As torchrun: when a rank has failed the others are told to stop, and killed if they do not.
STOP_SECONDS = 30.0

Entry = Callable[[Sequence[str]], int]


def run_forked(
    entry: Entry, arguments: Sequence[str], ranks: int, env: Mapping[str, str], timeout_seconds: float = 240
) -> "subprocess.CompletedProcess[str]":
    """What `entry(arguments)` returns and says, alone or as the ranks of torchrun, of warnings too: they are errors."""
    places: list[dict[str, str]] = [{}]
    if ranks > 1:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
        places = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "stdout"), Path(folder, "stderr")
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):  # of the server, which the first start starts
            processes = [
                CONTEXT.Process(target=_rank, args=(entry, list(arguments), {**env, **place}, *map(str, said)))
                for place in places
            ]
            for process in processes:
                process.start()
        try:
            failed = _wait(processes, timeout_seconds)
        finally:
            for process in processes:
                process.kill()
                process.join()
        code = (failed if ranks == 1 else 1) if failed else 0
        return subprocess.CompletedProcess(list(arguments), code, *(file.read_text() for file in said))


def _wait(processes: Sequence[ForkServerProcess], timeout_seconds: float) -> int:
    """The exit code of the first that fails, or 0."""
    end = time.monotonic() + timeout_seconds
    while any(process.exitcode is None for process in processes):
        if failed := [process.exitcode for process in processes if process.exitcode]:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(STOP_SECONDS)
            return failed[0]
        if time.monotonic() > end:
            raise subprocess.TimeoutExpired("ranks", timeout_seconds)
        time.sleep(0.02)
    return next((process.exitcode for process in processes if process.exitcode), 0)


def _rank(entry: Entry, arguments: list[str], env: dict[str, str], *said: str) -> None:
    for number, name in enumerate(said, 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.environ.clear()
    os.environ.update(env)
    warnings.simplefilter("error")
    sys.argv = [entry.__module__, *arguments]
    try:
        code = entry(arguments)
    except BaseException:  # noqa: BLE001 - as the interpreter ends
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
