"""How many cores and how much memory this process may use: what its container has, not what the machine has.

The least of the machine's own, of the cores that the process may run on (affinity), and of the limits of its control
group and of every group around that one (cgroup v1 and v2).
"""

import contextlib
import gc
import math
import os
from collections.abc import Iterator
from pathlib import Path

from bamba_data.recipe import Recipe

MiB = 1 << 20
FETCH_BYTES = 256 * MiB  # of a task that only copies: parts of 16 MiB on their way in and out
NO_LIMIT = 1 << 60  # cgroup v1 writes "no limit" as some number near 2^63


def cores(root: Path = Path("/")) -> int:
    """Whole cores, at least one; a quota of 1.5 gives 2 threads work for 1.5."""
    try:
        mine = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        mine = os.cpu_count() or 1
    quotas = [quota for folder in _groups(root, "cpu") if (quota := _quota(folder)) is not None]
    return max(1, min([mine, *map(math.ceil, quotas)]))


def memory_bytes(root: Path = Path("/")) -> int:
    """Bytes of memory that this process and its children may use."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [limit for folder in _groups(root, "memory") if (limit := _memory_limit(folder)) is not None]
    return min([whole, *limits])


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """For a moment in which very many objects are made that all stay: to look through them for circles again and again,
    while they grow, takes as long as to make them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of those around it, in each hierarchy that has the controller.

    Inside a container the path that /proc tells may be the host's, which is not there: then the mount itself is ours.
    """
    for line in _lines(root / "proc/self/cgroup"):
        _, names, path = line.split(":", 2)
        if names == "":
            top = root / "sys/fs/cgroup"
            top = top if (top / "cgroup.controllers").exists() else root / "sys/fs/cgroup/unified"
        elif controller in names.split(","):
            top = next(
                (place for name in (names, controller) if (place := root / "sys/fs/cgroup" / name).is_dir()), root
            )
            if top == root:
                continue
        else:
            continue
        inner = top / path.strip("/")
        folder = inner if inner.is_dir() and ".." not in path.split("/") else top
        while True:
            yield folder
            if folder == top:
                break
            folder = folder.parent


# https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max, memory.max) and cgroup-v1/{cpu,memory} before it.


def _quota(folder: Path) -> float | None:
    """Cores' worth of time that a group may use."""
    if words := _words(folder / "cpu.max"):
        quota, period = words[0], words[1] if len(words) > 1 else "100000"
    else:
        quota = " ".join(_words(folder / "cpu.cfs_quota_us"))
        period = " ".join(_words(folder / "cpu.cfs_period_us"))
    if not (quota.isdecimal() and period.isdecimal() and int(quota) > 0 and int(period) > 0):
        return None  # max, -1, or not there
    return int(quota) / int(period)


def _memory_limit(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        words = _words(folder / name)
        if words and words[0].isdecimal() and 0 < int(words[0]) < NO_LIMIT:
            return int(words[0])
    return None


def _words(file: Path) -> list[str]:
    return [word for line in _lines(file) for word in line.split()]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def unit_memory_bytes(recipe: Recipe) -> int:
    """What one unit may need at its worst, by what a recipe lets in: the process with its tokenizer, the longest text
    at the tokens that a byte of ideographs costs, the longest line, and a shard with its copy. By default 1.28 GiB; the
    worst that was measured is 1.11 (benchmarks/worker_memory.py)."""
    rules, shards = recipe.bad_input, recipe.shards
    shard_bytes = 3 * shards.block_tokens * shards.blocks_per_shard
    return 320 * MiB + 52 * rules.max_document_bytes + rules.max_line_bytes + shard_bytes
