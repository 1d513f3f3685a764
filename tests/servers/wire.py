"""HTTP/1.1 on loopback: a function answers every request, and its answer is sent whole or as a fault wants.

Nothing answers once the `with` block is left: open connections are cut, stalled answers are woken.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

from .faults import Action, EndEarly, FlipBit, IgnoreRange, Reset, Stall, Truncate

RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 seconds


@dataclass(frozen=True)
class Answer:
    """What to send. `start` is the offset of the body in its file, when the body is a range of one."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    start: int = 0


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: LoopbackServer

    def handle(self) -> None:
        with suppress(ConnectionError):  # clients may hang up whenever they like
            super().handle()

    def answer(self) -> None:
        self.server.respond(self)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Servers keep their own log."""

    def read_body(self) -> bytes:
        """The request body as it came: chunked framing is kept, so that it can be forwarded unchanged."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        raw, size = bytearray(), -1
        while size != 0:
            head = self.rfile.readline()
            size = int(head.split(b";")[0], 16)
            raw += head + (self.rfile.read(size + 2) if size else b"")
        while raw[-4:] != b"\r\n\r\n":  # trailers
            raw += self.rfile.readline()
        return bytes(raw)

    def stall(self, seconds: float) -> None:
        self.server.closing.wait(seconds)

    def hang_up(self, reset: bool = False) -> None:
        """Ends the connection: in good order, or at once by RST (what the kernel still holds is lost)."""
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
            socket.close(self.connection.detach())

    def send(self, answer: Answer, action: Action | None = None) -> None:
        body, headers = answer.body, dict(answer.headers)
        if isinstance(action, Truncate):
            body = body[: action.to_bytes]
            if "Content-Range" in headers:
                size = headers["Content-Range"].split("/")[1]
                headers["Content-Range"] = f"bytes {answer.start}-{answer.start + len(body) - 1}/{size}"
        elif isinstance(action, FlipBit) and 0 <= action.offset - answer.start < len(body):
            at = action.offset - answer.start
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]

        self.send_response(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return

        cut = len(body)
        if isinstance(action, Reset | EndEarly | Stall) and action.after_bytes is not None:
            cut = action.after_bytes
        self.wfile.write(body[:cut])
        if isinstance(action, Reset | EndEarly):
            self.hang_up(reset=isinstance(action, Reset))
        elif isinstance(action, Stall) and action.after_bytes is not None:
            self.stall(action.seconds)
            self.wfile.write(body[cut:])


def unchunked(raw: bytes) -> bytes:
    """The content of a body that came in chunks, as `read_body` keeps it."""
    content, rest = bytearray(), raw
    while rest:
        head, _, rest = rest.partition(b"\r\n")
        size = int(head.split(b";")[0], 16)
        if not size:
            break
        content += rest[:size]
        rest = rest[size + 2 :]
    return bytes(content)


def conditional(whole: Answer, request: Message, action: Action | None = None) -> Answer:
    """The part of a file that If-Match, Range and If-Range ask for; `whole` carries its ETag."""
    etag, size = whole.headers["ETag"], len(whole.body)
    if request.get("If-Match", etag) not in (etag, "*"):
        return Answer(412, {"ETag": etag})
    whole = replace(whole, headers={**whole.headers, "Accept-Ranges": "bytes"})
    unit, _, span = request.get("Range", "").partition("=")
    first, dash, last = span.partition("-")
    if (
        isinstance(action, IgnoreRange)
        or request.get("If-Range", etag) != etag
        or unit != "bytes"
        or not dash
        or not (first + last).isdigit()
    ):
        return whole
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last) + 1, size) if first and last else size
    if start >= stop:
        return Answer(416, {"Content-Range": f"bytes */{size}"})
    headers = {**whole.headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    return Answer(206, headers, whole.body[start:stop], start)


class LoopbackServer(ThreadingHTTPServer):
    """Answers on a free port of 127.0.0.1 from entering to leaving the `with` block."""

    daemon_threads = True
    request_queue_size = 128  # the default of 5 makes parallel clients wait a second for a SYN resend

    def __init__(self, respond: Callable[[Exchange], None]) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.respond = respond
        self.closing = threading.Event()
        self._connections: WeakSet[socket.socket] = WeakSet()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
