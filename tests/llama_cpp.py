"""llama.cpp itself, as built for node: what it makes of a GGUF file.

    heard = llama_cpp(file, tmp_path, ids=[1, 2, 3], texts=["call me"])
    heard.probabilities                     # (positions, vocab_size), float64

The package from npm holds a build for this machine's kind; it is fetched once and kept (tests/peers.py). Where there is
no node, or npm cannot have it, the test is skipped.
"""

import json
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from filelock import FileLock

from tests.peers import FOLDER

SCRIPT = Path(__file__).parent / "trainer" / "llama_cpp.mjs"
VERSION = "3.21.1"  # its build is of llama.cpp v0.4.0
MACHINES = {"x86_64": "linux-x64", "aarch64": "linux-arm64"}


class Heard(NamedTuple):
    """`probabilities` of the next token after each id; `tokens` of each text, and what they are decoded to."""

    probabilities: "np.ndarray[tuple[int, int], np.dtype[np.float64]]"
    tokens: list[list[int]]
    decoded: list[str]


def llama_cpp(file: Path, scratch: Path, ids: Sequence[int] = (), texts: Sequence[str] = ()) -> Heard:
    """Open `file`, evaluate `ids` as one sequence, tokenize `texts`; no token is added to either."""
    folder = modules()
    job, answer = scratch / "job.json", scratch / "answer.json"
    job.write_text(json.dumps({"model": str(file), "ids": list(ids), "texts": list(texts)}))
    command = ["node", str(SCRIPT), str(folder), str(job), str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    if done.returncode:
        pytest.fail(f"llama.cpp: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
    heard = json.loads(answer.read_text())
    return Heard(np.array(heard["probabilities"], dtype=np.float64), heard["tokens"], heard["decoded"])


def modules() -> Path:
    """The folder whose node_modules hold the binding, and the build for this machine alone."""
    machine = MACHINES.get(platform.machine())
    if shutil.which("npm") is None or machine is None:
        pytest.skip(f"llama.cpp for node: no npm here, or no build for {platform.machine()}")
    folder = FOLDER / f"node-llama-cpp-{VERSION}"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if (folder / "complete").exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "package.json").write_text('{"private": true}')
        wanted = [f"node-llama-cpp@{VERSION}", f"@node-llama-cpp/{machine}@{VERSION}"]
        # optional ones are the builds for other machines, of half a gigabyte; scripts would build or fetch one more
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional", *wanted]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["npm said nothing"]
            pytest.skip(f"node-llama-cpp cannot be installed here: {said[-1][:200]}")
        (folder / "complete").touch()
    return folder
