"""A reverse proxy that loses replies: it stands between an S3 client and the store.

Requests are forwarded byte for byte, the Host header too, so that SigV4 signatures stay valid.
A `LoseReply` is the case that matters most: the write landed and the client cannot know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from http.client import HTTPConnection
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from .faults import FaultPlan, FlipBit, LoseReply, Reset, Stall, Status
from .wire import Answer, Exchange, LoopbackServer

S3_CODES = {500: "InternalError", 503: "SlowDown"}
FRAMING = {"transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Forwarded:
    """One line of the proxy's log: what the store said and what the client heard; None: nothing."""

    method: str
    path: str
    query: str
    store_status: int | None
    client_status: int | None


@dataclass
class FlakyProxy:
    """Answers at `url` in the `with` block. Faults: LoseReply; before forwarding Status, Stall, Reset; FlipBit in the
    body as it is sent, whatever range that is."""

    target_endpoint: str
    seed: int = 0

    requests: list[Forwarded] = field(default_factory=list, init=False)
    faults: FaultPlan = field(init=False)

    def __post_init__(self) -> None:
        self.faults = FaultPlan(seed=self.seed)
        self._server = LoopbackServer(self._respond)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, error, trace)

    def _respond(self, exchange: Exchange) -> None:
        body = exchange.read_body()
        action = self.faults.take(f"{exchange.command} {unquote(urlsplit(exchange.path).path)}")
        if isinstance(action, Stall):
            exchange.stall(action.seconds)
        if isinstance(action, Reset):
            self._log(exchange, None, None)
            exchange.hang_up(reset=True)
        elif isinstance(action, Status):
            self._log(exchange, None, action.status)
            exchange.send(planned(action))
        else:
            flipped = action.offset if isinstance(action, FlipBit) else None
            self._forward(exchange, body, isinstance(action, LoseReply), flipped)

    def _forward(self, exchange: Exchange, body: bytes, lose_reply: bool, flipped: int | None) -> None:
        store = HTTPConnection(urlsplit(self.target_endpoint).netloc)
        try:
            store.putrequest(exchange.command, exchange.path, skip_host=True, skip_accept_encoding=True)
            for name, value in exchange.headers.items():
                store.putheader(name, value)
            store.endheaders(body)
            reply = store.getresponse()
            content = reply.read()
        finally:
            store.close()
        if flipped is not None and flipped < len(content):
            content = content[:flipped] + bytes([content[flipped] ^ 1]) + content[flipped + 1 :]
        self._log(exchange, reply.status, None if lose_reply else reply.status)
        if lose_reply:
            exchange.hang_up()
            return
        exchange.send_response_only(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in FRAMING:
                exchange.send_header(name, value)
        length = reply.headers["Content-Length"] if exchange.command == "HEAD" else str(len(content))
        if length is not None and reply.status not in (204, 304):
            exchange.send_header("Content-Length", length)
        exchange.end_headers()
        exchange.wfile.write(content)

    def _log(self, exchange: Exchange, store_status: int | None, client_status: int | None) -> None:
        url = urlsplit(exchange.path)
        line = Forwarded(exchange.command, unquote(url.path), url.query, store_status, client_status)
        self.requests.append(line)


def planned(status: Status) -> Answer:
    code = status.code or S3_CODES.get(status.status, "Fault")
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>planned fault</Message></Error>"
    return Answer(status.status, {**status.headers(), "Content-Type": "application/xml"}, body.encode())
