"""How much memory a piece of code takes: measured by the kernel, in a Python of its own."""

import json
import os
import subprocess
import sys
from typing import Any

# Not ru_maxrss: across an exec the kernel lets it keep the peak of the process that forked.
PRELUDE = """
import json, re, sys
from pathlib import Path
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1)) * 1024
def done(result, before):
    print(json.dumps([result, peak() - before]))
"""


def grown(script: str, *arguments: object) -> tuple[Any, int]:
    """What the script gave to `done(result, before)`, and by how many bytes its peak grew since `before = peak()`."""
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    # Large blocks that are freed go back at once, so that the peak is of what is held and not of what malloc keeps.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert run.returncode == 0, run.stderr
    result, size_bytes = json.loads(run.stdout)
    return result, size_bytes
