"""Every kernel compiles, without a GPU, for those that it has launches for, and is no more than such a GPU holds.

An H100's are measured with Triton 3.6, the one of torch 2.11; the compiler here is a later one.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
import trainer.kernels
from benchmarks.kernels import CANDIDATES
from trainer.kernels import tuned_launches

SHARED_BYTES = {"H100": 232_448, "A100": 166_912, "B200": 232_448}
SPILLED = 256  # bytes a thread: a few loads in a chunk's thousands of instructions


def resources(*arguments: str) -> list[dict[str, int]]:
    command = [sys.executable, "-m", "benchmarks.kernel_resources", "--json", *arguments]
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, int]] = json.loads(done.stdout)
    return found


def launched() -> set[str]:
    """Every kernel that some file launches: as `_name[(programs,)](…)`."""
    files = Path(trainer.kernels.__path__[0]).glob("*.py")
    return {name for file in files for name in re.findall(r"^\s+(_\w+)\[\(", file.read_text(), re.MULTILINE)}


def test_every_launch_that_can_be_tuned_is() -> None:
    assert CANDIDATES.keys() == set(tuned_launches.KERNELS)
    assert {kernel for kernel, *_ in CANDIDATES.values()} < launched()


@pytest.mark.parametrize("gpu", ["H100", *(pytest.param(gpu, marks=pytest.mark.costly) for gpu in ("A100", "B200"))])
def test_every_kernel_compiles_and_fits(gpu: str) -> None:
    found = resources("--gpu", gpu)
    assert {one["kernel"] for one in found} == launched() - (set() if gpu == "H100" else {"_scan_hopper"})
    assert [one for one in found if one["shared_bytes"] > SHARED_BYTES[gpu] or one["stack_bytes"] > SPILLED] == []


@pytest.mark.costly
@pytest.mark.parametrize("state", [128, 256])
def test_the_parts_of_a_wide_head_fit(state: int) -> None:
    """Its kernels are those of a part. They spill more than Bamba's, and no GPU has timed them."""
    found = resources("--gpu", "H100", "--heads", "32", "--shape", f"256,{state}")
    assert [one for one in found if one["shared_bytes"] > SHARED_BYTES["H100"] or one["stack_bytes"] > 1024] == []


@pytest.mark.costly
@pytest.mark.parametrize(("gpu", "heads"), [("H100", 512), ("A100", 256)])
def test_the_widest_blocks_fit(gpu: str, heads: int) -> None:
    """32,768 channels under one norm, and half as many."""
    found = resources("--gpu", gpu, "--heads", str(heads))
    assert [one for one in found if one["shared_bytes"] > SHARED_BYTES[gpu]] == []


@pytest.mark.costly
def test_a_hopper_s_launches_would_spill_on_an_a100() -> None:
    found = resources("--gpu", "A100", "--launch", "scan_backward.FINISH=8,1,32,0")
    assert max(one["stack_bytes"] for one in found if one["kernel"] == "_finish") > 2000
