"""What only Linux has is not needed: affinity, files without a name, /proc, /dev/shm. macOS has none of it."""

import subprocess
import sys
from pathlib import Path

import pytest

#: Takes them away before anything of ours is imported, then builds a dataset and reads batches of it.
ELSEWHERE = """
import builtins, io, multiprocessing, os, sys
from pathlib import Path
for name in ("sched_getaffinity", "sched_setaffinity", "O_TMPFILE", "posix_fadvise", "memfd_create", "prlimit"):
    if hasattr(os, name):
        delattr(os, name)
real = io.open
def not_there(file, *arguments, **options):
    if isinstance(file, (str, os.PathLike)) and str(file).startswith(("/proc/", "/dev/shm", "/sys/")):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return real(file, *arguments, **options)
io.open = builtins.open = not_there

from bamba_data.resources import cores, memory_bytes
from bamba_data.storage.local_disk import cache_folder
from bamba_data.tokenization.conformance import choose
from bamba_data.tokenization.tokenizer import Tokenizer
from bamba.trainer.checkpoint.lease import _machine
from loader import OrderSpec, Reading, build_loader
from tests.building import TOKENIZER, build

folder = Path(sys.argv[1])
assert cores() == os.cpu_count() and memory_bytes() > 1 << 20 and cache_folder().is_absolute()
assert _machine() == ""
certificate = choose(Tokenizer(TOKENIZER.read_bytes()), "gigatoken")[1]
build(folder / "dataset", certificate)
order = OrderSpec(row_tokens=64, batch_rows=2, seed=1)
loader = build_loader(str(folder / "dataset"), order, Reading(num_workers=2, cache=folder / "cache", max_steps=3))
print([batch["input_ids"].sum().item() for batch in loader])
"""


@pytest.mark.slow
def test_a_system_without_what_only_linux_has_builds_and_reads(tmp_path: Path, demo: Path) -> None:
    command, root = [sys.executable, "-c", ELSEWHERE, tmp_path], Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dataset" / "_bamba" / "versions").exists()
    ours = [path.name for path in (tmp_path / "dataset" / "_bamba" / "manifests").iterdir()]
    assert ours == [path.name for path in (demo / "_bamba" / "manifests").iterdir()], "the same dataset"
    assert len(done.stdout.split(",")) == 3
