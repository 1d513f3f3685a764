"""Locked files as bytes: streamed, staged to disk, or read at random, and verified whichever way.

Every fault that may pass is retried with jitter, from the byte that was reached, for `retry_seconds` without
progress; a host's Retry-After and RateLimit are obeyed. What does not pass, or is not the locked file, is a
typed error that names the file.
"""

import contextlib
import hashlib
import io
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from bamba_data.errors import (
    AccessDenied,
    CorruptInput,
    InputChanged,
    InputTooLarge,
    SourceRefused,
    SourceUnavailable,
)
from bamba_data.storage.local_disk import naming
from bamba_data.storage.locked_file import Facts, LockedFile
from bamba_data.storage.rate_limit import Budget, LocalBudget
from bamba_data.storage.transport import Fsspec, Http, LocalFiles, NoSuchFile, Passing, Transport, is_strong

READ_AHEAD_BYTES = 32 << 20
STAGE_TRIES = 3  # whole downloads of one file, when what arrives is not what was locked
_PERMANENT_AFTER = 2  # tries of a file that is said to be missing or forbidden

NO_SUCH_FILE = "no such file"

T = TypeVar("T")


class Fetcher:
    """Fetches under one budget. `on_retry(cause, seconds)` is told of every retry, for the counters."""

    def __init__(
        self,
        budget: Budget | None = None,
        retry_seconds: float = 900.0,
        on_retry: Callable[[str, float], None] = lambda cause, seconds: None,
    ) -> None:
        self._local, http = LocalFiles(), Http(budget or LocalBudget())
        self._transports: dict[str, Transport] = {"": self._local, "file": self._local}
        self._transports |= {"hf": http, "http": http, "https": http}
        self._fsspec = Fsspec()
        self._retry_seconds = retry_seconds
        self._on_retry = on_retry

    def transport(self, url: str) -> Transport:
        """The one for the URL's scheme; a URL without one is a local path, an unknown one goes to fsspec."""
        scheme = url.partition("://")[0].lower() if "://" in url else ""
        return self._transports.get(scheme, self._fsspec)

    def matches(self, base: str, pattern: str) -> list[tuple[str, Facts]]:
        """The names below `base` that a pattern means, each with what its host tells of it, sorted. `*` does not cross
        a slash, `**` does."""
        return self.persist(f"{base.rstrip('/')}/{pattern}", lambda: self.transport(base).matches(base, pattern))

    def read_all(self, url: str, max_bytes: int) -> bytes:
        """A small file, whole."""
        facts = self.persist(url, lambda: self.transport(url).facts(url))
        content = bytearray()
        for chunk in self.stream(LockedFile("", url, url, facts), read_ahead=False).chunks():
            content += chunk
            if len(content) > max_bytes:
                raise InputTooLarge(url, f"more than {max_bytes:,} bytes")
        return bytes(content)

    def stream(self, file: LockedFile, read_ahead: bool = True) -> "Stream":
        """The file from its first byte to its last, verified at its end; with `read_ahead`, a thread fetches up to
        READ_AHEAD_BYTES before they are asked for."""
        return Stream(self, file, read_ahead and file.is_remote)

    def open(self, file: LockedFile) -> BinaryIO:
        """A seekable file that fetches the ranges that are read. Nothing verifies ranges but the transport."""
        if not file.is_remote:
            return self.persist(file.url, lambda: self._local.open(file.url, file.facts))
        return io.BufferedReader(_Ranged(self, file), buffer_size=4 << 20)

    def stage(self, file: LockedFile, folder: Path) -> "Staged":
        """The whole file on a local disk, its sha256 known and, if locked, equal. A local file stays in place.

        A copy that a killed process left in `folder` is taken over if it still has the sha256 that its name says.

        Raises:
            CorruptInput: STAGE_TRIES whole downloads had the right size and the wrong bytes.
            InputChanged: the host has another file now.
            SourceUnavailable, SourceRefused, AccessDenied: it could not be fetched.
        """
        if not file.is_remote:
            with self.stream(file) as stream:
                stream.drain()
            return Staged(Path(file.url.removeprefix("file://")), stream.sha256, temporary=False)
        folder.mkdir(parents=True, exist_ok=True)
        ours = _Scratch(folder, file)
        if digest := ours.take_over(file.facts.sha256):
            return Staged(ours.copy(digest), digest, temporary=True)
        try:
            digest = self._download(file, ours.part)
            ours.part.replace(ours.copy(digest))
        finally:
            ours.part.unlink(missing_ok=True)
        return Staged(ours.copy(digest), digest, temporary=True)

    def _download(self, file: LockedFile, part: Path) -> str:
        """Right size but wrong bytes are worth a bounded number of whole fetches, then a verdict."""
        for tries_left in reversed(range(STAGE_TRIES)):
            try:
                with self.stream(file, read_ahead=False) as stream, naming(part), part.open("wb") as out:
                    for chunk in stream.chunks():
                        out.write(chunk)
                return stream.sha256
            except CorruptInput:
                if not tries_left:
                    raise
                self._on_retry("wrong bytes", 0.0)
        raise AssertionError("unreachable")

    def persist(self, url: str, verb: Callable[[], T]) -> T:
        """Call `verb` until it does not raise Passing, for at most `retry_seconds` in all.

        Raises:
            SourceUnavailable: it did to the end, or there is no such file.
            AccessDenied: a local file may not be read.
        """
        attempts = Retrying(
            retry=retry_if_exception_type(Passing),
            wait=self._wait,
            stop=_Stop(self._retry_seconds),
            retry_error_callback=lambda state: _give_up(url, state),
        )
        try:
            return attempts(verb)
        except NoSuchFile as missing:
            raise SourceUnavailable(url, f"{NO_SUCH_FILE}: it is {missing.what}") from None
        except (FileNotFoundError, NotADirectoryError):
            raise SourceUnavailable(url, NO_SUCH_FILE) from None
        except PermissionError as error:
            raise AccessDenied(f"{url}: not allowed to read it ({error.strerror or error})") from None
        except OSError as error:
            raise SourceUnavailable(url, error.strerror or type(error).__name__) from None

    def _wait(self, state: RetryCallState) -> float:
        fault = _fault(state)
        # Full jitter; on top of what the host asks for, so that not all workers come back in that second.
        seconds = wait_random_exponential(multiplier=0.25, max=30)(state)
        if fault.wait_seconds is not None:
            seconds += fault.wait_seconds
        self._on_retry(fault.cause, seconds)
        return seconds


class _Stop:
    """When to give up: after two refusals in a row, or when the next try would come after `retry_seconds`."""

    def __init__(self, retry_seconds: float) -> None:
        self._retry_seconds, self._refusals = retry_seconds, 0

    def __call__(self, state: RetryCallState) -> bool:
        fault = _fault(state)
        self._refusals = self._refusals + 1 if fault.cause.startswith(("status 403", "status 404")) else 0
        if self._refusals:
            return self._refusals >= _PERMANENT_AFTER
        return (state.seconds_since_start or 0.0) + (fault.wait_seconds or 0.0) >= self._retry_seconds


def _fault(state: RetryCallState) -> Passing:
    assert state.outcome is not None
    fault = state.outcome.exception()
    assert isinstance(fault, Passing)
    return fault


def _give_up(url: str, state: RetryCallState) -> Any:
    fault = _fault(state)
    if fault.verdict is not None:
        raise fault.verdict
    asked = f", it asks to wait {fault.wait_seconds:,.0f} s" if fault.wait_seconds else ""
    raise SourceUnavailable(url, f"{fault.cause}, {state.attempt_number} tries{asked}")


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Scratch:
    """The names in a scratch folder of one version of one file: `<file>.<owner>.part` while it comes, then
    `<file>.<owner>.<sha256>`. Each owner, a thread of a process, touches only its own and those of the dead."""

    def __init__(self, folder: Path, file: LockedFile) -> None:
        version = f"{file.url} {file.facts.size_bytes} {file.facts.etag or file.facts.sha256}"
        self._folder, self._file = folder, hashlib.sha256(version.encode()).hexdigest()[:24]
        self._size = file.facts.size_bytes
        self._owner = f"{os.getpid()}-{threading.get_ident()}"
        self.part = self.copy("part")

    def copy(self, digest: str) -> Path:
        return self._folder / f"{self._file}.{self._owner}.{digest}"

    def take_over(self, locked: str | None) -> str | None:
        """The sha256 of a whole copy that a dead owner left, now ours; whatever else the dead left is removed."""
        for left in self._folder.glob(f"{self._file}.*.*"):
            _, owner, digest = left.name.split(".")
            if _is_alive(int(owner.partition("-")[0])):
                continue
            with contextlib.suppress(FileNotFoundError):  # another was quicker
                mine = left.replace(self.copy(digest))
                is_whole = self._size in (None, mine.lstat().st_size) and locked in (None, digest)
                if digest != "part" and is_whole and _sha256_of(mine) == digest:
                    return digest
                mine.unlink()
        return None


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


class Staged:
    """A verified whole file on a local disk. A context manager that removes what was fetched for us."""

    def __init__(self, path: Path, sha256: str, temporary: bool) -> None:
        self.path, self.sha256, self._temporary = path, sha256, temporary

    def __enter__(self) -> "Staged":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._temporary:
            self.path.unlink(missing_ok=True)


class Stream:
    """A locked file from its first byte to its last, hashed on the way, verified at its end.

    `sha256` is valid once `chunks` has ended. A context manager: leaving it stops the read-ahead.
    """

    def __init__(self, fetcher: Fetcher, file: LockedFile, read_ahead: bool) -> None:
        self.file = file
        self.bytes_read = 0
        self.complete = False
        self._fetcher = fetcher
        self._hash = hashlib.sha256()
        self._ahead = _ReadAhead(self._arrivals()) if read_ahead else None

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._ahead:
            self._ahead.stop()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def chunks(self) -> Iterator[bytes]:
        """The bytes in order, once, and the verdict at their end.

        Raises:
            CorruptInput: all bytes came, and their sha256 is not the locked one.
            InputChanged: the host has another file now.
            SourceUnavailable, SourceRefused, AccessDenied: it could not be fetched.
        """
        for chunk in self._ahead or self._arrivals():
            self._hash.update(chunk)
            self.bytes_read += len(chunk)
            yield chunk
        self._verify()
        self.complete = True

    def read(self) -> bytes:
        return b"".join(self.chunks())

    def drain(self) -> None:
        """Read to the end for the sha256 alone."""
        for _ in self.chunks():
            pass

    def _arrivals(self) -> Iterator[bytes]:
        """Chunks in order, reopened after every fault that may pass: at the byte that was reached, or, where nothing
        says that the rest is of the same file, at the first, and then all that came before must be the same again."""
        transport, file = self._fetcher.transport(self.file.url), self.file
        can_go_on = bool(file.facts.sha256) or is_strong(file.facts.etag) or file.url.startswith("hf://")
        before = hashlib.sha256()
        position = 0
        body: Iterator[bytes] | None = None

        def pull() -> bytes:
            nonlocal body
            if body is None and can_go_on:
                body = transport.read(file.url, file.facts, position)
            elif body is None:
                body = _same_again(transport.read(file.url, file.facts, 0), position, before.digest(), file.url)
            try:
                chunk = next(body, b"")
            except Passing:
                body = None
                raise
            if not chunk and file.facts.size_bytes is not None and position < file.facts.size_bytes:
                body = None
                raise Passing("ended early")
            return chunk

        while chunk := self._fetcher.persist(file.url, pull):
            position += len(chunk)
            if not can_go_on:
                before.update(chunk)
            yield chunk

    def _verify(self) -> None:
        facts, url = self.file.facts, self.file.url
        if facts.size_bytes is not None and self.bytes_read != facts.size_bytes:
            raise InputChanged(url, "size", facts.size_bytes, self.bytes_read)
        if facts.sha256 is not None and self.sha256 != facts.sha256:
            raise CorruptInput(url, f"sha256 is {self.sha256}, the lock says {facts.sha256}")


def _same_again(body: Iterator[bytes], size_bytes: int, sha256: bytes, url: str) -> Iterator[bytes]:
    """What follows the first `size_bytes` of a body, once these are proven to be the ones that came before."""
    again, left = hashlib.sha256(), size_bytes
    for chunk in body:
        head, rest = chunk[:left], chunk[left:]
        if left:
            again.update(head)
            left -= len(head)
            if not left and again.digest() != sha256:
                raise InputChanged(url, f"sha256 of the first {size_bytes:,} bytes", sha256.hex(), again.hexdigest())
        if rest:
            yield rest
    if left:
        raise Passing("ended early")


class _ReadAhead:
    """Runs an iterator of chunks in a thread, at most READ_AHEAD_BYTES ahead, so that the network works while
    the tokenizer does. What the iterator raises is raised here."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(READ_AHEAD_BYTES // (1 << 20))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(chunks,), daemon=True, name="read-ahead")
        self._thread.start()

    def _run(self, chunks: Iterator[bytes]) -> None:
        try:
            for chunk in chunks:
                self._give(chunk)
                if self._stopped.is_set():
                    return
            self._give(None)
        except BaseException as error:  # noqa: BLE001 - carried to the reader's thread, whatever it is
            self._give(error)

    def _give(self, item: bytes | BaseException | None) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.2)
                return

    def __iter__(self) -> Iterator[bytes]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def stop(self) -> None:
        self._stopped.set()


class _Ranged(io.RawIOBase):
    """A locked remote file, read at random."""

    def __init__(self, fetcher: Fetcher, file: LockedFile) -> None:
        if file.facts.size_bytes is None:
            raise SourceRefused(file.url, "the host does not tell its size, so it cannot be read at random")
        self._fetcher, self._file, self._size = fetcher, file, file.facts.size_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._size, self._position + len(buffer))
        if end <= self._position:
            return 0
        transport, url, facts = self._fetcher.transport(self._file.url), self._file.url, self._file.facts

        def pull() -> bytes:
            data = b"".join(transport.read(url, facts, self._position, end))
            if len(data) != end - self._position:
                raise Passing("ended early")
            return data

        data = self._fetcher.persist(url, pull)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
