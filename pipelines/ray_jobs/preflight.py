"""What is missing, said before hours are lost: rights, mounts, network, quotas, credentials, each with its way out.

Runs as the workers run: on this machine, and with a cluster on every node of it. It writes and removes a few objects
below `_bamba/preflight` of the dataset's place; it reads the first bytes of one input of every corpus.
"""

import os
import resource
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

import bamba_data
from bamba_data.errors import BambaError
from bamba_data.locking import lock as locks
from bamba_data.recipe import Recipe
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import Store, now, open_store

FOLDER = "_bamba/preflight"
RETRY_SECONDS = 10.0
CONNECT_SECONDS = 5.0
UNIT_MEMORY_BYTES = 3 << 29  # 1.5 GiB: benchmarks/worker_memory.py
RAY_MEMORY_BYTES = 2 << 30
SCRATCH_BYTES_A_CORE = 2 << 30  # a staged parquet file of the corpora has up to some 2 GB
MIN_OPEN_FILES = 4096
MAX_SKEW_SECONDS = 300.0

Verdict = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Finding:
    """`where` is a node, or `here`. `way_out` is for a person, empty if all is well."""

    where: str
    check: str
    verdict: Verdict
    detail: str
    way_out: str = ""


def check(recipe: Recipe, folder: Path, out: str, address: str | None = None) -> list[Finding]:
    """All findings; what is missing nowhere is not a reason to wait."""
    found = list(findings_here("here", recipe, folder, out))
    if address:
        found += _on_every_node(recipe, folder, out, address)
    return found


def findings_here(where: str, recipe: Recipe, folder: Path, out: str) -> Iterator[Finding]:
    reached = network(recipe)
    silent = {host for hosts, (_, verdict, _, _) in reached if verdict == "missing" for host in hosts}
    for one in (*machine(), *(found for _, found in reached), *store(out), *inputs(recipe, folder, silent)):
        yield Finding(where, *one)


_Found = tuple[str, Verdict, str, str]


# ---- this machine


def machine() -> Iterator[_Found]:
    versions = (
        f"bamba-data {bamba_data.__version__}, Python {sys.version.split()[0]}, uid {os.getuid()}, gid {os.getgid()}"
    )
    yield "versions", "ok", versions, ""
    yield _writable("temporary files", tempfile.gettempdir(), "mount an emptyDir at /tmp")
    cores = len(os.sched_getaffinity(0))
    free = shutil.disk_usage(tempfile.gettempdir()).free
    enough = free >= SCRATCH_BYTES_A_CORE * cores
    detail = f"{free / 1e9:,.1f} GB free for {cores} cores; inputs in parquet are staged there"
    yield (
        "scratch space",
        "ok" if enough else "note",
        detail,
        "" if enough else "a larger sizeLimit, or fewer --workers",
    )
    limit = memory_limit_bytes()
    if limit is not None:
        units = max(0, (limit - RAY_MEMORY_BYTES) // UNIT_MEMORY_BYTES)
        detail = f"a limit of {limit / 2**30:,.1f} GiB: {units} units at once, of {cores} cores"
        enough = units >= cores
        yield (
            "memory",
            "ok" if enough else "note",
            detail,
            "" if enough else f"--workers {max(1, units)}, or more memory",
        )
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    enough = files >= MIN_OPEN_FILES or files == resource.RLIM_INFINITY
    yield "open files", "ok" if enough else "missing", f"{files:,}", "" if enough else "ulimit -n 65536"
    shm = Path("/dev/shm")
    usable = shm.is_dir() and os.access(shm, os.W_OK)
    yield (
        "shared memory",
        "ok" if usable else "missing",
        "/dev/shm",
        "" if usable else "mount an emptyDir of medium Memory",
    )


def _writable(what: str, path: str, way_out: str) -> _Found:
    try:
        with tempfile.NamedTemporaryFile(dir=path) as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return what, "missing", f"{path}: {error.strerror}", way_out
    return what, "ok", path, ""


def memory_limit_bytes() -> int | None:
    """Of this container; None if there is none."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < 1 << 60:
            return int(text)
    return None


# ---- the network


def network(recipe: Recipe) -> list[tuple[list[str], _Found]]:
    """Whether every host that the recipe reads from answers, or the proxy that is asked for it (not one in NO_PROXY).

    With each finding the hosts (`name:port`) that it speaks for.
    """
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    hosts = sorted({host for url in urls_of(recipe) if (host := host_of(url))})
    behind = [host for host in hosts if proxy and not proxy_bypass(host)]
    found = []
    if proxy and behind:
        parts = urlsplit(proxy)
        what = f"proxy for {', '.join(behind)}"
        found.append((behind, _reach(what, parts.hostname or proxy, parts.port or 3128)))
    for host in hosts:
        if host not in behind:
            name, _, port = host.partition(":")
            found.append(([host], _reach(f"host {host}", name, int(port or 443))))
    return found


def urls_of(recipe: Recipe) -> list[str]:
    return [recipe.tokenizer.url, *(source.location.base for source in recipe.sources())]


def host_of(url: str) -> str | None:
    """`name:port`, where it is read over http; None for a path."""
    if url.startswith("hf://"):
        parts = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    else:
        parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return None
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _reach(what: str, host: str, port: int) -> _Found:
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return (
            what,
            "missing",
            f"{host}: no such name ({error})",
            "egress to the DNS service (policy bamba-to-dns), or the name",
        )
    try:
        socket.create_connection((str(places[0][4][0]), port), CONNECT_SECONDS).close()
    except OSError as error:
        return (
            what,
            "missing",
            f"{host}:{port}: {error}",
            "egress to it (policy bamba-to-https), or a proxy (HTTPS_PROXY)",
        )
    return what, "ok", f"{host}:{port} answers", ""


# ---- where the dataset goes


def store(out: str) -> Iterator[_Found]:
    """Every verb that publishing needs, on objects of our own."""
    if out.startswith("s3://"):
        has_keys = bool(os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"))
        detail = "in the environment" if has_keys else "none in the environment: an instance's role, if there is one"
        yield "S3 credentials", "ok" if has_keys else "note", detail, "" if has_keys else "the secret bamba-s3"
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        host = host_of(endpoint) if endpoint else None
        if host and not (os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")):
            name, _, port = host.partition(":")
            reached = _reach("S3 endpoint", name, int(port))
            yield reached
            if reached[1] == "missing":
                return
    path = f"{FOLDER}/{secrets.token_hex(6)}"
    way_out = "write and list and delete rights below it; AWS_* (secret bamba-s3, ConfigMap bamba-settings)"
    try:
        place = open_store(out)
        steps = _steps(place, path)
    except (BambaError, OSError) as error:
        yield "store", "missing", str(error), way_out
        return
    for what, step in steps:
        try:
            detail = step()
        except (BambaError, OSError) as error:
            yield f"store: {what}", "missing", f"{type(error).__name__}: {error}", way_out
            return
        bad = detail.startswith("no:")
        yield f"store: {what}", "missing" if bad else "ok", detail, _STORE_WAY_OUT.get(what, way_out) if bad else ""


_STORE_WAY_OUT = {
    "create if absent": "a store that keeps If-None-Match: two publishers would otherwise overwrite each other",
    "clock": "set the clock (NTP): requests are signed with it",
}


def _steps(place: Store, path: str) -> list[tuple[str, Callable[[], str]]]:
    data = secrets.token_bytes(1 << 16)

    def write() -> str:
        began = time.monotonic()
        place.put(f"{path}/a", data)
        return f"64 KiB in {1000 * (time.monotonic() - began):,.0f} ms at {place.url}"

    def read() -> str:
        if place.read(f"{path}/a") != data or place.read_range(f"{path}/a", 5, 9) != data[5:9]:
            return "no: it gives other bytes than were written"
        return "the bytes that were written"

    def create() -> str:
        first, second = place.create(f"{path}/b", b"1"), place.create(f"{path}/b", b"2")
        if (first, second) != (True, False) or place.read(f"{path}/b") != b"1":
            return "no: a second writer replaced the first one's object"
        return "the second writer is refused"

    def listed() -> str:
        found = {entry.path for entry in place.list(path)}
        return "both objects" if found == {f"{path}/a", f"{path}/b"} else f"no: {len(found)} of 2 objects are listed"

    def clock() -> str:
        skew = time.time() - now(place, path)
        return f"{'no: ' if abs(skew) > MAX_SKEW_SECONDS else ''}ours is {skew:+,.0f} s off the store's"

    def delete() -> str:
        for name in ("a", "b"):
            place.delete(f"{path}/{name}")
        return "gone" if place.stat(f"{path}/a") is None else "no: it is still there"

    return [
        ("write", write),
        ("read", read),
        ("create if absent", create),
        ("list", listed),
        ("clock", clock),
        ("delete", delete),
    ]


# ---- what it reads


def inputs(recipe: Recipe, folder: Path, silent: set[str]) -> Iterator[_Found]:
    """The tokenizer, and the first bytes of one input of every corpus; a host that was not reached is not asked."""
    fetcher = Fetcher(retry_seconds=RETRY_SECONDS)
    yield _tokenizer(recipe, folder, fetcher, silent)
    if any(url.startswith("hf://") for url in urls_of(recipe)) and not os.environ.get("HF_TOKEN"):
        yield "hub token", "note", "none: 10 requests a second, public repositories only", "the secret bamba-hub"
    for corpus in recipe.corpora:
        names = f"inputs of {corpus.corpus}"
        if host := _silent([source.location.base for source in corpus.sources()], silent):
            yield names, "missing", f"not asked for: {host} was not reached", _INPUTS_WAY_OUT
            continue
        one = recipe.model_copy(update={"corpora": [corpus], "limits": recipe.limits.model_copy(update={"files": 1})})
        try:
            lock = locks.resolve(one, folder, fetcher)
            file = lock.files[0]
            with fetcher.open(file) as opened:
                got = len(opened.read(1 << 16))
        except (BambaError, OSError) as error:
            yield names, "missing", str(error), _INPUTS_WAY_OUT
            continue
        yield names, "ok", f"{len(lock.sources)} sources; {file.key}: {got:,} bytes read of it", ""


_INPUTS_WAY_OUT = "its base, a token for it, or a mirror (bamba-data download, --mirror)"


def _tokenizer(recipe: Recipe, folder: Path, fetcher: Fetcher, silent: set[str]) -> _Found:
    url, way_out = recipe.tokenizer.url, "tokenizer.url: a place that the cluster reaches"
    if host := _silent([url], silent):
        return "tokenizer", "missing", f"{url}: not asked for, {host} was not reached", way_out
    try:
        tokenizer = locks.load_tokenizer(recipe, folder, fetcher)
    except BambaError as error:
        return "tokenizer", "missing", str(error), way_out
    return "tokenizer", "ok", f"{url}: {tokenizer.vocab_size:,} ids", ""


def _silent(urls: list[str], silent: set[str]) -> str | None:
    """The first host of these that is known not to answer: retries would only take time."""
    return next((host for url in urls if (host := host_of(url)) in silent and host), None)


# ---- the cluster


def _on_every_node(recipe: Recipe, folder: Path, out: str, address: str) -> Iterator[Finding]:
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address=address, log_to_driver=False, logging_level="error")
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        cores = sum(node["Resources"].get("CPU", 0) for node in nodes)
        yield Finding("cluster", "nodes", "ok", f"{len(nodes)} alive with {cores:,.0f} cores, Ray {ray.__version__}")
        task = ray.remote(num_cpus=0, max_retries=0)(_node_findings)
        asked = {
            str(node["NodeManagerAddress"]): task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(recipe, folder, out)
            for node in nodes
        }
        for where, ref in asked.items():
            try:
                for one in ray.get(ref):
                    yield Finding(where, *one)
            except RayError as error:
                detail = f"{type(error).__name__}: the check did not run"
                yield Finding(where, "node", "missing", detail, "the same image on every node; look at its log")
    finally:
        ray.shutdown()


def _node_findings(recipe: Recipe, folder: Path, out: str) -> list[Any]:
    found = findings_here("", recipe, folder, out)
    return [(one.check, one.verdict, one.detail, one.way_out) for one in found]
