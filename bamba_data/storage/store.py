"""A folder of immutable-ish objects on a local disk or on S3, with the few verbs that publishing needs.

`put` replaces whole or not at all; `create` succeeds for exactly one of any number of writers; a reader sees an
old object, a new one, or none, never a piece. Locally: a temporary file, fsync, then rename or hard link.
On S3: one PUT, with `If-None-Match: *` for `create`. Other fsspec protocols are refused, because we could
not show that their create-if-absent is atomic.

Paths are relative, checked by `paths.checked`, with forward slashes. A store that cannot be reached is a
`StoreUnavailable` after RETRY_SECONDS of tries, one that refuses us a `UserError`.
"""

import contextlib
import errno
import os
import secrets
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast
from urllib.parse import urlsplit

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from bamba_data.errors import AccessDenied, StoreUnavailable, UnsafePath, UserError, one_line
from bamba_data.storage.addresses import check_endpoint, local_path, shown
from bamba_data.storage.local_disk import naming
from bamba_data.storage.paths import checked

RETRY_SECONDS = 120.0
DELETES_AT_ONCE = 1000  # what S3 takes in one request
_INHERITED: list[Any] = []  # file systems of a parent process, see S3Store.fs
_PART = ".part-"  # local temporary files: <name>.part-<random>


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as a listing shows it. `modified` is in seconds since 1970, by the store's own clock."""

    path: str
    size_bytes: int
    modified: float


class Store(ABC):
    """A root URL and the verbs on what lies below it. A missing object is a `FileNotFoundError`."""

    url: str

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The whole object."""

    @abstractmethod
    def read_range(self, path: str, start: int, end: int) -> bytes:
        """The bytes [start, end); fewer only where the object ends."""

    def read_into(self, path: str, start: int, place: memoryview) -> int:
        """Fill `place` with the bytes from `start` on; how many, fewer only where the object ends."""
        data = self.read_range(path, start, start + len(place))
        place[: len(data)] = data
        return len(data)

    @abstractmethod
    def put(self, path: str, data: bytes) -> None:
        """Write the whole object, replacing what was there."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Write the whole object if none is there; False if one is.

        False does not say who wrote it: after a lost reply it may have been this very call. Read it back.
        (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html)
        """

    @abstractmethod
    def writer(self, path: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A file to stream into; the object appears when the block ends without an exception."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """A seekable file to read from."""

    @abstractmethod
    def stat(self, path: str) -> Entry | None:
        """Its size and time, or None where there is no such object."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object below the folder `prefix`, in no stated order.

        On a disk that includes what killed writers left, `<name>.part-<random>`: nobody asks for such a name, and
        only what is listed can be swept.
        """

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove the object; a missing one is no error."""

    def delete_all(self, paths: Sequence[str], may: Callable[[], None]) -> None:
        """Remove these objects, DELETES_AT_ONCE at most, in order or at once. `may` is called right before each removal
        or request, and raises if it must not be: so on S3 it is one request, and not tried again for long."""
        for path in paths:
            may()
            self.delete(path)


def open_store(url: str | os.PathLike[str]) -> Store:
    """The store at a local path, a `file://` URL or an `s3://bucket/prefix` URL, with or without a slash at its end.

    Nothing is asked of it yet: a place that does not exist is an empty store.

    Raises:
        UserError: not a place that datasets can lie in, or a URL with credentials in it.
    """
    text = os.fspath(url)
    if not text.strip():
        raise UserError("the place of a dataset or mirror is empty: give a local path or s3://bucket/prefix")
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise UserError(f"not a URL ({error})") from None
    if parts.username or parts.password:
        raise UserError("a URL with credentials in it is refused: give them in the environment instead")
    if parts.scheme == "s3":
        return S3Store(text)
    if parts.scheme == "file":
        return LocalStore(Path(local_path(text)))
    if "://" in text:
        raise UserError(f"{shown(text)}: datasets live on a local disk or on s3://, not on {parts.scheme}://")
    return LocalStore(Path(text))


class LocalStore(Store):
    """A folder. Every write is on the disk (fsync of file and folder) before it is visible."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self._real = os.path.realpath(self.root).rstrip(os.sep)
        self._below = os.fspath(self.root).rstrip(os.sep)
        self.url = str(self.root)

    def _at(self, path: str) -> Path:
        place = self.root / checked(path)
        # Where no part is a link nothing leads out; to resolve the whole path takes four times as long.
        part = self._below
        if any(os.path.islink(part := f"{part}{os.sep}{name}") for name in path.split("/")):  # noqa: PTH114 (and Paths)
            real = os.path.realpath(place)
            if real != self._real and not real.startswith(f"{self._real}{os.sep}"):
                raise UnsafePath(path, f"a symbolic link in it leads out of {self.root}")
        return place

    def read(self, path: str) -> bytes:
        return self._at(path).read_bytes()

    def read_range(self, path: str, start: int, end: int) -> bytes:
        with self._at(path).open("rb", buffering=0) as file:
            file.seek(start)
            data = file.read(end - start)
            while len(data) < end - start and (more := file.read(end - start - len(data))):
                data += more  # a call gives 2 GiB at most, and what came before an error
            return data

    def read_into(self, path: str, start: int, place: memoryview) -> int:
        done = 0
        with self._at(path).open("rb", buffering=0) as file:
            file.seek(start)
            while done < len(place) and (length := file.readinto(place[done:])):
                done += length
        return done

    def put(self, path: str, data: bytes) -> None:
        with self.writer(path) as file:
            file.write(data)

    def create(self, path: str, data: bytes) -> bool:
        target = self._at(path)
        with _staged(target) as (file, part):
            file.write(data)
            _flush(file)
            try:
                # A hard link fails where the name is taken, on every POSIX file system; a rename would replace it.
                os.link(part, target)
            except FileExistsError:
                return False
            except FileNotFoundError:
                raise self._swept(part) from None
        _flush_folder(target.parent)
        return True

    @contextlib.contextmanager
    def writer(self, path: str) -> Iterator[BinaryIO]:
        target = self._at(path)
        with _staged(target) as (file, part):
            yield file
            _flush(file)
            try:
                part.replace(target)
            except FileNotFoundError:
                raise self._swept(part) from None
        _flush_folder(target.parent)

    def _swept(self, part: Path) -> StoreUnavailable:
        """Of a writer that was suspended for so long that its temporary file was taken for one left behind."""
        return StoreUnavailable(self.url, f"{part.name} was removed while it was written")

    def open(self, path: str) -> BinaryIO:
        return self._at(path).open("rb")

    def stat(self, path: str) -> Entry | None:
        try:
            status = self._at(path).stat()
        except FileNotFoundError:
            return None
        return Entry(path, status.st_size, status.st_mtime) if stat.S_ISREG(status.st_mode) else None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        folders = [(os.fspath(self._at(prefix) if prefix else self.root), f"{prefix}/" if prefix else "")]
        while folders:
            top, above = folders.pop()
            try:
                names = os.scandir(top)
            except OSError:  # removed while we walk, or no folder at all
                continue
            with names:
                for name in names:
                    if name.is_dir(follow_symlinks=False):
                        folders.append((name.path, f"{above}{name.name}/"))
                    elif not (name.is_symlink() and Path(name.path).is_dir()):
                        with contextlib.suppress(FileNotFoundError):
                            status = name.stat(follow_symlinks=False)
                            yield Entry(f"{above}{name.name}", status.st_size, status.st_mtime)

    def delete(self, path: str) -> None:
        self._at(path).unlink(missing_ok=True)


@contextlib.contextmanager
def _staged(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A temporary file beside `target`, of a name no other writer has; gone afterwards, whatever happens."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{_cut(target.name)}{_PART}{secrets.token_hex(6)}")
    try:
        with naming(target), part.open("xb") as file:
            yield file, part
    finally:
        part.unlink(missing_ok=True)


def _cut(name: str) -> str:
    """So much of a name that ours for its temporary file is no longer than a disk takes (255 bytes)."""
    return name.encode()[:200].decode(errors="ignore")


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Without this a power loss can take back a rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class S3Store(Store):
    """A prefix in a bucket, through s3fs. Credentials and endpoint come from the environment (AWS_*)."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if not parts.netloc or parts.query or parts.fragment:
            raise UserError(f"{shown(url)}: expected s3://bucket or s3://bucket/prefix")
        check_endpoint("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
        self.root = f"{parts.netloc}/{parts.path.strip('/')}".rstrip("/")
        self.url = f"s3://{self.root}"
        self._fs, self._process = self._connected(), os.getpid()

    @staticmethod
    def _connected() -> Any:
        import s3fs  # half a second: only where S3 is used

        # No cache of listings: other processes write here, and a stale listing would hide a version or a lease.
        return s3fs.S3FileSystem(use_listings_cache=False, default_fill_cache=False)

    @property
    def fs(self) -> Any:
        """This process's own: the threads behind an s3fs are not in a fork of it, such as a DataLoader's worker."""
        if self._process != os.getpid():
            _INHERITED.append(self._fs)  # to let go of it would close what is the parent's, and hang
            self._fs, self._process = self._connected(), os.getpid()
        return self._fs

    def _at(self, path: str) -> str:
        return f"{self.root}/{checked(path)}"

    def read(self, path: str) -> bytes:
        return cast(bytes, self._call(self.fs.cat_file, self._at(path)))

    def read_range(self, path: str, start: int, end: int) -> bytes:
        if start >= end:  # an invalid range is ignored (RFC 9110, 14.1.1): all would come
            return b""
        try:
            return cast(bytes, self._call(self.fs.cat_file, self._at(path), start=start, end=end))
        except OSError as error:
            if _code(error) == "InvalidRange":  # the object ends before `start`
                return b""
            raise

    def put(self, path: str, data: bytes) -> None:
        self._call(self.fs.pipe_file, self._at(path), data)

    def create(self, path: str, data: bytes) -> bool:
        try:
            self._call(self.fs.pipe_file, self._at(path), data, mode="create")
        except OSError as error:
            if _code(error) in ("PreconditionFailed", "412"):
                return False
            raise
        return True

    @contextlib.contextmanager
    def writer(self, path: str) -> Iterator[BinaryIO]:
        with self._typed_errors():
            file = self.fs.open(self._at(path), "wb", block_size=16 << 20)
            try:
                yield file
            except BaseException:
                file.discard()
                file.closed = True
                raise
            file.close()  # completes the multipart upload: only now does the object exist

    def open(self, path: str) -> BinaryIO:
        return cast(BinaryIO, self._call(self.fs.open, self._at(path), "rb", block_size=4 << 20))

    def stat(self, path: str) -> Entry | None:
        try:
            info = self._call(self.fs.info, self._at(path))
        except FileNotFoundError:
            return None
        if info["type"] != "file":
            return None
        return Entry(path, info["size"], info["LastModified"].timestamp())

    def list(self, prefix: str = "") -> Iterator[Entry]:
        bucket, _, folder = (self._at(prefix) if prefix else self.root).partition("/")
        asked = {"Bucket": bucket, "Prefix": f"{folder}/" if folder else ""}
        more = True
        while more:  # page by page: a listing of millions never lies in memory
            page = self._call(self.fs.call_s3, "list_objects_v2", **asked)
            for listed in page.get("Contents", []):
                path = f"{bucket}/{listed['Key']}".removeprefix(f"{self.root}/")
                if not path.endswith("/"):  # a folder, as some tools write it
                    yield Entry(path, listed["Size"], listed["LastModified"].timestamp())
            more = page.get("IsTruncated", False)
            asked["ContinuationToken"] = page.get("NextContinuationToken", "")

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._call(self.fs.rm_file, self._at(path))

    def delete_all(self, paths: Sequence[str], may: Callable[[], None]) -> None:
        may()
        bucket = self.root.partition("/")[0]
        keys = [{"Key": self._at(path).partition("/")[2]} for path in paths]
        with self._typed_errors():
            answer = self.fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
        if refused := answer.get("Errors"):
            first = refused[0]
            raise StoreUnavailable(
                self.url, f"{len(refused)} of {len(paths)} not removed, {first.get('Key')}: {first.get('Message')}"
            )

    def _call(self, verb: Any, *args: Any, **kwargs: Any) -> Any:
        """Call `verb` until it answers, for at most RETRY_SECONDS, with full jitter."""
        attempts = Retrying(
            retry=retry_if_exception(_transient),
            # Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
            wait=wait_random_exponential(multiplier=0.2, max=10),
            stop=stop_after_delay(RETRY_SECONDS),
            reraise=True,
        )
        with self._typed_errors():
            return attempts(verb, *args, **kwargs)

    @contextlib.contextmanager
    def _typed_errors(self) -> Iterator[None]:
        """Whatever s3fs and botocore raise, as an error of ours; but the plain answers stay an OSError."""
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

        try:
            yield
        except (OSError, BotoCoreError) as error:
            if _transient(error):
                raise StoreUnavailable(self.url, one_line(error, 2000)) from error
            if isinstance(error, PermissionError | BotoCoreError) or _code(error) == "NoSuchBucket":
                raise AccessDenied(
                    f"{self.url}: {one_line(error, 2000)} (credentials and endpoint: AWS_* in the environment)"
                ) from error
            raise


def _code(error: BaseException) -> str:
    """The S3 error code behind an OSError of s3fs, or ''."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _transient(error: BaseException) -> bool:
    """Worth another try: not one of the plain answers (missing, forbidden, exists, failed condition)."""
    from botocore.exceptions import BotoCoreError, ConnectionError, HTTPClientError

    if isinstance(error, BotoCoreError):
        return isinstance(error, ConnectionError | HTTPClientError)
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError | IsADirectoryError):
        return False
    if isinstance(error, OSError) and error.errno == errno.EINVAL:
        return _code(error) in ("IncompleteBody", "BadDigest")
    return isinstance(error, OSError)


def now(store: Store, folder: str) -> float:
    """The store's own clock, read off an object that is written and removed: ours may be skewed."""
    path = f"{folder}/clock-{secrets.token_hex(6)}"
    store.put(path, b"")
    try:
        entry = store.stat(path)
    finally:
        store.delete(path)
    return entry.modified if entry else time.time()
