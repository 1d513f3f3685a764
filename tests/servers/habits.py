"""A host of files with the habits of many: each is a switch, and all of them can be set at once.

with HabitHost(folder, head="405", length="chunked", etag="each answer") as host: … f"{host.url}/name" …
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from .wire import Exchange, LoopbackServer

LAST_MODIFIED = "Tue, 03 Nov 2026 10:00:00 GMT"


@dataclass
class HabitHost:
    """Serves `folder`, by literal names. What each switch means:

    head      "as GET"; a status that refuses it; "size 0" or "no size"; "other etag" than GET
    length    of a GET's body: "told"; "chunked", without a length; "hang up", with neither: the end is the end
    etag      "strong", "weak", "none" (then a Last-Modified), "no mark" at all, "each answer" has its own,
              "back ends" take turns with an etag each
    ranges    "bytes"; "ignored": 200 and the whole file; "none": says so, too
    encoding  a Content-Encoding that the object itself has
    signed    every file is behind a redirect to an address that is good once, and for one method
    cut       (name, bytes): bodies of this file end there, with whatever `length` tells; `cuts` times
    """

    folder: Path
    head: str = "as GET"
    length: Literal["told", "chunked", "hang up"] = "told"
    etag: str = "strong"
    ranges: Literal["bytes", "ignored", "none"] = "bytes"
    encoding: str | None = None
    signed: bool = False
    cut: tuple[str, int] | None = None
    cuts: int = 1 << 30
    statuses: dict[str, int] = field(default_factory=dict)

    url: str = field(default="", init=False)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list, init=False)

    @contextmanager
    def running(self) -> Iterator[HabitHost]:
        self._turn, self._good = itertools.count(), set[str]()
        with LoopbackServer(self._respond) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            yield self

    def _respond(self, exchange: Exchange) -> None:
        address = urlsplit(exchange.path)
        name, verb, asked = unquote(address.path).lstrip("/"), exchange.command, exchange.headers["Range"]
        self.requests.append((verb, name, asked))
        path = self.folder / name
        if status := self.statuses.get(name) or (404 if not path.is_file() else None):
            return self._send(exchange, status, {}, b"no")
        if self.signed and not address.query:
            ticket = f"{verb}-{next(self._turn)}"
            self._good.add(ticket)
            return self._send(exchange, 302, {"Location": f"{address.path}?ticket={ticket}"}, b"over there")
        if self.signed and (address.query.removeprefix("ticket=") not in self._good):
            return self._send(exchange, 403, {}, b"expired")
        self._good.discard(address.query.removeprefix("ticket="))
        if verb == "HEAD" and self.head.isdecimal():
            return self._send(exchange, int(self.head), {}, b"")
        return self._file(exchange, name, path.read_bytes(), asked)

    def _file(self, exchange: Exchange, name: str, data: bytes, asked: str | None) -> None:
        headers = self._marks(data, exchange.command)
        if self.encoding:
            headers["Content-Encoding"] = self.encoding
        if self.ranges == "none":
            headers["Accept-Ranges"] = "none"
        status, body, start = 200, data, 0
        if asked and self.ranges == "bytes" and exchange.headers.get("If-Range", "") in ("", *headers.values()):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or len(data)) + 1, len(data))
            if start >= len(data):
                return self._send(exchange, 416, {"Content-Range": f"bytes */{len(data)}"}, b"")
            status, body = 206, data[start:stop]
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        end = len(body)
        is_body = exchange.command == "GET" and asked != "bytes=0-0"
        if is_body and self.cut and self.cut[0] == name and start + len(body) > self.cut[1] and self.cuts > 0:
            self.cuts, end = self.cuts - 1, max(0, self.cut[1] - start)
        return self._send(exchange, status, headers, body, end)

    def _marks(self, data: bytes, verb: str) -> dict[str, str]:
        digest, turn = hashlib.md5(data).hexdigest(), next(self._turn)
        if self.etag == "no mark":
            return {}
        etag = {
            "strong": f'"{digest}"',
            "weak": f'W/"{digest}"',
            "none": "",
            "each answer": f'"{digest}-{turn}"',
            "back ends": f'"{digest}-{turn % 2}"',
        }[self.etag]
        if self.head == "other etag" and verb == "HEAD":
            etag = f'"head-{digest}"'
        return {"Last-Modified": LAST_MODIFIED} | ({"ETag": etag} if etag else {})

    def _send(
        self, exchange: Exchange, status: int, headers: dict[str, str], body: bytes, end: int | None = None
    ) -> None:
        """The body up to `end`, then the connection is closed if it should have been longer."""
        end = len(body) if end is None else end
        is_head, told = exchange.command == "HEAD", self.length if status in (200, 206) else "told"
        exchange.send_response(status)
        for name, value in headers.items():
            exchange.send_header(name, value)
        if is_head and status == 200 and self.head == "size 0":
            exchange.send_header("Content-Length", "0")
        elif is_head and status == 200 and (self.head == "no size" or told != "told"):
            pass
        elif told == "told":
            exchange.send_header("Content-Length", str(len(body)))
        elif told == "chunked":
            exchange.send_header("Transfer-Encoding", "chunked")
        if told == "hang up" or end < len(body):
            exchange.close_connection = True
            exchange.send_header("Connection", "close")
        exchange.end_headers()
        if is_head:
            return
        if told == "chunked":
            for at in range(0, end, 10_000):
                piece = body[at : min(at + 10_000, end)]
                exchange.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            exchange.wfile.write(b"0\r\n\r\n" if end == len(body) else b"")
        else:
            exchange.wfile.write(body[:end])
