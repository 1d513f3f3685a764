"""What this machine, or container, gives a worker: temporary files, memory, open files."""

import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import bamba_data
from bamba_data import resources
from bamba_data.recipe import Recipe

from ..local_ray import OBJECT_STORE_BYTES, RAY_BYTES
from .finding import Finding, judged, missing, ok

SCRATCH_BYTES_A_CORE = 2 << 30  # a staged parquet file of the corpora has up to some 2 GB
MIN_OPEN_FILES = 4096


def machine(recipe: Recipe) -> Iterator[Finding]:
    """Findings about this machine, for a build of `recipe`: what Ray and its units will ask of it."""
    python = sys.version.split()[0]
    yield ok("versions", f"bamba-data {bamba_data.__version__}, Python {python}, uid {os.getuid()}, gid {os.getgid()}")
    yield _ray()
    yield _temporary_files()
    cores = resources.cores()
    free = shutil.disk_usage(tempfile.gettempdir()).free
    yield judged(
        "scratch space",
        free >= SCRATCH_BYTES_A_CORE * cores,
        f"{free / 1e9:,.1f} GB free for {cores} cores; inputs in parquet are staged there",
        "a larger sizeLimit, or fewer --workers",
        otherwise="note",
    )
    memory, a_unit = resources.memory_bytes(), resources.unit_memory_bytes(recipe)
    units = max(0, (memory - OBJECT_STORE_BYTES - RAY_BYTES) // a_unit)
    detail = f"{memory / 2**30:,.1f} GiB: {units} units of {a_unit / 2**30:,.2f} GiB at once, of {cores} cores"
    yield judged("memory", units >= cores, detail, f"--workers {max(1, units)}, or more memory", otherwise="note")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    is_enough = files >= MIN_OPEN_FILES or files == resource.RLIM_INFINITY
    yield judged("open files", is_enough, f"{files:,}", "ulimit -n 65536")
    if sys.platform != "linux":
        return
    # Ray's object store lies there, even where almost nothing goes through it.
    is_usable = Path("/dev/shm").is_dir() and os.access("/dev/shm", os.W_OK)
    yield judged("shared memory", is_usable, "/dev/shm", "mount an emptyDir of medium Memory")


def _ray() -> Finding:
    """Imported, not looked up: a package that is there and does not load would end a build as well."""
    try:
        import ray
    except ImportError as error:
        return missing("ray", str(error), "pip install 'bamba-data[ray]'")
    return ok("ray", f"Ray {ray.__version__}")


def _temporary_files() -> Finding:
    folder = tempfile.gettempdir()
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return missing("temporary files", f"{folder}: {error.strerror}", "mount an emptyDir at /tmp")
    return ok("temporary files", folder)
