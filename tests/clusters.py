"""Real Ray clusters on this machine, by `ray start`: a head with token authentication, and nodes that can be lost.

Every node is a process group of its own, so that a test can end it as a power cut does. Every cluster has a temporary
folder of its own: Ray notes there which cluster is the machine's, and a job of one joined the head of another.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import requests

RAY = str(Path(sys.executable).parent / "ray")
READY_SECONDS = 240.0

#: A node that is silent counts as lost after some 10 seconds; with Ray's defaults after more than a minute, and what
#: was asked of it over a connection that nobody closed (a cut link, not a killed process) after five more.
SOON_LOST = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
}


@dataclass
class RayCluster:
    """A head whose job server answers at `url` and its metrics at `metrics_url`; `env` may talk to it."""

    url: str
    metrics_url: str
    gcs: str
    env: dict[str, str]
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_node(self, cpus: int = 1, inside: Sequence[str] = (), ip: str = "") -> subprocess.Popen[bytes]:
        """One more node, which has joined when this returns; `inside` is a command that starts it in a namespace, where
        its address is `ip`."""
        before = self.alive()
        arguments = ["--address", self.gcs, f"--num-cpus={cpus}", *([f"--node-ip-address={ip}"] if ip else [])]
        node = _start(arguments, self.env, inside=inside)
        self.nodes.append(node)
        _until(lambda: self.alive() - before, "the node to join", node)
        return node

    def alive(self) -> set[str]:
        """The nodes that the head believes in, by id."""
        answer = requests.get(f"{self.url}/nodes?view=summary", headers=self.headers(), timeout=30)
        raylets = [node["raylet"] for node in answer.json()["data"]["summary"]]
        return {raylet["nodeId"] for raylet in raylets if raylet.get("state") == "ALIVE"}

    def headers(self) -> dict[str, str]:
        token = Path(self.env["HOME"], ".ray", "auth_token")
        return {"Authorization": f"Bearer {token.read_text().strip()}"} if token.exists() else {}


@contextlib.contextmanager
def ray_cluster(
    home: Path, cpus: int = 2, extra_env: Mapping[str, str] | None = None, ip: str = "127.0.0.1"
) -> Iterator[RayCluster]:
    """A head with `cpus` cores at the address `ip` of this machine; everything is gone afterwards."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "BAMBA_"))}
    env |= {name: os.environ[name] for name in ("BAMBA_CACHE",) if name in os.environ}  # certificates, proven before
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"  # a job says `python`: this one
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a longer path is too long for Ray's sockets
    env |= {"HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_TMPDIR": folder, **(extra_env or {})}
    subprocess.run([RAY, "get-auth-token", "--generate"], env=env, check=True, capture_output=True)
    gcs, dashboard, metrics = free_port(), free_port(), free_port()
    urls = f"http://{ip}:{dashboard}", f"http://{ip}:{metrics}/metrics"
    cluster = RayCluster(*urls, f"{ip}:{gcs}", env)
    head = ["--head", f"--node-ip-address={ip}", f"--port={gcs}"]
    head += [f"--dashboard-host={ip}", f"--dashboard-port={dashboard}"]
    try:
        cluster.nodes.append(_start([*head, f"--num-cpus={cpus}"], env, metrics))
        _until(lambda: cluster.alive() and _serves_jobs(cluster), "the head to answer", cluster.nodes[0])
        yield cluster
    finally:
        for node in reversed(cluster.nodes):
            kill_node(node)
        _kill_jobs_of(folder)
    shutil.rmtree(folder, ignore_errors=True)  # not after a failure: its logs are there


def kill_node(node: subprocess.Popen[bytes]) -> None:
    """As when its power goes: every process of it at once."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(node.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait()


def _kill_jobs_of(folder: str) -> None:
    """Drivers that outlived their cluster: one that was about to join it waits for it for long."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RAY_TMPDIR") == folder:
                process.kill()


def processes_of(node: subprocess.Popen[bytes], title: str) -> list[psutil.Process]:
    """The processes of a node whose title begins so."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(node.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                if process.cmdline()[0].startswith(title):
                    found.append(process)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(
    arguments: list[str], env: Mapping[str, str], metrics_port: int = 0, inside: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    command = [*inside, RAY, "start", *arguments, "--object-store-memory=100000000"]
    command += [f"--metrics-export-port={metrics_port or free_port()}"]
    # Ray has a port or a range for each of these that all clusters of a machine would share: then workers do not start.
    command += ["--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={free_port()}"]
    command += [f"--ray-client-server-port={free_port()}"] if "--head" in arguments else []
    command += ["--disable-usage-stats", "--block"]
    return subprocess.Popen(
        command, env=dict(env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _serves_jobs(cluster: RayCluster) -> bool:
    """It takes one: the server answers before the agent that runs jobs is there."""
    job = {"entrypoint": "true"}
    return requests.post(f"{cluster.url}/api/jobs/", json=job, headers=cluster.headers(), timeout=30).status_code == 200


def _until(condition: object, what: str, node: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        assert node.poll() is None, f"waited for {what}, but it ended: {node.args!r}"
        with contextlib.suppress(requests.RequestException, KeyError, ValueError):
            if condition():  # type: ignore[operator]
                return
        time.sleep(0.2)
    raise AssertionError(f"waited {READY_SECONDS:.0f} s in vain for {what}")
