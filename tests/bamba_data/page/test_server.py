"""The server of a page: every document and a search, for whoever has the token, under its own name, read-only."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from bamba_data.derive.document_list import read_list
from bamba_data.derive.dropping import drop
from bamba_data.errors import UserError
from bamba_data.format.dataset import open_dataset
from bamba_data.page import browse
from bamba_data.page.browse import Browser
from bamba_data.page.server import Server


@pytest.fixture
def server(tiny: Path) -> Iterator[Server]:
    with Server("<p>the page</p>", Browser(open_dataset(str(tiny)))) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield served
        served.stop()
        thread.join()


def request(
    server: Server, path: str, method: str = "GET", host: str | None = None, token: str | None = None
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or f"127.0.0.1:{server.port}")
    if token is not None:
        connection.putheader("Authorization", f"Bearer {token}")
    connection.endheaders()
    reply = connection.getresponse()
    body, headers = reply.read(), {name.lower(): value for name, value in reply.getheaders()}
    connection.close()
    return reply.status, body, headers


def token_of(server: Server) -> str:
    return urlsplit(server.url).query.removeprefix("token=")


def asked(server: Server, **query: Any) -> dict[str, Any]:
    status, body, _ = request(server, f"/documents?{urlencode(query)}", token=token_of(server))
    assert (status, "error" in json.loads(body)) in [(200, False), (400, True)], body
    return dict(json.loads(body))


def test_the_address_that_is_printed_shows_the_page_and_lets_nobody_frame_or_keep_it(server: Server) -> None:
    place = urlsplit(server.url)
    assert place.hostname == "127.0.0.1"
    status, body, headers = request(server, f"/?{place.query}")
    assert (status, body) == (200, b"<p>the page</p>")
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    assert (headers["cache-control"], headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert "access-control-allow-origin" not in headers
    assert request(server, f"/?{place.query}", "HEAD")[:2] == (200, b"")


@pytest.mark.parametrize("path", ["/", "/?token=", "/?token=wrong", "/documents?source=lines", "/?token=%ff"])
def test_without_the_token_there_is_nothing(server: Server, path: str) -> None:
    assert request(server, path)[0] == 403
    assert request(server, path, token="wrong")[0] == 403


def test_the_token_in_the_address_of_documents_is_none(server: Server) -> None:
    """An address is copied, kept and sent along; a header is not."""
    assert request(server, f"/documents?source=lines&token={token_of(server)}")[0] == 403


@pytest.mark.parametrize("host", ["evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", "evil.example", "[::1"])
def test_a_name_that_was_made_to_lead_here_is_refused(server: Server, host: str) -> None:
    host = host.format(port=server.port)
    assert request(server, f"/?token={token_of(server)}", host=host)[0] == 421


def test_localhost_is_this_server_too(server: Server) -> None:
    assert request(server, f"/?token={token_of(server)}", host=f"localhost:{server.port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_sent(server: Server, method: str) -> None:
    assert request(server, f"/?token={token_of(server)}", method)[0] == 501


def test_paging_gives_every_document_once(server: Server) -> None:
    ids, at = [], 0
    while at is not None:
        reply = asked(server, source="lines", **{"from": at}, limit=10)
        ids += [one["id"] for one in reply["documents"]]
        at = reply["next"]
    assert ids == [f"doc-{n}" for n in range(42)]


def test_one_can_begin_at_any_number(server: Server) -> None:
    reply = asked(server, source="lines", **{"from": 40}, limit=10)
    assert [one["number"] for one in reply["documents"]] == [40, 41] and reply["next"] is None
    assert asked(server, source="lines", **{"from": 10**18 - 1})["documents"] == []


def test_a_search_finds_texts_and_ids_in_bounded_pieces(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = asked(server, source="lines", search="DOC-33")["documents"]
    assert one["id"] == "doc-33"
    word = asked(server, source="lines", **{"from": 7}, limit=1)["documents"][0]["text"][200:230]
    whole = asked(server, source="lines", search=word.upper())
    assert "doc-7" in [found["id"] for found in whole["documents"]] and whole["next"] is None
    monkeypatch.setattr(browse, "MAX_SEARCHED_TOKENS", 300)
    ids, at, pieces, looked_at = [], 0, 0, 0
    while at is not None:
        reply = asked(server, source="lines", **{"from": at}, search=word)
        ids += [found["id"] for found in reply["documents"]]
        at, pieces, looked_at = reply["next"], pieces + 1, looked_at + reply["looked_at"]
    assert ids == [found["id"] for found in whole["documents"]]
    assert pieces > 5 and looked_at == 42


def test_what_was_dropped_is_not_found(tiny_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("doc-3\n")
    drop(str(tiny_copy), read_list(tmp_path / "list.txt"))
    reply = Browser(open_dataset(str(tiny_copy))).answer({"source": "lines", "limit": "100"})
    assert reply["of"] == 41 and "doc-3" not in [one["id"] for one in reply["documents"]]
    assert [one["number"] for one in reply["documents"]] == list(range(41))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({}, "no source ''"),
        ({"source": "../lines"}, "no source"),
        ({"source": "lines", "from": "-1"}, "from is '-1'"),
        ({"source": "lines", "from": "1e3"}, "from is"),
        ({"source": "lines", "from": "9" * 40}, "from is"),
        ({"source": "lines", "limit": "0"}, "limit is 0"),
        ({"source": "lines", "limit": "1000000"}, "limit is 1000000"),
        ({"source": "lines", "search": "x" * 201}, "more than 200"),
        ({"source": "lines", "where": "1"}, "no parameter 'where'"),
    ],
)
def test_what_is_not_understood_is_refused(server: Server, query: dict[str, str], said: str) -> None:
    assert said in asked(server, **query)["error"]


def test_an_address_of_another_machine_is_refused(tiny: Path) -> None:
    with pytest.raises(UserError, match="give an address of this machine"):
        Server("", Browser(open_dataset(str(tiny))), "192.0.2.1")
