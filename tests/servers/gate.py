"""Files over HTTP that a test can hold back: while the gate is closed each is sent up to a point, and no further.

So a build that reads them is in its midst for as long as a test wants, on a quick machine and on a slow one.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from .faults import EndEarly
from .wire import Answer, Exchange, LoopbackServer, conditional


class GatedFiles:
    """The files of `folder` at `url`, in the `with` block. Of those in `held` only the first `open_bytes` are sent, and
    the rest when the gate is opened.

    Our readers of http see a file in pieces of a mebibyte: an `open_bytes` below that shows them nothing.
    """

    def __init__(self, folder: Path, held: set[str], open_bytes: int = 1 << 20) -> None:
        self._folder, self._held, self._open_bytes = folder, held, open_bytes
        self._gate = threading.Event()
        self._server = LoopbackServer(self._respond)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def open(self) -> None:
        self._gate.set()

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)

    def _respond(self, exchange: Exchange) -> None:
        name = unquote(urlsplit(exchange.path).path).removeprefix("/")
        if name not in {path.name for path in self._folder.iterdir()}:
            exchange.send(Answer(404))
            return
        data = (self._folder / name).read_bytes()
        whole = Answer(200, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'}, data)
        answer = conditional(whole, exchange.headers)
        if exchange.command == "HEAD" or name not in self._held or self._gate.is_set():
            exchange.send(answer)
            return
        first = max(0, self._open_bytes - answer.start)
        exchange.send(answer, EndEarly(first))
        while not self._gate.wait(0.1) and not self._server.closing.is_set():
            pass
        exchange.wfile.write(answer.body[first:])
