"""What a URL tells and gives: local files, plain https, patterns, and what hosts ask us to wait."""

import email.utils
import gzip
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamba_data.errors import InputChanged, SourceRefused, SourceUnavailable, UserError
from bamba_data.storage import transport
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import Facts
from bamba_data.storage.rate_limit import LocalBudget
from bamba_data.storage.transport import Http, LocalFiles, Passing, asked_wait_seconds, check, hub_place, path_matches
from tests.servers.faults import FOREVER, Fault, Status
from tests.servers.hub import HubServer
from tests.servers.wire import Answer, Exchange, LoopbackServer

NAMES = ["a.json.gz", "a-b/x.json.gz", "a/b.json.gz", "a/c.txt", "a/b/c.json.gz", "[x]/y.json.gz"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / name).write_text(name)
    return tmp_path / "files"


@pytest.fixture
def host(tree: Path) -> Iterator[HubServer]:
    with HubServer(tree.parent) as server:
        yield server


@pytest.fixture
def http() -> Http:
    return Http(LocalBudget(1000, 1000))


# -- patterns

PATTERNS = ["*.json.gz", "*/*.json.gz", "a/*", "a/*/*", "**/*.json.gz", "a/**/*.json.gz", "a/[a-c].txt", "?.json.gz"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_the_same_names_on_the_hub_as_on_a_disk(pattern: str, tree: Path) -> None:
    on_disk = [path for path, _ in LocalFiles().matches(os.fspath(tree), pattern)]
    assert on_disk == sorted(name for name in NAMES if path_matches(name, pattern))
    assert on_disk


def test_files_of_a_disk_come_in_the_order_of_their_names_as_on_every_other_store(tree: Path) -> None:
    assert [path for path, _ in LocalFiles().matches(os.fspath(tree), "*/*.json.gz")] == [
        "[x]/y.json.gz",
        "a-b/x.json.gz",
        "a/b.json.gz",
    ]


@pytest.mark.parametrize("pattern", ["/etc/*", "**x/y"])
def test_a_pattern_that_a_disk_cannot_follow_is_refused(pattern: str, tree: Path) -> None:
    with pytest.raises(UserError, match="is no pattern of names below it"):
        Fetcher().matches(os.fspath(tree), pattern)


def test_a_link_that_leads_nowhere_is_not_passed_over(tree: Path) -> None:
    (tree / "z.json.gz").symlink_to(tree / "gone")
    with pytest.raises(SourceUnavailable, match="no such file"):
        Fetcher().matches(os.fspath(tree), "*.json.gz")


@pytest.mark.parametrize("name", ["nope.json.gz", "a", "a/b.json.gz/c"])
def test_what_is_no_file_is_no_such_file(name: str, tree: Path) -> None:
    with pytest.raises(SourceUnavailable, match=f"{name}: .*no such file"):
        Fetcher().matches(os.fspath(tree), name)


def test_a_name_too_long_for_the_disk_is_a_typed_error(tree: Path) -> None:
    with pytest.raises(SourceUnavailable, match="File name too long"):
        Fetcher().matches(os.fspath(tree), "x" * 300)


# -- facts, and whether a file is still the locked one

FACTS = Facts(10, '"etag"', "a" * 64)


@pytest.mark.parametrize(
    ("locked", "found", "field"),
    [
        (FACTS, FACTS, None),
        (FACTS, FACTS._replace(size_bytes=11), "size"),
        (FACTS, FACTS._replace(sha256="b" * 64), "sha256"),
        (FACTS, FACTS._replace(etag='"other"'), None),  # the sha256 says that it is the same
        (FACTS._replace(sha256=None), FACTS._replace(etag='"other"'), "etag"),
        (FACTS, Facts(10, '"other"', None), "etag"),
        (FACTS, Facts(None, None, None), None),
        (Facts(None, None, None), FACTS, None),
    ],
)
def test_a_file_is_the_locked_one_if_all_that_both_sides_know_agrees(
    locked: Facts, found: Facts, field: str | None
) -> None:
    if field is None:
        check("url", locked, found)
        return
    with pytest.raises(InputChanged) as caught:
        check("url", locked, found)
    assert caught.value.field == field


def test_a_changed_file_is_named_with_both_sides_and_the_way_out() -> None:
    with pytest.raises(InputChanged, match=r"url: size is 11, the lock says 10: .* --relock"):
        check("url", FACTS, FACTS._replace(size_bytes=11))


def test_a_plain_host_tells_size_and_etag_in_one_request_a_file(host: HubServer, http: Http) -> None:
    facts = http.facts(f"{host.url}/files/a.json.gz")
    assert (facts.size_bytes, bool(facts.etag), facts.sha256) == (9, True, None)
    http.facts(f"{host.url}/files/a/c.txt")
    assert [(line.method, line.path, line.range) for line in host.requests] == [
        ("HEAD", "/files/a.json.gz", None),
        ("GET", "/files/a.json.gz", "bytes=0-0"),  # once a host: whether GET says what HEAD says
        ("HEAD", "/files/a/c.txt", None),
    ]


def test_a_plain_host_cannot_list_so_a_pattern_is_refused_with_the_reason(host: HubServer, http: Http) -> None:
    with pytest.raises(UserError, match="plain https cannot list files"):
        http.matches(f"{host.url}/files", "*.json.gz")


def test_a_range_is_exactly_the_bytes_asked_for(host: HubServer, http: Http) -> None:
    url = f"{host.url}/files/a/b/c.json.gz"
    assert b"".join(http.read(url, http.facts(url), 2, 7)) == b"a/b/c.json.gz"[2:7]


def test_a_host_that_compresses_on_the_way_is_asked_not_to(http: Http) -> None:
    """Otherwise its size and ETag would be those of another body."""
    text = b"the same line again and again\n" * 100

    def respond(exchange: Exchange) -> None:
        if "gzip" in (exchange.headers["Accept-Encoding"] or ""):
            exchange.send(Answer(200, {"Content-Encoding": "gzip", "ETag": 'W/"z"'}, gzip.compress(text)))
        else:
            exchange.send(Answer(200, {"ETag": '"plain"'}, text))

    with LoopbackServer(respond) as server:
        url = f"http://127.0.0.1:{server.server_port}/x.jsonl"
        facts = http.facts(url)
        assert (facts.size_bytes, b"".join(http.read(url, facts, 0))) == (len(text), text)


def test_another_range_than_asked_for_is_not_taken_for_it(http: Http) -> None:
    def respond(exchange: Exchange) -> None:
        exchange.send(Answer(206, {"Content-Range": "bytes 0-9/20", "ETag": '"e"'}, b"0123456789"))

    with LoopbackServer(respond) as server, pytest.raises(Passing, match="another range"):
        url = f"http://127.0.0.1:{server.server_port}/x"
        list(http.read(url, Facts(20, '"e"'), 10, 20))


# -- what a host asks us to wait


class Told:
    def __init__(self, **headers: str) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def test_retry_after_may_be_seconds_or_a_date() -> None:
    date = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert asked_wait_seconds(Told(Retry_After="7")) == 7
    assert asked_wait_seconds(Told(Retry_After=date)) == pytest.approx(60, abs=2)
    assert asked_wait_seconds(Told(Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")) == 0


def test_the_hub_says_it_in_ratelimit() -> None:
    assert asked_wait_seconds(Told(RateLimit='"resolver";r=0;t=55')) == 55


def test_a_host_that_says_nothing_leaves_it_to_us() -> None:
    assert asked_wait_seconds(Told()) is None


@given(header=st.sampled_from(["Retry_After", "RateLimit"]), value=st.text(st.characters(max_codepoint=255)))
def test_whatever_a_host_writes_the_wait_is_a_bounded_number_or_unknown(header: str, value: str) -> None:
    seconds = asked_wait_seconds(Told(**{header: value}))
    assert seconds is None or 0 <= seconds <= transport.MAX_WAIT_SECONDS


@pytest.mark.parametrize(
    "value", ["9" * 400, "²", "Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 31 Dec 99999 23:59:59 GMT", "-5"]
)
@pytest.mark.parametrize("header", ["Retry_After", "RateLimit"])
def test_no_header_can_make_us_wait_for_ever(header: str, value: str) -> None:
    seconds = asked_wait_seconds(Told(**{header: f"t={value}" if header == "RateLimit" else value}))
    assert seconds is None or 0 <= seconds <= transport.MAX_WAIT_SECONDS


# -- addresses


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("hf://datasets/a/b", ("dataset", "a/b", None, "")),
        ("hf://datasets/a/b@c0ffee/data/x.parquet", ("dataset", "a/b", "c0ffee", "data/x.parquet")),
        ("hf://spaces/a/b", ("space", "a/b", None, "")),
        ("hf://a/b@v1/tokenizer.json", ("model", "a/b", "v1", "tokenizer.json")),
    ],
)
def test_a_hub_address_is_taken_apart(url: str, expected: tuple[str, str, str | None, str]) -> None:
    assert tuple(hub_place(url)) == expected


@pytest.mark.parametrize("url", ["hf://", "hf://datasets", "hf://datasets/a", "hf://datasets//b", "hf://a"])
def test_half_a_hub_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="expected hf://datasets/ORG/NAME"):
        hub_place(url)


@pytest.mark.parametrize("url", ["https://", "http://..", "http://exa mple.com:port", "http://[::1"])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(UserError, match="is no address"):
        Fetcher(retry_seconds=60).matches(url, "x.json.gz")


@pytest.mark.parametrize("url", ["foo://bucket", "gs://bucket"])
def test_a_store_that_nothing_opens_here_is_refused_at_once(url: str) -> None:
    with pytest.raises(UserError, match="cannot open"):
        Fetcher(retry_seconds=60).matches(url, "x.json.gz")


def test_stores_of_other_kinds_are_read_through_fsspec() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("a.json.gz", "b.json.gz", "deep/c.json.gz"):
        memory.pipe(f"/of-tests/{name}", name.encode())
    fetcher = Fetcher(retry_seconds=0)
    found = fetcher.matches("memory://of-tests", "*.json.gz")
    url, facts = f"memory://of-tests/{found[1][0]}", found[1][1]
    assert [path for path, _ in found] == ["a.json.gz", "b.json.gz"]
    assert b"".join(fetcher.transport(url).read(url, facts, 2)) == b"json.gz"


# -- what passes and what does not


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 403, 404])
def test_a_status_that_may_pass_is_passing(status: int, host: HubServer, http: Http) -> None:
    host.faults.append(Fault("a.json.gz", Status(status, retry_after_seconds=0)))
    with pytest.raises(Passing, match=f"status {status}"):
        http.facts(f"{host.url}/files/a.json.gz")


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, UserError, "it needs a token"),
        (400, SourceRefused, "status 400"),
        (410, SourceRefused, "status 410: it is gone for good"),
        (416, InputChanged, "smaller"),
        (451, SourceRefused, "status 451"),
    ],
)
def test_a_status_that_will_not_pass_is_an_error_of_ours(
    status: int, error: type[Exception], message: str, host: HubServer, http: Http
) -> None:
    host.faults.append(Fault("a.json.gz", Status(status), times=FOREVER))
    url = f"{host.url}/files/a.json.gz"
    with pytest.raises(error, match=message):
        list(http.read(url, Facts(9), 0))
