"""A case of a benchmark in processes of its own: how it is started, and that nothing of it outlives its time."""

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

import psutil

LATE = 124  # the exit code of what ran past its time, as `timeout` of coreutils has it


@dataclass(frozen=True, slots=True)
class Ended:
    """`said` and `errors` are empty where both went into a file."""

    code: int
    said: str
    errors: str
    seconds: float


def command(*words: str, ranks: int = 1) -> list[str]:
    """Words for python; of several ranks by torchrun."""
    return by_torchrun(*words, ranks=ranks) if ranks > 1 else [sys.executable, *words]


def by_torchrun(*words: str, ranks: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *words]


def ended(words: Sequence[str], limit: float, into: TextIO | None = None) -> Ended:
    """Run a command for `limit` seconds at most."""
    begun, late = time.perf_counter(), False
    streams = (into, subprocess.STDOUT) if into else (subprocess.PIPE, subprocess.PIPE)
    with subprocess.Popen(words, stdout=streams[0], stderr=streams[1], text=True) as process:
        try:
            said, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            late = True
            stop(process)
            said, errors = process.communicate()
        finally:
            stop(process)
    return Ended(LATE if late else process.returncode, said or "", errors or "", time.perf_counter() - begun)


def stop(process: "subprocess.Popen[str]") -> None:
    """Kill it and all that it started. torchrun gives each rank a session: no signal to a group reaches them."""
    if process.poll() is not None:
        return
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for one in started:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    psutil.wait_procs(started, timeout=5)  # what they held of a GPU is free then
