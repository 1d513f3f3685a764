"""Processor seconds of a small build on a Ray of its own, over every process that it starts, and what Ray alone costs.

    python -m benchmarks.start_cost [--rounds 5] [--core 1]

Three rows: Ray alone as `ray.init` starts it without a dashboard, Ray alone as a build starts it (both with one task),
and the second `bamba-data build demo` of a host, whose certificate is known. Exact where a cgroup can be made (v1 or
v2, as root); elsewhere the processes are sampled, which misses what one does in its last hundredth of a second.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.measure import machine

SAMPLE_SECONDS = 0.02
V1, V2 = Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup")

_RAY = """
import contextlib, sys, ray
from bamba.pipelines.ray_jobs.local_ray import local_arguments, without_services
with without_services() if sys.argv[1] == "less" else contextlib.nullcontext():
    ray.init(**local_arguments(1, 1 << 28), log_to_driver=False, logging_level="error")
assert ray.get(ray.remote(lambda: 1).remote()) == 1
ray.shutdown()
"""


def new_cgroup() -> Path | None:
    """An empty cgroup that counts processor time, or None where none can be made."""
    above = V1 if (V1 / "cgroup.procs").exists() else V2
    group = above / f"start-cost-{os.getpid()}-{time.monotonic_ns()}"
    with contextlib.suppress(OSError):
        group.mkdir()
        if (group / "cpuacct.usage").exists() or (group / "cpu.stat").exists():
            return group
        group.rmdir()
    return None


def used_seconds(group: Path) -> float:
    """Processor seconds of all processes that ever were in the cgroup."""
    if (group / "cpuacct.usage").exists():
        return int((group / "cpuacct.usage").read_text()) / 1e9
    fields = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(fields["usage_usec"]) / 1e6


def cpu_seconds(argv: Sequence[str], env: dict[str, str]) -> float:
    """User and system seconds of a command and of all that it started, until the last of them has ended."""
    group = new_cgroup()

    def join() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, preexec_fn=join)
    times: dict[tuple[int, float], float] = {}
    known: dict[tuple[int, float], psutil.Process] = {}
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(process.pid)
            known |= {(one.pid, one.create_time()): one for one in (root, *root.children(recursive=True))}
        for key, one in known.items():
            with contextlib.suppress(psutil.Error):
                used = one.cpu_times()
                times[key] = used.user + used.system
        time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise SystemExit(f"exit {process.returncode}: {' '.join(argv)}")
    psutil.wait_procs(known.values(), timeout=20)
    if group is None:
        return sum(times.values())
    exact = used_seconds(group)
    with contextlib.suppress(OSError):  # something is still there: its seconds are not ours to wait for
        group.rmdir()
    return exact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, help="pin everything to this core")
    given = parser.parse_args()
    pinned = [] if given.core is None else ["taskset", "-c", str(given.core)]
    with tempfile.TemporaryDirectory(prefix="start-cost-") as folder:
        env = {**os.environ, "BAMBA_CACHE": str(Path(folder) / "cache")}
        python = [*pinned, sys.executable]

        def build(name: str) -> list[str]:
            return [*python, "-m", "bamba_data", "build", "demo", "--out", str(Path(folder) / name)]

        first = cpu_seconds(build("first"), env)
        rows: dict[str, list[float]] = {"ray.init": [], "Ray as a build starts it": [], "second build": []}
        for number in range(given.rounds):
            rows["ray.init"].append(cpu_seconds([*python, "-c", _RAY, "full"], env))
            rows["Ray as a build starts it"].append(cpu_seconds([*python, "-c", _RAY, "less"], env))
            rows["second build"].append(cpu_seconds(build(f"round-{number}"), env))
    print(machine())
    print(f"{'first build':26} {first:6.2f} s")
    for name, seconds in rows.items():
        print(f"{name:26} {statistics.median(seconds):6.2f} s  ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
