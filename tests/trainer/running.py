"""Training runs as real processes, for tests that kill and resume them: forks, or by their command and torchrun."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from bamba_data.storage.store import LocalStore, Store, open_store
from tests.forking import Ranks, run_forked
from tests.trainer.job import run
from trainer.checkpoint.commits import folders, read_commit
from trainer.checkpoint.dcp_storage import read_index
from trainer.checkpoint.pieces import PieceLocation, read_piece

#: A checkpoint that an earlier release wrote.
GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint"

Environment = Mapping[str, str] | None
Process = Ranks | subprocess.Popen[str]


def command(out: Path | str, ranks: int, *changes: str, restarts: int = 0) -> list[str]:
    job = ["-W", "error", "-m", "tests.trainer.job", str(out), *changes]
    if ranks == 1:
        return [sys.executable, *job]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    torchrun += ["--max-restarts", str(restarts)]
    return [*torchrun, "--no-python", sys.executable, *job]


def _env(env: Environment) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}


def job(
    out: Path | str, ranks: int, *changes: str, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run to the end."""
    return run_forked(run, [str(out), *changes], ranks, _env(env))


def launched(
    out: Path | str, ranks: int, *changes: str, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """The same by its command or torchrun, for what these say and do."""
    return subprocess.run(
        command(out, ranks, *changes), capture_output=True, text=True, env=_env(env), timeout=240, check=False
    )


@contextlib.contextmanager
def started(
    out: Path,
    ranks: int,
    *changes: str,
    env: Mapping[str, str] | None = None,
    by_launcher: bool = False,
    restarts: int = 0,
) -> Iterator[Process]:
    """A run under way, by torchrun where that matters; it and all its ranks are gone afterwards."""
    place = out.parent / f"{out.name}.log"
    place.touch()
    if not by_launcher:
        ranks_under_way = Ranks(run, [str(out), *changes], ranks, _env(env), place, place)
        try:
            yield ranks_under_way
        finally:
            ranks_under_way.kill()
        return
    with place.open("w") as log:
        process = subprocess.Popen(
            command(out, ranks, *changes, restarts=restarts),
            stdout=log,
            stderr=log,
            text=True,
            env=_env(env),
            start_new_session=True,
        )
        try:
            yield process
        finally:
            kill_all(process)


def kill_all(process: Process) -> None:
    """SIGKILL to the launcher and every rank."""
    for rank in ranks_of(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            rank.kill()
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.wait()


def ranks_of(process: Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        if isinstance(process, Ranks):
            return [psutil.Process(pid) for pid in process.pids]
        return psutil.Process(process.pid).children(recursive=True)
    return []


def wait_for_step(out: Path, step: int, process: Process) -> None:
    """Until the run has written the line of `step`."""
    deadline = time.monotonic() + 120
    while step not in losses(out):
        assert process.poll() is None, (out.parent / f"{out.name}.log").read_text()
        assert time.monotonic() < deadline, "the step did not come"
        time.sleep(0.05)


def lines(out: Path) -> list[dict[str, Any]]:
    file = out / "metrics.jsonl"
    if not file.exists():
        return []
    whole = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in whole]


def losses(out: Path) -> dict[int, float]:
    """The loss of each step, as last written."""
    return {line["step"]: line["loss"] for line in lines(out) if "loss" in line}


def ledger(out: Path) -> dict[int, tuple[int, int]]:
    """Tokens learned from each source after each step, as last written."""
    return {line["step"]: (line["tokens/up"], line["tokens/down"]) for line in lines(out) if "loss" in line}


def newest(store: Store) -> tuple[str, dict[str, Any]]:
    """Name and commit of the newest checkpoint."""
    name = next(folder.name for folder in folders(store) if folder.whole)
    return name, read_commit(store, name)


def bits(out: str | Path) -> tuple[int, dict[str, list[str]]]:
    """The digests of every piece of the newest checkpoint, after its step; read back and checked."""
    store = open_store(f"{out}/checkpoints")
    name, commit = newest(store)
    index = read_index(store, name, commit["index"])
    for entry in index.values():
        for _, _, *place in entry["pieces"]:
            read_piece(store, name, PieceLocation(*place))
    return commit["step"], {key: [piece[-1] for piece in entry["pieces"]] for key, entry in index.items()}


def newest_folder(out: Path) -> Path:
    return out / "checkpoints" / newest(LocalStore(out / "checkpoints"))[0]
