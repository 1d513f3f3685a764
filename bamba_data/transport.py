"""How bytes come from where they lie: local disk, http(s) and the hub, S3 and whatever else fsspec opens.

A transport answers three questions about a URL: what `facts` are known, what `matches` a pattern below a folder,
and what bytes come from an offset on. It never retries. A fault that may pass is `Passing`; one that will not is
one of `errors`. Whether the file is still the locked one is checked at every (re)opening.
"""

import contextlib
import email.utils
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol
from urllib.parse import urlsplit

import requests
import urllib3

from bamba_data.budget import Budget
from bamba_data.errors import InputChanged, SourceUnavailable, UserError
from bamba_data.locked import Facts

CHUNK_BYTES = 1 << 20
RANGE_BYTES = 16 << 20
TIMEOUT_SECONDS = (10.0, 60.0)  # to connect, and between two bytes
MAX_WAIT_SECONDS = 3600.0  # whatever a host asks for
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class Passing(Exception):
    """A fault that may pass: `cause` in a word or two for the counters, and what the host asked us to wait."""

    def __init__(self, cause: str, wait_seconds: float | None = None) -> None:
        super().__init__(cause, wait_seconds)
        self.cause, self.wait_seconds = cause, wait_seconds


class Transport(Protocol):
    def facts(self, url: str) -> Facts: ...

    def matches(self, base: str, pattern: str) -> list[tuple[str, Facts]]:
        """(path below `base`, facts) of every file that matches, sorted; a plain name matches itself."""

    def read(self, url: str, facts: Facts, start: int, end: int | None = None) -> Iterator[bytes]:
        """The bytes [start, end) in chunks. Raises InputChanged if the file is not the one of `facts`."""


def is_glob(pattern: str) -> bool:
    return any(character in pattern for character in "*?[")


def check(url: str, locked: Facts, found: Facts) -> None:
    """Refuse a file that is not the locked one; what either side does not know is not compared."""
    if locked.size_bytes is not None and found.size_bytes is not None and locked.size_bytes != found.size_bytes:
        raise InputChanged(url, "size", locked.size_bytes, found.size_bytes)
    if locked.sha256 is not None and found.sha256 is not None:
        if locked.sha256 != found.sha256:
            raise InputChanged(url, "sha256", locked.sha256, found.sha256)
    elif locked.etag is not None and found.etag is not None and locked.etag != found.etag:
        raise InputChanged(url, "etag", locked.etag, found.etag)


class LocalFiles:
    """A local file's etag is its modification time; it is not compared where the sha256 is known."""

    def facts(self, url: str) -> Facts:
        found = self._path(url).stat()
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(f"{url} is no file")
        return Facts(found.st_size, f"mtime:{found.st_mtime_ns}")

    def matches(self, base: str, pattern: str) -> list[tuple[str, Facts]]:
        folder = self._path(base)
        if not is_glob(pattern):
            return [(pattern, self.facts(os.fspath(folder / pattern)))]
        try:
            paths = [path for path in folder.glob(pattern) if not path.is_dir()]
        except (NotImplementedError, ValueError) as error:
            raise UserError(f"{base}: {pattern!r} is no pattern of names below it ({error})") from None
        return sorted((path.relative_to(folder).as_posix(), self.facts(os.fspath(path))) for path in paths)

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
    """Plain https, and the hub (`hf://datasets/ORG/NAME@COMMIT/path`), whose files are https behind a redirect.

    Redirects are followed anew at every opening: signed addresses expire.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._session = requests.Session()

    def facts(self, url: str) -> Facts:
        response = self._send("HEAD", url, {}, follow=not url.startswith("hf://"))
        with response:
            return _facts(response)

    def matches(self, base: str, pattern: str) -> list[tuple[str, Facts]]:
        if base.startswith("hf://"):
            return self._hub_matches(base, pattern)
        if is_glob(pattern):
            raise UserError(f"{base}: plain https cannot list files, so {pattern!r} matches nothing; name them")
        return [(pattern, self.facts(f"{base.rstrip('/')}/{pattern}"))]

    def read(self, url: str, facts: Facts, start: int, end: int | None = None) -> Iterator[bytes]:
        headers: dict[str, str] = {}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
            # A commit of the hub cannot change, and the host that it redirects to has ETags of its own.
            if facts.etag and not url.startswith("hf://"):
                headers["If-Range"] = facts.etag
        response = self._send("GET", url, headers, follow=True)
        with response:
            check(url, facts, _facts(response))
            sent = response.headers.get("Content-Range", "")
            if response.status_code == 206 and not sent.startswith(f"bytes {start}-"):
                raise Passing("another range than asked for")
            skip = start if response.status_code == 200 else 0  # a host without ranges sends the whole file
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

    def _send(self, verb: str, url: str, headers: dict[str, str], follow: bool) -> requests.Response:
        address, authorization = self._resolve(url)
        try:
            host = urlsplit(address).netloc
            self._budget.take(host)
            response = self._session.request(
                verb,
                address,
                headers={"Accept-Encoding": "identity"} | headers | authorization,
                stream=True,
                allow_redirects=follow,
                timeout=TIMEOUT_SECONDS,
            )
        except ValueError:  # requests' InvalidURL and InvalidSchema are such, too
            raise UserError(f"{url}: is no address, or redirects to none") from None
        except requests.RequestException as error:
            raise Passing(f"no connection ({type(error).__name__})") from None
        status = response.status_code
        if status in (200, 206) or (not follow and status in (301, 302, 303, 307, 308)):
            return response
        wait = asked_wait_seconds(response)
        response.close()
        if status in _RETRY_STATUS:
            if status in (429, 503):
                self._budget.pause(host, wait if wait is not None else 1.0)
            raise Passing(f"status {status}", wait)
        if status == 416:
            raise InputChanged(url, "size", "large enough for the range asked", "smaller (status 416)")
        if status == 401:
            raise UserError(f"{url}: status 401: it needs a token (HF_TOKEN) or an accepted licence")
        if status in (403, 404):
            # Hosts have answered so for a while and recovered; the caller tries twice.
            raise Passing(f"status {status}")
        raise SourceUnavailable(url, f"status {status}")

    def _resolve(self, url: str) -> tuple[str, dict[str, str]]:
        """The https address behind a URL, and the headers that it wants."""
        if not url.startswith("hf://"):
            return url, {}
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        repo = hub_place(url)
        address = hf_hub_url(repo.id, repo.path, repo_type=repo.type, revision=repo.revision)
        token = build_hf_headers().get("authorization")
        return address, {"Authorization": token} if token else {}

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
                files = [item for item in tree if isinstance(item, RepoFile) and path_matches(item.path, pattern)]
            except EntryNotFoundError:
                return []
        found = [(f.path, Facts(f.size, f'"{f.blob_id}"', f.lfs.sha256 if f.lfs else None)) for f in files]
        return sorted(found)


class Fsspec:
    """S3 and every other store that fsspec opens, read in ranges. On S3 each range carries If-Match."""

    def __init__(self) -> None:
        self._file_systems: dict[str, Any] = {}

    def facts(self, url: str) -> Facts:
        with _store_faults(url):
            info = self._fs(url).info(url)
        if info["type"] != "file":
            raise FileNotFoundError(f"{url} is no file")
        return Facts(info["size"], _fsspec_etag(info))

    def matches(self, base: str, pattern: str) -> list[tuple[str, Facts]]:
        base = base.rstrip("/")
        if not is_glob(pattern):
            return [(pattern, self.facts(f"{base}/{pattern}"))]
        root = self._fs(base)._strip_protocol(base)
        with _store_faults(base):
            found = self._fs(base).glob(f"{base}/{pattern}", detail=True)
        files = [info for info in found.values() if info["type"] == "file"]
        return sorted(
            (info["name"].removeprefix(f"{root}/"), Facts(info["size"], _fsspec_etag(info))) for info in files
        )

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
    found = info.get("ETag") or info.get("etag") or info.get("mtime")
    return None if found is None else str(found)


class HubPlace(NamedTuple):
    """hf://[datasets/|spaces/]ORG/NAME[@REVISION][/path], taken apart. `type` is dataset, space or model."""

    type: str
    id: str
    revision: str | None
    path: str


def hub_place(url: str) -> HubPlace:
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

    client_error = HfHubHTTPError.__bases__[0]  # of httpx or httpx2, as the version has it
    try:
        yield
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in _RETRY_STATUS:
            raise Passing(f"status {status}", asked_wait_seconds(error.response)) from None
        raise UserError(f"{url}: {' '.join(str(error).split())[:300]}") from None
    except (HFValidationError, OfflineModeIsEnabled) as error:
        raise UserError(f"{url}: {error}") from None
    except (client_error, OSError, ValueError) as error:  # ValueError: an answer that is not JSON
        raise Passing(f"no connection ({type(error).__name__})") from None


def path_matches(path: str, pattern: str) -> bool:
    """As shells and S3 listings match: `*` does not cross a slash, `**` does."""
    from fsspec.utils import glob_translate

    return re.fullmatch(glob_translate(pattern), path) is not None


def asked_wait_seconds(response: Any) -> float | None:
    """What `Retry-After` (seconds or a date) or the hub's `RateLimit: ...;t=SECONDS` asks for, within reason."""
    after = response.headers.get("Retry-After")
    if after is not None:
        if after.strip().isdecimal():
            return min(float(after), MAX_WAIT_SECONDS)
        with contextlib.suppress(ValueError):
            seconds = email.utils.parsedate_to_datetime(after).timestamp() - time.time()
            return min(max(0.0, seconds), MAX_WAIT_SECONDS)
    if limit := re.search(r"\bt=(\d+)", response.headers.get("RateLimit", "")):
        return min(float(limit.group(1)), MAX_WAIT_SECONDS)
    return None


def _facts(response: requests.Response) -> Facts:
    """Facts from the headers. The hub tells them at the first hop, the place that it redirects to does not."""
    first = (response.history or [response])[0].headers
    if linked := first.get("X-Linked-Size"):
        digest = first.get("X-Linked-Etag", "").strip('"')
        return Facts(int(linked), None, digest if re.fullmatch(r"[0-9a-f]{64}", digest) else None)
    size: str | None = response.headers.get("Content-Length")
    if response.status_code == 206:
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
    etag = first.get("ETag") if "X-Repo-Commit" in first else response.headers.get("ETag")
    return Facts(int(size) if size and size.isdigit() else None, etag)
