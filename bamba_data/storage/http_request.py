"""One request over http(s), followed through its redirects, every answer judged.

Credentials go to the host that was asked, and of the hub to the hub, never to where it redirects to. Each hop takes
its part of the request budget. An answer is a `Reply`; a fault that may pass is `Passing`; one that will not is one
of `errors`, with what the host said.
"""

import contextlib
import email.utils
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import requests

from bamba_data.errors import BambaError, InputChanged, SourceRefused, UserError
from bamba_data.storage.rate_limit import Budget

MAX_REDIRECTS = 10
MAX_WAIT_SECONDS = 3600.0  # whatever a host asks for
RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Hosts have answered so for a while and recovered, and signed addresses expire: worth a second try.
REFUSED_FOR_NOW = frozenset({403, 404})

#: What the hub means by X-Error-Code, as huggingface_hub reads it.
_HUB_CODES = {
    "GatedRepo": "the repository is gated: accept its terms on its page, with the account whose token is in HF_TOKEN",
    "RepoNotFound": "there is no such repository, or it is private and this token may not see it",
    "RevisionNotFound": "the repository has no such revision",
    "EntryNotFound": "there is no such file in the repository at this revision",
}
_DISABLED = "Access to this resource is disabled."
_MEANINGS = {
    400: "the host does not understand the request",
    405: "the host does not give it by GET",
    410: "it is gone for good",
    451: "it is withheld for legal reasons",
}


class Passing(Exception):
    """A fault that may pass: `cause` in a word or two for the counters, and what the host asked us to wait.
    `verdict` is what it means if it does not pass; without one the source is not available now."""

    def __init__(self, cause: str, wait_seconds: float | None = None, verdict: BambaError | None = None) -> None:
        super().__init__(cause, wait_seconds)
        self.cause, self.wait_seconds, self.verdict = cause, wait_seconds, verdict


class Reply(NamedTuple):
    """The last answer, still open, and the headers of all answers on the way to it, its own last."""

    response: requests.Response
    hops: tuple[Mapping[str, str], ...]

    @property
    def is_redirect(self) -> bool:
        return self.response.status_code in _REDIRECTS

    def header(self, name: str) -> str | None:
        """Of the first hop that has it."""
        return next((found for hop in self.hops if (found := hop.get(name))), None)


class Web:
    """A session of one process, under one budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._session = requests.Session()

    def send(
        self,
        verb: str,
        url: str,
        address: str,
        headers: Mapping[str, str],
        *,
        timeout: tuple[float, float],
        token: str | None = None,
        hub: frozenset[str] = frozenset(),
        stay: bool = False,
    ) -> Reply:
        """Ask for `address`, which is what people call `url`. `hub` are the origins of the hub, if it is one: they
        get the `token`. With `stay` a redirect that leaves the hub and tells the size itself is the answer.

        Raises Passing, SourceRefused, UserError or InputChanged.
        """
        first, hops = origin(address), list[Mapping[str, str]]()
        for _ in range(MAX_REDIRECTS):
            here = origin(address)
            sent = {"Accept-Encoding": "identity", **headers}
            if token and here in hub:
                sent["Authorization"] = token
            # Without an `auth` of its own requests puts an entry of ~/.netrc in the place of an Authorization header.
            netrc = None if not hub and here == first else _no_credentials
            response = self._one(verb, url, address, sent, netrc, timeout)
            hops.append(response.headers)
            status = response.status_code
            if status not in _REDIRECTS:
                if status not in (200, 206):
                    self._refuse(url, address, response, bool(token and here in hub), here in hub, len(hops) > 1)
                return Reply(response, tuple(hops))
            address = _target(url, address, self._session.get_redirect_target(response))
            if stay and origin(address) not in hub and any("X-Linked-Size" in hop for hop in hops):
                return Reply(response, tuple(hops))
            response.close()
        raise SourceRefused(url, f"redirects more than {MAX_REDIRECTS} times")

    def _one(
        self, verb: str, url: str, address: str, headers: Mapping[str, str], auth: Any, timeout: tuple[float, float]
    ) -> requests.Response:
        try:
            self._budget.take(urlsplit(address).netloc)
            return self._session.request(
                verb, address, headers=headers, auth=auth, stream=True, allow_redirects=False, timeout=timeout
            )
        except ValueError:  # requests' InvalidURL and InvalidSchema are such, too
            raise UserError(f"{url}: is no address, or redirects to none") from None
        except requests.RequestException as error:
            raise Passing(f"no connection ({type(error).__name__})") from None

    def _refuse(
        self, url: str, address: str, response: requests.Response, with_token: bool, is_hub: bool, behind: bool
    ) -> None:
        """Raise what an answer that is none means."""
        status, told = response.status_code, response.headers
        wait = asked_wait_seconds(response)
        response.close()
        if status in RETRY_STATUS:
            if status in (429, 503):
                self._budget.pause(urlsplit(address).netloc, wait if wait is not None else 1.0)
            raise Passing(f"status {status}", wait)
        if status == 416:
            raise InputChanged(url, "size", "large enough for the range asked", "smaller (status 416)")
        code, message = told.get("X-Error-Code", ""), told.get("X-Error-Message", "")
        if status == 401:
            raise SourceRefused(url, f"status 401: {_unknown_caller(with_token, is_hub)}")
        if message == _DISABLED:
            raise SourceRefused(url, f"status {status}: access to it is disabled")
        if code in _HUB_CODES:
            raise SourceRefused(url, f"status {status}: {_HUB_CODES[code]}")
        if status in REFUSED_FOR_NOW:
            where = f" of {urlsplit(address).hostname}" if behind and not is_hub else ""
            said = message[:200] or "it may not be read with this token, or without one"
            raise Passing(
                f"status {status}{where}",
                verdict=SourceRefused(url, f"status 403: {said}") if is_hub and status == 403 else None,
            )
        raise SourceRefused(url, f"status {status}: {_MEANINGS.get(status, response.reason or 'no such answer')}")


def _target(url: str, address: str, told: str | None) -> str:
    """Where a redirect leads: what it says may be relative to where it was said (the hub does so)."""
    try:
        target = urljoin(address, told or "")
    except ValueError:
        target = ""
    if not told or urlsplit(target).scheme not in ("http", "https"):
        raise UserError(f"{url}: is no address, or redirects to none")
    return target


def _unknown_caller(with_token: bool, is_hub: bool) -> str:
    if with_token:
        return "the token in HF_TOKEN is not accepted: it is wrong, has expired, or is of another hub"
    if is_hub:
        return "it needs a token (HF_TOKEN) or an accepted licence, or there is no such repository"
    return "it needs a token or a password: for a host that is not the hub they come from ~/.netrc"


def _no_credentials(request: Any) -> Any:
    return request


def origin(address: str) -> str:
    """scheme://host:port, in lower case, with the port said."""
    try:
        parts = urlsplit(address)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        return ""
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


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
