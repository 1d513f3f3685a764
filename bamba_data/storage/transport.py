"""How bytes come from where they lie: local disk, http(s) and the hub, S3 and whatever else fsspec opens.

A transport answers three questions about a URL: what `facts` are known, what `matches` a pattern below a folder,
and what bytes come from an offset on. It never retries. A fault that may pass is `Passing`; one that will not is
one of `errors`. Whether the file is still the locked one is checked at every (re)opening.
"""

import contextlib
import errno
import functools
import os
import re
import stat
import threading
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeGuard
from urllib.parse import urlsplit

import requests
import urllib3

from bamba_data.errors import InputChanged, SourceRefused, SourceUnavailable, UserError, one_line
from bamba_data.storage.addresses import check_endpoint, joined
from bamba_data.storage.http_request import MAX_WAIT_SECONDS as MAX_WAIT_SECONDS
from bamba_data.storage.http_request import RETRY_STATUS, Reply, Web, origin
from bamba_data.storage.http_request import Passing as Passing
from bamba_data.storage.http_request import asked_wait_seconds as asked_wait_seconds
from bamba_data.storage.locked_file import Facts
from bamba_data.storage.rate_limit import Budget

CHUNK_BYTES = 1 << 20
RANGE_BYTES = 16 << 20
TIMEOUT_SECONDS = (10.0, 60.0)  # to connect, and between two bytes
OTHER_BACK_END_TRIES = 6
ETAG, MODIFIED, NO_MARK = "", "modified:", "none"  # kinds of marks; the second before a Last-Modified makes it one
NO_END = (
    "the host tells no size of it and ends the body by hanging up, so a whole file cannot be told from one that was "
    "cut: copy it to a disk or S3 first, or serve it with Content-Length"
)


class Transport(Protocol):
    """One way to fetch: local disk, http(s) with the hub, or any store of fsspec. Each raises Passing for a fault that
    another try may not meet, an error of ours for one that it will; `fetch.Fetcher` does the tries."""

    def facts(self, url: str) -> Facts:
        """What the host tells of the file without sending it. Raises NoSuchFile or FileNotFoundError."""

    def matches(self, base: str, pattern: str) -> list[tuple[str, Facts]]:
        """(path below `base`, facts) of every file that matches, sorted; a plain name matches itself."""

    def read(self, url: str, facts: Facts, start: int, end: int | None = None) -> Iterator[bytes]:
        """The bytes [start, end) in chunks. Raises InputChanged if the file is not the one of `facts`."""


def is_glob(pattern: str) -> bool:
    """Whether a name may mean several files, where the store can list."""
    return any(character in pattern for character in "*?[")


def is_pattern(base: str, name: str) -> bool:
    """Whether a name below `base` may mean several files. Plain https cannot list, so there `?` and `[ ]` are letters,
    and `*`, which nobody has in a name, is refused."""
    return "*" in name if base.startswith(("http://", "https://")) else is_glob(name)


def is_hidden_from(path: str, pattern: str) -> bool:
    """As shells do: what begins with a dot, a file or a folder, is only found by a pattern that says the dot."""
    said = [part for part in pattern.split("/") if part.startswith(".")]
    return any(
        part.startswith(".") and not any(fnmatchcase(part, pattern_part) for pattern_part in said)
        for part in path.split("/")
    )


def check(url: str, locked: Facts, current: Facts) -> None:
    """Refuse a file that is not the locked one; what either side does not know is not compared."""
    if locked.size_bytes is not None and current.size_bytes is not None and locked.size_bytes != current.size_bytes:
        raise InputChanged(url, "size", locked.size_bytes, current.size_bytes)
    if locked.sha256 is not None and current.sha256 is not None:
        if locked.sha256 != current.sha256:
            raise InputChanged(url, "sha256", locked.sha256, current.sha256)
    elif locked.etag is not None and current.etag is not None and locked.etag != current.etag:
        raise InputChanged(url, "etag", locked.etag, current.etag)


class NoSuchFile(FileNotFoundError):
    """There is something else at the place of a file; `what` it is."""

    def __init__(self, url: str, what: str) -> None:
        super().__init__(url, what)
        self.what = what


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class LocalFiles:
    """A local file's etag is its modification time; it is not compared where the sha256 is known."""

    def facts(self, url: str) -> Facts:
        path = self._path(url)
        try:
            status = path.stat()
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NoSuchFile(url, "a symbolic link that leads in a circle") from None
            if path.is_symlink():
                raise NoSuchFile(url, f"a symbolic link that leads nowhere, to {path.readlink()}") from None
            raise
        if not stat.S_ISREG(status.st_mode):
            raise NoSuchFile(url, _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file"))
        return Facts(status.st_size, f"mtime:{status.st_mtime_ns}")

    def matches(self, base: str, pattern: str) -> list[tuple[str, Facts]]:
        folder = self._path(base)
        if not is_glob(pattern):
            return [(pattern, self.facts(os.fspath(folder / pattern)))]
        try:
            paths = [path for path in folder.glob(pattern) if not path.is_dir()]
        except (NotImplementedError, ValueError) as error:
            raise UserError(f"{base}: {pattern!r} is no pattern of names below it ({error})") from None
        names = [path.relative_to(folder).as_posix() for path in paths]
        return sorted(
            (name, self.facts(os.fspath(folder / name))) for name in names if not is_hidden_from(name, pattern)
        )

    def open(self, url: str, facts: Facts) -> BinaryIO:
        """The whole file, for seeking. Raises InputChanged if it is not the one of `facts`."""
        check(url, facts._replace(etag=None) if facts.sha256 else facts, self.facts(url))
        return self._path(url).open("rb")

    def read(self, url: str, facts: Facts, start: int, end: int | None = None) -> Iterator[bytes]:
        with self.open(url, facts) as file:
            file.seek(start)
            left = (end - start) if end is not None else (1 << 62)
            while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk

    def _path(self, url: str) -> Path:
        return Path(url.removeprefix("file://"))


class Http:
    """Plain https, and the hub (`hf://datasets/ORG/NAME@COMMIT/path`), whose files are https behind redirects.

    Redirects are followed anew at every opening: signed addresses expire. What a file is, is said by the host that
    was asked (the hub: its commit, size and sha256), not by the one that it redirects to.

    Hosts differ. One that does not answer HEAD, or answers it without a size, is asked for one byte instead. One
    whose ETags differ from answer to answer is known by the time of the last change, else by the size alone.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget, self._web = budget, Web(budget)
        self._without_head: set[str] = set()
        self._marks: dict[str, str] = {}  # by host: the kind of mark that is the same in two answers
        self._learning = threading.Lock()

    def facts(self, url: str) -> Facts:
        address, _, hub = self._resolve(url)
        host = origin(address)
        reply = None if host in self._without_head else self._head(url, host)
        if reply is None or not facts_of(reply, url).size_bytes:  # some say 0 where they do not know
            first = self._first_byte(url)
            if first is None:
                return Facts(0, facts_of(reply, url).etag if reply else None)
            reply = first
        if hub or "ETag" not in reply.response.headers:
            return facts_of(reply, url)
        with self._learning:
            if host not in self._marks:
                self._marks[host] = self._steady_mark(url, reply)
        return facts_of(reply, url, self._marks[host])

    def _steady_mark(self, url: str, reply: Reply) -> str:
        """Back ends of one host may have ETags of their own, and some hosts make a new one for every answer."""
        again = self._first_byte(url)
        for kind in (ETAG, MODIFIED):
            mark = facts_of(reply, url, kind).etag
            if again is None or (mark is not None and mark == facts_of(again, url, kind).etag):
                return kind
        return NO_MARK

    def matches(self, base: str, pattern: str) -> list[tuple[str, Facts]]:
        if base.startswith("hf://"):
            return self._hub_matches(base, pattern)
        if is_pattern(base, pattern):
            raise UserError(f"{base}: plain https cannot list files, so {pattern!r} matches nothing; name them")
        return [(pattern, self.facts(joined(base, pattern)))]

    def read(self, url: str, facts: Facts, start: int, end: int | None = None) -> Iterator[bytes]:
        headers: dict[str, str] = {}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
            # A commit of the hub cannot change, and the host that it redirects to has ETags of its own.
            if is_strong(facts.etag) and not url.startswith("hf://"):
                headers["If-Range"] = facts.etag.removeprefix(MODIFIED)
        response = self._locked(url, facts, headers)
        with response:
            status, sent = response.status_code, response.headers.get("Content-Range", "")
            if status == 206 and not sent.startswith(f"bytes {start}-"):
                raise Passing("another range than asked for")
            if facts.size_bytes is None and facts.sha256 is None and not _has_an_end(response):
                raise SourceRefused(url, NO_END)
            skip = start if status == 200 else 0  # a host without ranges sends the whole file
            left = (end - start) if end is not None else None
            try:
                for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
                    if skip:
                        cut = min(skip, len(chunk))
                        chunk, skip = chunk[cut:], skip - cut
                    if left is not None:
                        chunk = chunk[:left]
                        left -= len(chunk)
                    if chunk:
                        yield chunk
                    if left == 0:
                        return
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                raise Passing(f"connection broke ({type(error).__name__})") from None

    def _locked(self, url: str, facts: Facts, headers: dict[str, str]) -> requests.Response:
        """An answer that is the locked file. Of several back ends with other ETags the one that was locked may
        answer the next time; a file that changed has the new ETag on all of them."""
        for tries_left in reversed(range(OTHER_BACK_END_TRIES)):
            reply = self._send("GET", url, headers)
            try:
                check(url, facts, facts_of(reply, url, like=facts.etag))
                return reply.response
            except InputChanged as changed:
                reply.response.close()
                if changed.field != "etag" or not tries_left:
                    raise
                headers = headers | {"Connection": "close"}  # another connection may lead to another back end
        raise AssertionError("unreachable")

    def _head(self, url: str, host: str) -> Reply | None:
        """The answer to HEAD; None, and no more of it, where the host does not answer it as it answers GET."""
        try:
            reply = self._send("HEAD", url, {}, stay=True)
        except Passing as fault:
            if fault.cause.startswith("status 403"):  # an address may be signed for GET alone
                self._without_head.add(host)
            raise
        except SourceRefused as refused:
            if not refused.detail.startswith(("status 400", "status 405", "status 501")):
                raise
            self._without_head.add(host)
            return None
        reply.response.close()
        return reply

    def _first_byte(self, url: str) -> Reply | None:
        """The answer to a request for one byte; None where there is not even one."""
        try:
            reply = self._send("GET", url, {"Range": "bytes=0-0"})
        except InputChanged:  # status 416
            return None
        reply.response.close()
        facts = facts_of(reply, url)
        if facts.size_bytes is None and facts.sha256 is None and not _has_an_end(reply.response):
            raise SourceRefused(url, NO_END)
        return reply

    def _send(self, verb: str, url: str, headers: dict[str, str], stay: bool = False) -> Reply:
        address, token, hub = self._resolve(url)
        return self._web.send(
            verb, url, address, headers, timeout=TIMEOUT_SECONDS, token=token, hub=hub, stay=stay and bool(hub)
        )

    def _resolve(self, url: str) -> tuple[str, str | None, frozenset[str]]:
        """The https address behind a URL; for the hub the token, and the origins that may see it."""
        if not url.startswith("hf://"):
            return url, None, frozenset()
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        check_endpoint("HF_ENDPOINT")
        repo = hub_place(url)
        address = hf_hub_url(repo.id, repo.path, repo_type=repo.type, revision=repo.revision)
        hub = frozenset(map(origin, (constants.ENDPOINT, "https://huggingface.co", "https://hf.co")))
        return address, build_hf_headers().get("authorization"), hub

    def _hub_matches(self, base: str, pattern: str) -> list[tuple[str, Facts]]:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        repo = hub_place(base)
        folder = os.path.dirname(re.split(r"[*?\[]", pattern, maxsplit=1)[0])  # noqa: PTH120 - a URL, no path
        self._budget.take("hub-api")
        with _hub_faults(base):
            try:
                tree = HfApi().list_repo_tree(
                    repo.id, folder or None, recursive=True, revision=repo.revision, repo_type=repo.type
                )
                files = [item for item in tree if isinstance(item, RepoFile)]
            except EntryNotFoundError:
                return []
        if is_glob(pattern):
            files = [f for f in files if path_matches(f.path, pattern) and not is_hidden_from(f.path, pattern)]
        else:
            files = [f for f in files if f.path == pattern]
        matching = [(f.path, Facts(f.size, f'"{f.blob_id}"', f.lfs.sha256 if f.lfs else None)) for f in files]
        return sorted(matching)


class Fsspec:
    """S3 and every other store that fsspec opens, read in ranges. On S3 each range carries If-Match."""

    def __init__(self) -> None:
        self._file_systems: dict[str, Any] = {}

    def facts(self, url: str) -> Facts:
        with _store_faults(url):
            try:
                info = self._fs(url).info(url)
            except FileNotFoundError:
                self._check_bucket(url)
                raise
        if info["type"] != "file":
            raise NoSuchFile(url, "a folder")
        return Facts(info["size"], _fsspec_etag(info))

    def matches(self, base: str, pattern: str) -> list[tuple[str, Facts]]:
        """Only the pattern is one: `[` in the base is a letter of a name."""
        base = base.rstrip("/")
        if not is_glob(pattern):
            return [(pattern, self.facts(f"{base}/{pattern}"))]
        fs = self._fs(base)
        root = fs._strip_protocol(base)
        with _store_faults(base):
            by_name = {info["name"].removeprefix(f"{root}/"): info for info in self._listed(fs, root, pattern)}
            if not by_name:
                self._check_bucket(base)
        return sorted(
            (name, Facts(info["size"], _fsspec_etag(info)))
            for name, info in by_name.items()
            if path_matches(name, pattern) and not is_hidden_from(name, pattern)
        )

    def _listed(self, fs: Any, root: str, pattern: str) -> Iterator[dict[str, Any]]:
        """The files below `root` among which those of a pattern are. Not by `glob` or `walk` of fsspec: they pass over
        a folder whose listing fails as if it were empty."""
        parts = pattern.split("/")
        literal = parts[: next(n for n, part in enumerate(parts) if is_glob(part))]
        begin = "/".join([root, *literal])
        if "**" in pattern and "s3" in fs.protocol:
            yield from (info for info in fs.find(begin, detail=True).values() if info["type"] == "file")
            return
        folders = [begin]
        while folders:
            try:
                listing = fs.ls(folders.pop(), detail=True)
            except (FileNotFoundError, NotADirectoryError):
                continue
            for info in listing:
                name = info["name"].rstrip("/").removeprefix(f"{root}/")
                if info["type"] == "file":
                    yield info
                elif "**" in pattern or path_matches(name, "/".join(parts[: name.count("/") + 1])):
                    folders.append(info["name"].rstrip("/"))

    def _check_bucket(self, url: str) -> None:
        """S3 says the same of a missing bucket as of a missing object."""
        if not url.startswith("s3://"):
            return
        bucket = urlsplit(url).netloc
        try:
            self._fs(url).call_s3("head_bucket", Bucket=bucket)
        except FileNotFoundError:
            raise UserError(
                f"{url}: there is no bucket {bucket!r} (endpoint and region: AWS_* in the environment)"
            ) from None
        except PermissionError:  # objects may be read where buckets may not be asked for
            pass

    def read(self, url: str, facts: Facts, start: int, end: int | None = None) -> Iterator[bytes]:
        if start == 0:
            check(url, facts, self.facts(url))
        stop = end if end is not None else facts.size_bytes
        if stop is None:
            raise SourceUnavailable(url, "the store does not tell its size")
        while start < stop:
            upto = min(stop, start + RANGE_BYTES)
            chunk = self._range(url, facts, start, upto)
            if not chunk:
                raise Passing("empty answer to a range")
            for at in range(0, len(chunk), CHUNK_BYTES):
                yield chunk[at : at + CHUNK_BYTES]
            start += len(chunk)

    def _range(self, url: str, facts: Facts, start: int, end: int) -> bytes:
        fs = self._fs(url)
        with _store_faults(url, facts):
            if not url.startswith("s3://"):
                return bytes(fs.cat_file(url, start=start, end=end))
            bucket, key, _ = fs.split_path(url)
            condition = {"IfMatch": facts.etag} if facts.etag else {}
            answer = fs.call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}", **condition)
            return _s3_body(fs, answer)

    def _fs(self, url: str) -> Any:
        import fsspec

        protocol = url.partition("://")[0]
        if protocol not in self._file_systems:
            if protocol == "s3":
                check_endpoint("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
            options = {"use_listings_cache": False} if protocol == "s3" else {}
            try:
                self._file_systems[protocol] = fsspec.filesystem(protocol, **options)
            except (ValueError, ImportError, TypeError) as error:
                raise UserError(f"{url}: cannot open {protocol}:// ({error})") from None
        return self._file_systems[protocol]


@contextlib.contextmanager
def _store_faults(url: str, facts: Facts | None = None) -> Iterator[None]:
    """What fsspec, s3fs and botocore raise, as one of our errors, or Passing; a missing file stays what it is."""
    from botocore.exceptions import BotoCoreError, ConnectionError, HTTPClientError  # type: ignore[import-untyped]

    try:
        yield
    except FileNotFoundError:
        raise
    except (ConnectionError, HTTPClientError) as error:
        raise Passing(f"no connection ({type(error).__name__})") from None
    except (PermissionError, BotoCoreError) as error:
        raise UserError(f"{url}: not allowed ({error})") from None
    except OSError as error:
        if facts and "PreconditionFailed" in str(getattr(error.__cause__, "response", "")):
            raise InputChanged(url, "etag", facts.etag, "another (status 412)") from None
        raise Passing(type(error).__name__) from None


def _s3_body(fs: Any, answer: Any) -> bytes:
    from fsspec.asyn import sync

    async def whole() -> bytes:
        async with answer["Body"] as body:
            return bytes(await body.read())

    return bytes(sync(fs.loop, whole))


def _fsspec_etag(info: dict[str, Any]) -> str | None:
    etag = info.get("ETag") or info.get("etag") or info.get("mtime")
    return None if etag is None else str(etag)


class HubPlace(NamedTuple):
    """hf://[datasets/|spaces/]ORG/NAME[@REVISION][/path], taken apart. `type` is dataset, space or model."""

    type: str
    id: str
    revision: str | None
    path: str


def hub_place(url: str) -> HubPlace:
    """Takes a URL of the hub apart, without asking it. Raises UserError for one without ORG/NAME."""
    parts = url.removeprefix("hf://").split("/")
    kind = {"datasets": "dataset", "spaces": "space"}.get(parts[0], "model")
    rest = parts if kind == "model" else parts[1:]
    if len(rest) < 2 or not all(rest[:2]):
        raise UserError(f"{url}: expected hf://datasets/ORG/NAME")
    name, _, revision = rest[1].partition("@")
    return HubPlace(kind, f"{rest[0]}/{name}", revision or None, "/".join(rest[2:]))


def hub_commit(base: str, revision: str | None) -> str:
    """The commit that a branch, tag or abbreviated commit of a hub repository stands for now."""
    from huggingface_hub import HfApi

    place = hub_place(base)
    with _hub_faults(base):
        return str(HfApi().repo_info(place.id, repo_type=place.type, revision=revision or place.revision).sha)


@contextlib.contextmanager
def _hub_faults(url: str) -> Iterator[None]:
    """What huggingface_hub and its HTTP client raise, as one of our errors, or Passing."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    check_endpoint("HF_ENDPOINT")
    client_error = HfHubHTTPError.__bases__[0]  # of httpx or httpx2, as the version has it
    try:
        yield
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in RETRY_STATUS:
            raise Passing(f"status {status}", asked_wait_seconds(error.response)) from None
        raise UserError(f"{url}: {one_line(error, 300)}") from None
    except (HFValidationError, OfflineModeIsEnabled) as error:
        raise UserError(f"{url}: {error}") from None
    except (client_error, OSError, ValueError) as error:  # ValueError: an answer that is not JSON
        raise Passing(f"no connection ({type(error).__name__})") from None


def path_matches(path: str, pattern: str) -> bool:
    """As shells and S3 listings match: `*` does not cross a slash, `**` does."""
    return _matcher(pattern).fullmatch(path) is not None


@functools.lru_cache(maxsize=64)  # to translate it takes ten times as long as to match, and listings are long
def _matcher(pattern: str) -> re.Pattern[str]:
    from fsspec.utils import glob_translate

    return re.compile(glob_translate(pattern))


def facts_of(reply: Reply, url: str, like: str | None = ETAG) -> Facts:
    """What an answer and the redirects to it tell of a file. Of the hub's own hops one tells the size and the sha256
    of a large file; a regular file has its size where the redirects end.

    `like` is the kind of mark that is wanted, or a locked mark: an ETag (else the time of the last change), that
    time, or none. Raises InputChanged where the hub answers with another commit than was asked for.
    """
    size, digest = _whole_size(reply), None
    if linked := reply.header("X-Linked-Size"):
        size = int(linked) if linked.isdecimal() else None
        told = (reply.header("X-Linked-Etag") or "").strip('"')
        digest = told if re.fullmatch(r"[0-9a-f]{64}", told) else None
    if commit := reply.header("X-Repo-Commit"):
        asked = hub_place(url).revision if url.startswith("hf://") else None
        if asked not in (None, commit) and re.fullmatch(r"[0-9a-f]{40}", asked):
            raise InputChanged(url, "commit", asked, commit)
        oid = next((hop.get("X-Linked-Etag") or hop.get("ETag") for hop in reply.hops if "X-Repo-Commit" in hop), None)
        return Facts(size, None if linked else oid if _is_object_id(oid) else None, digest)
    if url.startswith("hf://"):
        return Facts(size, None, digest)
    last = reply.response.headers
    etag, changed = last.get("ETag"), last.get("Last-Modified")
    if like == NO_MARK:
        return Facts(size, None, digest)
    if (like or "").startswith(MODIFIED) or (like == ETAG and etag is None):
        return Facts(size, f"{MODIFIED}{changed}" if changed else None, digest)
    return Facts(size, etag, digest)


def _whole_size(reply: Reply) -> int | None:
    """A redirect has a length, too: of its own few words."""
    response = reply.response
    if reply.is_redirect:
        return None
    told = response.headers.get("Content-Length")
    if response.status_code == 206:
        told = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(told) if told and told.isdecimal() else None


def _is_object_id(etag: str | None) -> bool:
    """As git names a file; mirrors of the hub have ETags of their own, which say nothing of the file."""
    return etag is not None and re.fullmatch(r'"[0-9a-f]{40}"', etag) is not None


def is_strong(etag: str | None) -> TypeGuard[str]:
    """Whether a part of one answer and a part of another with this etag are parts of the same bytes."""
    return etag is not None and not etag.startswith("W/")


def _has_an_end(response: requests.Response) -> bool:
    """Whether a body that is cut can be told from a whole one: it has a length, or comes in chunks with a last one."""
    told = response.headers
    return "Content-Length" in told or "Content-Range" in told or "chunked" in told.get("Transfer-Encoding", "").lower()
