"""A page over HTTP on this machine: read-only, for whoever has the address with its token.

Other pages in the same browser can send requests to this machine, and a name of theirs can be made to lead here (DNS
rebinding). So each request must name this server as its Host, and carry the token, which no other page knows; and the
answers allow no other page to frame or read them.
https://developer.mozilla.org/docs/Web/HTTP/Headers/Content-Security-Policy
"""

import hmac
import ipaddress
import secrets
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qsl, urlsplit

from bamba_data.errors import BambaError, UserError

from .browse import Browser
from .file import encoded

SILENT_SECONDS = 60  # a client that sends nothing for so long is let go
MAX_PARAMETERS = 8
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Server:
    """Serves `page`, and the documents that it asks for.

    Args:
        page: HTML.
        browser: Answers questions about documents.
        host: The address to listen at; anything but this machine alone is the caller's choice.
        port: 0 for a free one.

    Attributes:
        url: What to open, with the token.

    Raises:
        UserError: The address is none of this machine, or the port is taken.
    """

    def __init__(self, page: str, browser: Browser, host: str = "127.0.0.1", port: int = 0) -> None:
        self._page, self._browser, self._token = page.encode(), browser, secrets.token_urlsafe(24)
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            server = type("_Listener", (_Listener,), {"address_family": family})
            self._http = server((host, port), _handler(self))
        except (OSError, OverflowError, UnicodeError) as error:
            raise UserError(
                f"--host {host} --port {port}: {error}; give an address of this machine, or --port 0"
            ) from None
        self.port = int(self._http.server_address[1])
        self._names = {_named(host)} | ({"localhost", "127.0.0.1", "[::1]"} if _is_loopback(host) else set())
        if _is_any(host):  # every address of this machine: which one, only the client knows
            self._names = set()
        self.url = f"http://{_named(host)}:{self.port}/?token={self._token}"

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.server_close()

    def serve_forever(self) -> None:
        """Answer until `stop`, or Ctrl-C."""
        self._http.serve_forever()

    def stop(self) -> None:
        """From another thread."""
        self._http.shutdown()

    def is_host(self, said: str | None) -> bool:
        """Whether a request's Host is this server: by name, or by an address where it listens at all of them."""
        name, colon, port = (said or "").rpartition(":")
        if not colon or port != str(self.port):
            return False
        if self._names:
            return name.lower() in self._names
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def is_token(self, said: str) -> bool:
        return hmac.compare_digest(said.encode("utf-8", "replace"), self._token.encode())

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, str, bytes]:
        """Status, type and body."""
        if path == "/":
            return 200, "text/html; charset=utf-8", self._page
        if path != "/documents":
            return _error(404, "there is nothing here")
        try:
            found = self._browser.answer(query)
        except UserError as error:
            return _error(400, str(error))
        except BambaError as error:
            return _error(500, str(error))
        return 200, "application/json", encoded(found).encode()


def _error(status: int, said: str) -> tuple[int, str, bytes]:
    return status, "application/json", encoded({"error": said}).encode()


def _handler(served: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = SILENT_SECONDS
        server_version, sys_version = "bamba-data", ""

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def _answer(self) -> None:
            status, kind, body = self._checked()
            self.send_response(status)
            for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _checked(self) -> tuple[int, str, bytes]:
            hosts = self.headers.get_all("Host") or []
            if len(hosts) != 1 or not served.is_host(hosts[0]):
                return _error(421, "this server is not of that name")
            try:
                asked = urlsplit(self.path)
                query = dict(parse_qsl(asked.query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS))
            except ValueError:
                return _error(400, "the address cannot be read")
            bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if not served.is_token(query.pop("token", "") if asked.path == "/" else bearer):
                return _error(403, "the token is missing or another: open the address that `bamba-data serve` printed")
            return served.answer(asked.path, query)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a log of requests would hold the token."""

    return Handler


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is none of our faults."""


def _named(host: str) -> str:
    return f"[{host.lower()}]" if ":" in host else host.lower()


def _is_loopback(host: str) -> bool:
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
