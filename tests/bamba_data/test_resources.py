"""Cores and memory are those of the container: the least of affinity, and of every control group around us."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bamba_data.recipe import load_file
from bamba_data.resources import cores, memory_bytes, unit_memory_bytes
from pipelines.cli.options import RECIPES

MACHINE_CORES = len(os.sched_getaffinity(0))
GiB = 1 << 30


def made(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = {"proc/self/cgroup": "0::/pod/inner\n", "sys/fs/cgroup/cgroup.controllers": "cpu memory\n"}
V1 = {"proc/self/cgroup": "5:memory:/pod/inner\n4:cpu,cpuacct:/pod/inner\n1:name=systemd:/x\n"}
INNER, POD, TOP = "sys/fs/cgroup/pod/inner/", "sys/fs/cgroup/pod/", "sys/fs/cgroup/"


@pytest.mark.parametrize(
    ("files", "expected_cores", "expected_bytes"),
    [
        ({}, None, None),
        (V2 | {INNER + "cpu.max": "max 100000", INNER + "memory.max": "max"}, None, None),
        (V2 | {INNER + "cpu.max": "100000 100000", INNER + "memory.max": f"{GiB}"}, 1, GiB),
        (V2 | {INNER + "cpu.max": "20000 100000"}, 1, None),
        (V2 | {INNER + "cpu.max": "max 100000", POD + "cpu.max": "50000 100000", POD + "memory.max": "7"}, 1, 7),
        (V2 | {INNER + "memory.max": f"{2 * GiB}", POD + "memory.max": f"{GiB}"}, None, GiB),
        (V2 | {TOP + "cpu.max": "100000 100000", TOP + "memory.max": "5000"}, 1, 5000),
        (V2 | {"proc/self/cgroup": "0::/../host/path\n", TOP + "memory.max": "5000"}, None, 5000),
        (V2 | {"proc/self/cgroup": "0::/of/the/host\n", TOP + "cpu.max": "100000 100000"}, 1, None),
        (V2 | {INNER + "cpu.max": "rubbish", INNER + "memory.max": ""}, None, None),
        (V1 | {"sys/fs/cgroup/memory/pod/inner/memory.limit_in_bytes": f"{GiB}"}, None, GiB),
        (V1 | {"sys/fs/cgroup/memory/pod/memory.limit_in_bytes": "9223372036854771712"}, None, None),
        (
            V1
            | {
                "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/pod/inner/cpu.cfs_quota_us": "-1",
            },
            1,
            None,
        ),
        (V1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 1, None),
    ],
)
def test_the_least_of_all_limits_counts(
    files: dict[str, str], expected_cores: int | None, expected_bytes: int | None, tmp_path: Path
) -> None:
    root = made(tmp_path, files)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert cores(root) == (expected_cores or MACHINE_CORES)
    assert memory_bytes(root) == (expected_bytes or whole)


@pytest.mark.skipif(MACHINE_CORES < 2, reason="one core only")
def test_a_process_that_may_run_on_one_core_has_one() -> None:
    script = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    script += "from bamba_data.resources import cores; print(cores())"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "1"


def test_a_unit_asks_for_what_the_recipe_lets_in() -> None:
    demo = load_file(RECIPES / "demo.yaml")
    usual = unit_memory_bytes(load_file(RECIPES / "dolma-v1_7.yaml"))
    assert 1.11 * GiB < usual <= 1.5 * GiB
    larger = demo.model_copy(update={"bad_input": demo.bad_input.model_copy(update={"max_document_bytes": 64 << 20})})
    assert unit_memory_bytes(larger) - unit_memory_bytes(demo) == 52 * (48 << 20)
