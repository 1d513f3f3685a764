"""The wheel of this checkout, built as a release is: from tracked files alone."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("bamba", "bamba_data", "loader", "trainer", "pipelines")


def built_wheel(folder: Path) -> Path:
    """The wheel, built in `folder`; skips the test where there is no git checkout."""
    sources = folder / "sources"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("no git checkout: what belongs to the sources is not known")
    for name in filter(None, tracked.stdout.split("\0")):
        if name.split("/")[0] in PACKAGES or "/" not in name:
            target = sources / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_symlink():
                target.symlink_to((ROOT / name).readlink())
            elif (ROOT / name).exists():
                target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", "-w", folder]
    subprocess.run([*map(str, command), str(sources)], check=True, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel
