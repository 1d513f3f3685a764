"""The image runs as OpenShift runs it: a random uid with group 0, no home, a read-only system, no capabilities."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from bamba_data.inspect.verify import verify
from tests.clusters import free_port

ROOT = Path(__file__).parents[2]
RANDOM_UID = "1000660000"

#: Root's part: what a container engine does with the image. /mnt gets the layout, /tmp is an empty volume, all else is
#: read-only; then the command, with the rights of a restricted pod.
LAYOUT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/python /mnt/packages /mnt/code /mnt/out
mount --bind "$PYTHON" /mnt/python
mount --bind "$PACKAGES" /mnt/packages
mount --bind "$OUT" /mnt/out
for name in bamba bamba_data loader trainer pipelines; do
  mkdir /mnt/code/$name
  mount --bind "$CODE/$name" /mnt/code/$name
  mount -o remount,bind,ro /mnt/code/$name
done
mount -o remount,bind,ro /mnt/python
mount -o remount,bind,ro /mnt/packages
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -o remount,bind,ro /
cd /mnt/out
exec setpriv --reuid "$UID_" --regid 0 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \\
  env -i PATH=/usr/bin:/bin HOME=/tmp/home USER=ray RAY_USAGE_STATS_ENABLED=0 \\
  PYTHONDONTWRITEBYTECODE=1 PYTHONFAULTHANDLER=1 \\
  PYTHONHOME=/mnt/python PYTHONPATH=/mnt/code:/mnt/packages LD_LIBRARY_PATH=/mnt/python/lib "$@"
"""


#: In it: a head, a submit without its token, which is refused, and one with it.
SUBMITTED = """
import os, subprocess, sys
gcs, dashboard, agent, metrics, client = sys.argv[1:]
ray = [sys.executable, "-m", "ray.scripts.scripts"]
secret = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "c0ffee" * 8}
head = ["--head", "--num-cpus=1", "--node-ip-address=127.0.0.1", "--object-store-memory=100000000", "--port", gcs]
head += ["--dashboard-port", dashboard, "--dashboard-agent-listen-port", agent, "--metrics-export-port", metrics]
head += ["--ray-client-server-port", client, "--min-worker-port=0", "--max-worker-port=0"]
subprocess.run([*ray, "start", *head], env=secret, check=True)
submit = [*ray, "job", "submit", "--address", f"http://127.0.0.1:{dashboard}", "--"]
job = [sys.executable, "-m", "pipelines.tokenize", "demo", "--out", "/mnt/out/demo"]
refused = subprocess.run([*submit, *job], env={**os.environ, "RAY_AUTH_MODE": "disabled"})
sys.exit(99 if refused.returncode == 0 else subprocess.run([*submit, *job], env=secret).returncode)
"""


def _can_make_namespaces() -> bool:
    if os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("setpriv")):
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


def restricted(out: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run `python COMMAND` in the layout of the image, with a restricted pod's rights; `out` is a writable volume."""
    env = {
        **os.environ,
        "PYTHON": sys.base_prefix,
        "PACKAGES": sysconfig.get_paths()["purelib"],
        "CODE": str(ROOT),
        "OUT": str(out),
        "UID_": RANDOM_UID,
    }
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    line = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", LAYOUT, "layout"]
    line += [f"/mnt/python/bin/{version}", *command]
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """What an S3 bucket or a shared volume is to a pod: writable by group 0."""
    tmp_path.chmod(0o770)
    return tmp_path


needs_namespaces = pytest.mark.skipif(not _can_make_namespaces(), reason="needs root, unshare and setpriv")


@needs_namespaces
def test_the_layout_is_what_a_restricted_pod_sees(volume: Path) -> None:
    probe = """
import os, pathlib
print(os.getuid(), os.getgid(), os.path.exists(os.environ["HOME"]), pathlib.Path("/tmp/x").write_text("x"))
for path in ("/x", "/mnt/code/bamba_data/x", "/mnt/packages/x", "/usr/x", "/etc/x"):
    try:
        pathlib.Path(path).write_text("x")
        print("wrote", path)
    except OSError as error:
        pass
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")])
"""
    done = restricted(volume, "-c", probe)
    assert done.stdout.splitlines() == [f"{RANDOM_UID} 0 False 1", "['0000000000000000']"], done.stderr


@pytest.mark.costly
@needs_namespaces
@pytest.mark.ray
def test_the_main_job_is_submitted_and_published_by_a_random_uid_on_a_read_only_system(volume: Path) -> None:
    """As KubeRay does it: `ray start --head` with the token of a secret, then `ray job submit`."""
    done = restricted(volume, "-c", SUBMITTED, *(str(free_port()) for _ in range(5)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Missing authentication token" in done.stderr
    assert verify(str(volume / "demo"), full=True).faults == []
    assert {path.stat().st_uid for path in (volume / "demo").rglob("*")} == {int(RANDOM_UID)}
