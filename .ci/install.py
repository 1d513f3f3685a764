"""Make .venv with everything that the demo and the tests need, at the versions in constraints.txt.

Standard library only; the same at home and in CI. Before anything is fetched pip is asked what it *would* fetch for
torch. Where that is gigabytes of CUDA on a machine without a GPU, a CPU build is taken instead, by uv's
`--torch-backend=cpu`; if that cannot be had either, torch is left out. Which one it was is printed.

    BAMBA_TORCH=pip|uv|none    choose it yourself
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed.sha256"
CONSTRAINTS = ROOT / "constraints.txt"
TRITON = "triton==3.9.0"
PIP = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "-q"]


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  (an older Python gets this message, not a traceback)
        sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    says = [ROOT / "pyproject.toml", ROOT / "setup.py", ROOT / "bamba_data" / "native.c", CONSTRAINTS]
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in says)).hexdigest()
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return
    if not PYTHON.exists():
        venv.create(VENV, with_pip=True)
    how = os.environ.get("BAMBA_TORCH") or choose()
    install(how)
    if how != "none" and not shutil.which("nvidia-smi"):
        install_triton()
    STAMP.write_text(wanted)


def choose() -> str:
    """How torch is to be had here."""
    if shutil.which("nvidia-smi"):
        print("torch: this machine has an NVIDIA GPU, so pip's own build")
        return "pip"
    cuda = would_fetch_cuda()
    if not cuda:
        print("torch: pip offers a CPU build here, so pip")
        return "pip"
    print(f"torch: pip would fetch {len(cuda)} CUDA packages ({', '.join(cuda[:3])}, …) for a machine without a GPU,")
    print("torch: so the CPU build by uv --torch-backend=cpu")
    return "uv"


def would_fetch_cuda() -> list[str]:
    """The CUDA packages that a plain `pip install torch` would bring; a dry run, nothing is installed."""
    command = [*PIP, "install", "--dry-run", "--ignore-installed", "--report", "-", "-c", str(CONSTRAINTS), "torch"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    names = [str(item["metadata"]["name"]).lower() for item in json.loads(answer.stdout)["install"]]
    return [name for name in names if name.startswith(("nvidia-", "cuda-", "triton"))]


def install(how: str) -> None:
    extras = "ray,dev,docs" if how == "none" else "ray,torch,dev,docs"
    target = ["-c", str(CONSTRAINTS), "-e", f".[{extras}]"]
    print(f"installing .[{extras}] into .venv")
    if how != "uv":
        subprocess.run([*PIP, "install", *target], check=True, cwd=ROOT)
        return
    subprocess.run([*PIP, "install", "uv"], check=True, cwd=ROOT)
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--python", str(PYTHON), "--torch-backend=cpu", *target]
    if subprocess.run(uv, check=False, cwd=ROOT).returncode != 0:
        print("torch: the CPU build cannot be had, so no torch: what needs it will say so (BAMBA_TORCH=pip takes CUDA)")
        install("none")


def install_triton() -> None:
    """For its interpreter, in which the tests run our kernels on a CPU. Not in the extra `dev` or in the constraints:
    torch's CUDA build pins a Triton of its own."""
    if subprocess.run([*PIP, "install", TRITON], check=False, cwd=ROOT).returncode != 0:
        print(f"{TRITON} cannot be had, so the tests of the kernels in its interpreter are skipped")


if __name__ == "__main__":
    main()
