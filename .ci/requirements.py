"""Write k8s/requirements-*.txt: every package of the image with its version, as in constraints.txt, and its hashes.

    python .ci/requirements.py          after a change of the dependencies in pyproject.toml or of constraints.txt

Needs uv. The files hold for Linux on any machine and for every Python that we support: the image's base chooses.
"""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: What builds the image and is not in it. setuptools: its version is that of constraints.txt, if it is there.
TOOLS = "setuptools>=77\ncyclonedx-bom\npip\n"
#: The extras of each image. Tasks are asked beside a training, too (`log.benchmark_suite`).
IMAGES = {"ray": ("ray",), "pretrain": ("pretrain", "benchmark")}
COMPILE = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"]
COMPILE += ["--no-annotate", "--custom-compile-command", "python .ci/requirements.py", "-c", "constraints.txt"]


def main() -> None:
    for image, extras in IMAGES.items():
        asked = [word for extra in extras for word in ("--extra", extra)]
        command = [*COMPILE, "pyproject.toml", *asked, "-o", f"k8s/requirements-{image}.txt"]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    command = [*COMPILE, "-", "-o", "k8s/requirements-tools.txt"]
    subprocess.run(command, check=True, cwd=ROOT, input=TOOLS, text=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
