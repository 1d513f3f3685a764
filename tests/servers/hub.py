"""A Hugging Face hub and a plain file host on loopback, with a plan of faults.

    root/datasets/<org>/<name>/...   dataset repos, snapshotted into a commit at first use and again by `push`
    root/models/<org>/<name>/...     model repos, and spaces the same
    root/files/...                   plain files at /files/..., served as they are now; no listing

The real clients work against it with HF_ENDPOINT=server.url, set before huggingface_hub is imported. They may
write, too (hub_writes.py).
It answers as the public one does: LFS files redirect to a CDN of another origin, under a signature that expires;
regular files to a cache address of its own, which is relative, and the redirect has a length of its own and tells
no size; what is asked for by a former name redirects to the same under the new name.
"""

from __future__ import annotations

import hmac
import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from . import hub_writes
from .faults import Action, FaultPlan, RateWindow, Replace, Reset, Stall, Status
from .repos import Blob, HubError, Repos, is_lfs, listing, sibling, tree_entry
from .wire import Answer, Exchange, LoopbackServer, conditional, unchunked

SIGNING_KEY = b"known to the hub and its CDN"


@dataclass(frozen=True)
class Request:
    """One line of the server's log. Status 0: the connection was reset before any answer."""

    method: str
    path: str
    query: str
    range: str | None
    if_range: str | None
    authorized: bool
    status: int


@dataclass(frozen=True)
class Call:
    """What a route needs of the request; `replaced` is the content that a fault puts in the file's place."""

    query: Mapping[str, str]
    form: bytes
    token: str | None
    replaced: bytes | None
    address: str
    kind: str = "models"
    repo: str = ""
    revision: str = "main"
    path: str = ""
    sha256: str = ""

    def blob(self, upstream: Blob) -> Blob:
        return upstream if self.replaced is None else Blob(self.replaced)


@dataclass
class HubServer:
    """Serves `root` while in the `with` block. `gated` maps a repo to the one token that may download it; `tokens`,
    if given, are all that the hub knows. `renamed` maps a former name of a repo to its name.

    A mirror answers redirects with other statuses, and regular files itself, with ETags of its own.
    """

    root: Path
    gated: Mapping[str, str] = field(default_factory=dict)
    page_size: int = 1000
    signed_url_seconds: float = 60.0
    rate_limit: int | None = None
    seed: int = 0
    tokens: frozenset[str] | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    redirect_status: int = 307
    is_mirror: bool = False
    writer: str | None = None

    url: str = field(init=False)
    cdn_url: str = field(init=False)
    requests: list[Request] = field(default_factory=list, init=False)
    objects: dict[str, Blob] = field(default_factory=dict, init=False)  # of LFS, that came
    commits: list[tuple[str, str, list[str]]] = field(
        default_factory=list, init=False
    )  # that came: (repo, id, new files)
    visibility: dict[str, str] = field(default_factory=dict, init=False)  # of repos that were made
    faults: FaultPlan = field(init=False)

    def __post_init__(self) -> None:
        self.faults = FaultPlan(seed=self.seed)
        self._window = RateWindow(self.rate_limit) if self.rate_limit is not None else None
        self._repos = {kind: Repos(self.root / kind) for kind in ("datasets", "models", "spaces")}
        self._cdn: dict[str, Blob] = {}
        self._running = ExitStack()

    def __enter__(self) -> Self:
        hub = self._running.enter_context(LoopbackServer(lambda x: self._respond(x, HUB_ROUTES)))
        cdn = self._running.enter_context(LoopbackServer(lambda x: self._respond(x, CDN_ROUTES)))
        self.url = f"http://127.0.0.1:{hub.server_port}"
        self.cdn_url = f"http://localhost:{cdn.server_port}"  # another host: clients must drop their token
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def commit(self, repo: str, kind: str = "datasets") -> str:
        """The commit that `main` points at."""
        return self._repos[kind].head(repo)

    def repos(self, kind: str) -> Repos:
        return self._repos[kind]

    def push(self, repo: str, kind: str = "datasets") -> str:
        """Moves `main` to a new commit of the repo's folder as it is now; earlier commits stay."""
        return self._repos[kind].push(repo)

    def env(self, home: Path) -> dict[str, str]:
        """What a subprocess needs to take this server for the hub, with caches below `home`."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}

    @property
    def leaks(self) -> list[Request]:
        """Requests that carried an Authorization header to the CDN."""
        return [line for line in self.requests if line.path.startswith(("/lfs/", "/upload/")) and line.authorized]

    def _respond(self, exchange: Exchange, routes: Routes) -> None:
        form = unchunked(exchange.read_body()) if "Transfer-Encoding" in exchange.headers else exchange.read_body()
        action = self._fault(exchange, routes)
        if isinstance(action, Stall) and action.after_bytes is None:
            exchange.stall(action.seconds)
        if isinstance(action, Reset) and action.after_bytes is None:
            self._log(exchange, 0)
            exchange.hang_up(reset=True)
            return
        try:
            if isinstance(action, Status):
                raise HubError(action.status, action.code, "planned fault", action.headers())
            answer = self._route(exchange, routes, form, action)
        except HubError as error:
            answer = refusal(error)
        if answer.status == 200 and "ETag" in answer.headers:
            answer = conditional(answer, exchange.headers, action)
        self._log(exchange, answer.status)
        exchange.send(answer, action)

    def _fault(self, exchange: Exchange, routes: Routes) -> Action | None:
        if routes is HUB_ROUTES and self._window is not None and not self._window.admit():
            return Status(429, retry_after_seconds=1, ratelimit_seconds=1)
        return self.faults.take(f"{exchange.command} {unquote(urlsplit(exchange.path).path)}")

    def _route(self, exchange: Exchange, routes: Routes, form: bytes, action: Action | None) -> Answer:
        url = urlsplit(exchange.path)
        for pattern, route in routes:
            if match := re.fullmatch(pattern, url.path):
                call = Call(
                    query={name: values[-1] for name, values in parse_qs(url.query).items()},
                    form=form,
                    token=exchange.headers["Authorization"],
                    replaced=action.content if isinstance(action, Replace) else None,
                    address=exchange.path,
                    **{name: unquote(value) for name, value in match.groupdict().items() if value is not None},
                )
                return self._renamed(call) or route(self, call)
        raise HubError(404, "", "no such page")

    def _renamed(self, call: Call) -> Answer | None:
        if call.repo and self.tokens is not None and call.token and call.token not in known_tokens(self.tokens):
            raise HubError(401, "", "Invalid credentials in Authorization header")
        if call.repo not in self.renamed:
            return None
        location = call.address.replace(f"/{call.repo}", f"/{self.renamed[call.repo]}", 1)
        return Answer(
            self.redirect_status, {"Location": location}, b"Temporary Redirect. Redirecting to " + location.encode()
        )

    def _log(self, exchange: Exchange, status: int) -> None:
        url, headers = urlsplit(exchange.path), exchange.headers
        self.requests.append(
            Request(
                method=exchange.command,
                path=unquote(url.path),
                query=url.query,
                range=headers["Range"],
                if_range=headers["If-Range"],
                authorized="Authorization" in headers,
                status=status,
            )
        )

    def plain_file(self, call: Call) -> Answer:
        path = self.root / "files" / call.path
        if not path.is_file() or ".." in path.parts:
            raise HubError(404, "", "Not Found")
        return as_file(call.blob(Blob(path.read_bytes())))

    def info(self, call: Call) -> Answer:
        commit, tree = self._repos[call.kind].at(call.repo, call.revision)
        blobs = call.query.get("blobs") == "true"
        return as_json(
            {
                "id": call.repo,
                "sha": commit,
                "private": False,
                "gated": "manual" if call.repo in self.gated else False,
                "disabled": False,
                "tags": [],
                "siblings": [sibling(tree, path) if blobs else {"rfilename": path} for path in tree],
            }
        )

    def list_tree(self, call: Call) -> Answer:
        _, tree = self._repos[call.kind].at(call.repo, call.revision)
        paths = listing(tree, call.path, recursive=call.query.get("recursive") == "true")
        start = int(call.query.get("cursor", 0))
        stop = start + self.page_size
        link = {}
        if stop < len(paths):
            where = f"/api/{call.kind}/{call.repo}/tree/{quote(call.revision, safe='')}/{quote(call.path)}"
            more = urlencode({**call.query, "cursor": stop})
            link = {"Link": f'<{self.url}{where.rstrip("/")}?{more}>; rel="next"'}
        return as_json([tree_entry(tree, path) for path in paths[start:stop]], link)

    def paths_info(self, call: Call) -> Answer:
        _, tree = self._repos[call.kind].at(call.repo, call.revision)
        wanted = parse_qs(call.form.decode()).get("paths", [])
        return as_json([tree_entry(tree, path) for path in wanted if path in tree])

    def resolve(self, call: Call) -> Answer:
        commit, tree = self._repos[call.kind].at(call.repo, call.revision)
        if call.repo in self.gated and call.token != f"Bearer {self.gated[call.repo]}":
            raise HubError(403 if call.token else 401, "GatedRepo", f"Access to {call.repo} is restricted")
        told = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if call.path not in tree:
            raise HubError(404, "EntryNotFound", "Entry not found", told)
        blob = call.blob(tree[call.path])
        if not is_lfs(call.path, blob):
            if self.is_mirror:
                return Answer(200, {**told, "ETag": f'W/"mirror-{len(blob.content):x}"'}, blob.content)
            etag = f'"{blob.git_oid}"'
            asked = urlencode({call.address: "", "etag": etag})
            location = f"/api/resolve-cache/{call.kind}/{call.repo}/{commit}/{quote(call.path)}?{asked}"
            body = f"Temporary Redirect. Redirecting to {location}".encode()
            return Answer(self.redirect_status, {**told, "X-Linked-ETag": etag, "Location": location}, body)
        self._cdn[blob.sha256] = blob
        etag, size = f'"{blob.sha256}"', str(len(blob.content))
        path, expires = f"/lfs/{call.repo}/{blob.sha256}/{call.path}", f"{time.time() + self.signed_url_seconds:.3f}"
        location = f"{self.cdn_url}{quote(path)}?Expires={expires}&Signature={signature(path, expires)}"
        linked = {"ETag": etag, "X-Linked-ETag": etag, "X-Linked-Size": size, "Location": location}
        return Answer(302, {**told, **linked}, b"Found. Redirecting to " + location.encode())

    def cached(self, call: Call) -> Answer:
        """Where the redirect of a regular file leads."""
        commit, tree = self._repos[call.kind].at(call.repo, call.revision)
        blob = call.blob(tree[call.path])
        told = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "ETag": f'"{blob.git_oid}"'}
        return Answer(200, told, blob.content)

    def cdn_file(self, call: Call) -> Answer:
        path, expires = f"/lfs/{call.repo}/{call.sha256}/{call.path}", call.query.get("Expires", "0")
        if call.query.get("Signature") != signature(path, expires) or float(expires) < time.time():
            raise HubError(403, "", "Access Denied: the signature is wrong or has expired")
        return as_file(call.blob(self._cdn[call.sha256]))


def known_tokens(tokens: frozenset[str]) -> set[str]:
    return {f"Bearer {token}" for token in tokens}


def signature(path: str, expires: str) -> str:
    return hmac.new(SIGNING_KEY, f"{path}?{expires}".encode(), "sha256").hexdigest()


def as_file(blob: Blob) -> Answer:
    return Answer(200, {"ETag": blob.store_etag, "Content-Type": "application/octet-stream"}, blob.content)


def as_json(value: object, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(200, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())


def refusal(error: HubError) -> Answer:
    told = {"X-Error-Message": error.message, "Content-Type": "application/json"}
    code = {"X-Error-Code": error.code} if error.code else {}
    return Answer(error.status, {**error.headers, **told, **code}, json.dumps({"error": error.message}).encode())


Routes = tuple[tuple[str, Callable[[HubServer, Call], Answer]], ...]

REPO, REVISION, PATH = r"(?P<repo>[^/]+/[^/]+)", r"(?P<revision>[^/]+)", r"(?P<path>.+)"
KIND = r"(?P<kind>datasets|models|spaces)"
HUB_ROUTES: Routes = (
    (rf"/files/{PATH}", HubServer.plain_file),
    (r"/api/repos/create", hub_writes.create),
    (r"/api/validate-yaml", hub_writes.validate_yaml),
    (r"/api/lfs/verify", hub_writes.verify),
    (rf"/api/{KIND}/{REPO}/preupload/{REVISION}", hub_writes.preupload),
    (rf"/api/{KIND}/{REPO}/commit/{REVISION}", hub_writes.commit),
    (rf"/api/{KIND}/{REPO}/tag/{REVISION}", hub_writes.tag),
    (rf"/api/{KIND}/{REPO}/refs", hub_writes.refs),
    (rf"/(?:{KIND}/)?{REPO}\.git/info/lfs/objects/batch", hub_writes.batch),
    (rf"/api/{KIND}/{REPO}(?:/revision/{REVISION})?", HubServer.info),
    (rf"/api/{KIND}/{REPO}/tree/{REVISION}(?:/{PATH})?", HubServer.list_tree),
    (rf"/api/{KIND}/{REPO}/paths-info/{REVISION}", HubServer.paths_info),
    (rf"/api/resolve-cache/{KIND}/{REPO}/{REVISION}/{PATH}", HubServer.cached),
    (rf"/(?:{KIND}/)?{REPO}/resolve/{REVISION}/{PATH}", HubServer.resolve),
)
CDN_ROUTES: Routes = (
    (rf"/lfs/{REPO}/(?P<sha256>\w+)/{PATH}", HubServer.cdn_file),
    (r"/upload/(?P<sha256>\w+)", hub_writes.put_object),
)
