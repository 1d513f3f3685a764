"""Whether every host that a recipe reads from answers, or the proxy that is asked for it (not one in NO_PROXY)."""

import os
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

from bamba_data.recipe import Recipe

from .finding import Finding, missing, ok

CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Reached:
    """A finding, and the hosts (`name:port`) that it speaks for."""

    hosts: list[str]
    finding: Finding


def network(urls: list[str]) -> list[Reached]:
    proxy = https_proxy()
    hosts = sorted({host for url in urls if (host := host_of(url))})
    behind = [host for host in hosts if proxy and not proxy_bypass(host)]
    reached = []
    if proxy and behind:
        parts = urlsplit(proxy)
        name, port = parts.hostname or proxy, parts.port or 3128
        reached.append(Reached(behind, reach(f"proxy for {', '.join(behind)}", f"{name}:{port}")))
    return reached + [Reached([host], reach(f"host {host}", host)) for host in hosts if host not in behind]


def https_proxy() -> str | None:
    return os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")


def urls_of(recipe: Recipe, has_mirror: bool = False) -> list[str]:
    """What a build of it reads; with a mirror no upstream host but the tokenizer's."""
    bases = [] if has_mirror else [source.location.base for source in recipe.sources()]
    return [recipe.tokenizer.url, *bases]


def host_of(url: str) -> str | None:
    """`name:port`, where it is read over http; None for a path."""
    if url.startswith("hf://"):
        url = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return None
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def reach(check: str, host: str) -> Finding:
    """Whether `host` (`name:port`) takes a connection."""
    is_inside = host.rpartition(":")[0].endswith((".svc", ".svc.cluster.local"))
    opened_by = "components/store-odf or store-minio of k8s/" if is_inside else "policy bamba-to-https"
    name, _, port = host.rpartition(":")
    try:
        addresses = socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        way_out = "egress to the DNS service (policy bamba-to-dns), or the name"
        return missing(check, f"{name}: no such name ({error})", way_out)
    try:
        socket.create_connection((str(addresses[0][4][0]), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        return missing(check, f"{host}: {error}", f"egress to it ({opened_by}), or a proxy (HTTPS_PROXY)")
    return ok(check, f"{host} answers")
