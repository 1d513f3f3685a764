"""Pushes to a hub on loopback, by the real client, each in a process of its own.

For that client reads HF_ENDPOINT when it is imported. The hub there has no Xet, which clients do without where they are
told so.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.servers.hub import HubServer

TOKEN = "hf_secret_of_these_tests"


def environment(hub: HubServer, home: Path, token: str | None = TOKEN) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return env | hub.env(home) | {"HF_HUB_DISABLE_XET": "1"} | ({"HF_TOKEN": token} if token else {})


def command(hub: HubServer, home: Path, *words: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    """`bamba-data` with these words. The token is in nothing that it says, and went to no CDN."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *words],
        env=environment(hub, home, token),
        capture_output=True,
        text=True,
        check=False,
    )
    assert TOKEN not in done.stdout + done.stderr
    assert hub.leaks == []
    return done
