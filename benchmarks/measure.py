"""One command on one core: its wall seconds, processor seconds and the peak memory of all its processes.

The clock runs from before exec until the command is reaped; sampling happens on the other cores.
"""

from __future__ import annotations

import os
import platform
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.1
PSS_EVERY = 5
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Measured:
    """`rss` counts shared pages once per process, `pss` once; both are sampled: short peaks may escape."""

    wall_seconds: float
    cpu_seconds: float
    peak_rss_mib: float
    peak_pss_mib: float
    left_behind: int
    exit_code: int


class CommandFailed(Exception):
    """The command ended badly or ran past its limit; the message ends with its log's tail."""


@dataclass(slots=True)
class Tree:
    """A process and everything it started, also what it left to other parents."""

    root: psutil.Process
    members: dict[tuple[int, float], psutil.Process] = field(default_factory=dict)
    peak_rss: int = 0
    peak_pss: int = 0

    def sample(self, with_pss: bool) -> None:
        with suppress(psutil.Error):
            for process in (self.root, *self.root.children(recursive=True)):
                self.members.setdefault((process.pid, process.create_time()), process)
        rss = pss = 0
        for process in self.members.values():
            with suppress(psutil.Error):
                rss += process.memory_info().rss
                pss += process.memory_full_info().pss if with_pss else 0
        self.peak_rss = max(self.peak_rss, rss)
        self.peak_pss = max(self.peak_pss, pss)

    def end(self) -> int:
        """Stop whatever is still there a second later; how many there were."""
        _, alive = psutil.wait_procs(self.members.values(), timeout=1)
        alive = [process for process in alive if not is_zombie(process)]
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=10)
        return len(alive)


def is_zombie(process: psutil.Process) -> bool:
    """Ended, but not yet collected by its parent: holds nothing."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def one_core_environment(scratch: Path) -> dict[str, str]:
    """One thread everywhere, every cache inside `scratch`, no look at the network."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "USER")}
    return kept | {
        "RAYON_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(scratch / "hf"),
        "TMPDIR": str(scratch),
    }


def measure(argv: Sequence[str], env: Mapping[str, str], core: int, log: Path, limit_seconds: float) -> Measured:
    """Run `argv` pinned to `core` and wait for it; raises CommandFailed."""
    done = threading.Event()
    late = threading.Event()
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *argv],
            env=dict(env),
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        tree = Tree(psutil.Process(process.pid))

        def watch() -> None:
            turn = 0
            while not done.wait(SAMPLE_SECONDS):
                tree.sample(with_pss=turn % PSS_EVERY == 0)
                turn += 1
                if time.perf_counter() - started > limit_seconds and not late.is_set():
                    late.set()
                    process.kill()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        done.set()
        watcher.join()
    tree.members.pop((process.pid, tree.root.create_time()), None)
    left = tree.end()
    if late.is_set() or process.returncode:
        why = f"ran past {limit_seconds:.0f} s" if late.is_set() else f"exit {process.returncode}"
        tail = log.read_text("utf-8", errors="replace")[-1500:]
        raise CommandFailed(f"{why}: {' '.join(argv)}\n{tail}")
    return Measured(
        wall_seconds=wall,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_rss_mib=tree.peak_rss / MIB,
        peak_pss_mib=tree.peak_pss / MIB,
        left_behind=left,
        exit_code=process.returncode,
    )


def warm(paths: Iterable[Path]) -> None:
    """Read the files, so that no run pays for a cold page cache."""
    for path in paths:
        with path.open("rb") as file:
            while file.read(8 * MIB):
                pass


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def machine() -> dict[str, object]:
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_1_5_15_minutes": [round(x, 2) for x in os.getloadavg()],
    }


def leave_core(core: int) -> None:
    """Keep this process and its sampling off the measured core, where there is another one."""
    others = os.sched_getaffinity(0) - {core}
    if others:
        os.sched_setaffinity(0, others)
