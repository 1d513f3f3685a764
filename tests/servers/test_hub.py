"""Hub and file host behave to the real clients as the real ones do, and a fault does what its name says."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests

from .faults import (
    FOREVER,
    Action,
    EndEarly,
    Fault,
    FlipBit,
    IgnoreRange,
    Replace,
    Reset,
    Stall,
    Status,
    Truncate,
)
from .hub import HubServer

REPO = "acme/mini"
PLAIN = gzip.compress(b"".join(b'{"text": "line %d"}\n' % line for line in range(300)), mtime=0)
MISSING_COMMIT = "0" * 40


@pytest.fixture
def root(tmp_path: Path) -> Path:
    data = tmp_path / "root/datasets" / REPO / "data"
    data.mkdir(parents=True)
    for name, rows in (("a", 3), ("b", 4)):
        pq.write_table(pa.table({"text": [f"{name}{row}" for row in range(rows)]}), data / f"{name}.parquet")
    (data.parent / "README.md").write_text("# mini\n")
    plain = tmp_path / "root/files/dolma/books-0000.json.gz"
    plain.parent.mkdir(parents=True)
    plain.write_bytes(PLAIN)
    return tmp_path / "root"


@pytest.fixture
def hub(root: Path) -> Iterator[HubServer]:
    with HubServer(root) as server:
        yield server


def client(hub: HubServer, home: Path, script: str, **env: str) -> Any:
    """Runs the script in a new Python that takes `hub` for the hub; returns the JSON it prints last."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    run = subprocess.run(
        [sys.executable, "-c", script], env=clean | hub.env(home) | env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def plain(hub: HubServer, **headers: str) -> requests.Response:
    return requests.get(f"{hub.url}/files/dolma/books-0000.json.gz", headers=headers, timeout=10)


# -- the real clients --


def test_huggingface_hub_lists_describes_and_downloads_at_a_commit(hub: HubServer, tmp_path: Path) -> None:
    hub.page_size = 2
    hub.faults.append(Fault("^GET /lfs/.*a.parquet", EndEarly(300)))
    hub.faults.append(Fault("^GET .*/tree/", Status(429, ratelimit_seconds=0)))
    said = client(
        hub,
        tmp_path,
        """
import hashlib, json
import pyarrow.parquet as pq
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError, RepositoryNotFoundError
api, repo = HfApi(), "acme/mini"
info = api.dataset_info(repo, files_metadata=True)
tree = list(api.list_repo_tree(repo, repo_type="dataset", revision=info.sha, recursive=True))
paths = api.get_paths_info(repo, ["data/b.parquet"], repo_type="dataset", revision=info.sha)
path = hf_hub_download(repo, "data/a.parquet", repo_type="dataset", revision=info.sha)
fs = HfFileSystem()
def error(call):
    try:
        call()
    except (EntryNotFoundError, RevisionNotFoundError, RepositoryNotFoundError) as refused:
        return type(refused).__name__
print(json.dumps({
    "commit": info.sha,
    "lfs": {s.rfilename: s.lfs and s.lfs.sha256 for s in info.siblings},
    "tree": [entry.path for entry in tree],
    "tree_lfs": [entry.lfs.sha256 for entry in paths],
    "downloaded": hashlib.sha256(open(path, "rb").read()).hexdigest(),
    "glob": fs.glob(f"datasets/{repo}@{info.sha}/data/*.parquet"),
    "rows": pq.ParquetFile(f"datasets/{repo}/data/b.parquet", filesystem=fs).read(use_threads=False).num_rows,
    "errors": [
        error(lambda: hf_hub_download(repo, "nothing.txt", repo_type="dataset")),
        error(lambda: hf_hub_download(repo, "README.md", repo_type="dataset", revision="0" * 40)),
        error(lambda: api.dataset_info("acme/nothing")),
    ],
}))
""",
        HF_TOKEN="hf_secret",
    )
    data = hub.root / "datasets" / REPO / "data"
    assert said == {
        "commit": hub.commit(REPO),
        "lfs": {
            "README.md": None,
            "data/a.parquet": sha256(data / "a.parquet"),
            "data/b.parquet": sha256(data / "b.parquet"),
        },
        "tree": ["README.md", "data", "data/a.parquet", "data/b.parquet"],
        "tree_lfs": [sha256(data / "b.parquet")],
        "downloaded": sha256(data / "a.parquet"),
        "glob": [f"datasets/{REPO}@{hub.commit(REPO)}/data/{name}.parquet" for name in "ab"],
        "rows": 4,
        "errors": ["RemoteEntryNotFoundError", "RevisionNotFoundError", "RepositoryNotFoundError"],
    }
    assert hub.faults == []
    assert sum(line.path.startswith("/lfs/") and line.path.endswith("a.parquet") for line in hub.requests) == 2
    assert any(line.path.startswith("/datasets/") and line.authorized for line in hub.requests)
    assert hub.leaks == []


def test_datasets_streams_the_repo(hub: HubServer, tmp_path: Path) -> None:
    script = """
import json
from datasets import load_dataset
print(json.dumps([row["text"] for row in load_dataset("acme/mini", split="train", streaming=True)]))
"""
    assert client(hub, tmp_path, script) == ["a0", "a1", "a2", "b0", "b1", "b2", "b3"]


# -- the hub --


def test_resolve_tells_sha256_and_commit_and_redirects_to_another_origin(hub: HubServer) -> None:
    head = requests.head(f"{hub.url}/datasets/{REPO}/resolve/main/data/a.parquet", timeout=10)
    local = hub.root / "datasets" / REPO / "data/a.parquet"
    assert head.status_code == 302
    assert head.headers["X-Repo-Commit"] == hub.commit(REPO)
    assert head.headers["X-Linked-Etag"] == f'"{sha256(local)}"'
    assert head.headers["X-Linked-Size"] == str(local.stat().st_size)
    assert head.headers["Location"].startswith(hub.cdn_url)


def test_a_signed_url_expires(hub: HubServer) -> None:
    hub.signed_url_seconds = 0.3
    url = f"{hub.url}/datasets/{REPO}/resolve/main/data/a.parquet"
    signed = requests.head(url, timeout=10).headers["Location"]
    assert requests.get(signed, timeout=10).status_code == 200
    time.sleep(0.4)
    assert requests.get(signed, timeout=10).status_code == 403
    assert requests.get(signed.replace("Signature=", "Signature=0"), timeout=10).status_code == 403
    assert requests.get(url, timeout=10).status_code == 200


def test_a_token_sent_to_the_cdn_is_noticed(hub: HubServer) -> None:
    url = f"{hub.url}/datasets/{REPO}/resolve/main/data/a.parquet"
    token = {"Authorization": "Bearer hf_secret"}
    requests.get(url, headers=token, timeout=10)
    assert hub.leaks == []
    requests.get(requests.head(url, timeout=10).headers["Location"], headers=token, timeout=10)
    assert len(hub.leaks) == 1


def test_a_push_moves_main_and_leaves_the_old_commit_readable(hub: HubServer) -> None:
    readme = hub.root / "datasets" / REPO / "README.md"
    old = hub.commit(REPO)
    readme.write_text("# changed\n")
    assert hub.commit(REPO) == old
    assert hub.push(REPO) != old
    texts = [
        requests.get(f"{hub.url}/datasets/{REPO}/resolve/{revision}/README.md", timeout=10).text
        for revision in (old, "main")
    ]
    assert texts == ["# mini\n", "# changed\n"]


def test_a_gated_repo_wants_its_token(hub: HubServer) -> None:
    hub.gated = {REPO: "hf_right"}
    answers = [
        requests.get(f"{hub.url}/datasets/{REPO}/resolve/main/README.md", headers=headers, timeout=10)
        for headers in ({}, {"Authorization": "Bearer hf_wrong"}, {"Authorization": "Bearer hf_right"})
    ]
    assert [answer.status_code for answer in answers] == [401, 403, 200]
    assert answers[0].headers["X-Error-Code"] == "GatedRepo"


# -- the plain host --


def test_the_plain_host_serves_ranges_and_conditions_and_no_listing(hub: HubServer) -> None:
    whole = plain(hub)
    etag = whole.headers["ETag"]
    assert (whole.content, whole.headers["Accept-Ranges"]) == (PLAIN, "bytes")
    assert plain(hub, Range="bytes=2-5").content == PLAIN[2:6]
    assert plain(hub, Range="bytes=-7").content == PLAIN[-7:]
    resumed = plain(hub, Range="bytes=10-", **{"If-Range": etag})
    assert (resumed.status_code, resumed.content) == (206, PLAIN[10:])
    assert resumed.headers["Content-Range"] == f"bytes 10-{len(PLAIN) - 1}/{len(PLAIN)}"
    assert plain(hub, Range="bytes=10-", **{"If-Range": '"old"'}).status_code == 200
    assert plain(hub, **{"If-Match": '"old"'}).status_code == 412
    assert plain(hub, Range=f"bytes={len(PLAIN)}-").status_code == 416
    assert requests.head(f"{hub.url}/files/dolma/books-0000.json.gz", timeout=10).headers["ETag"] == etag
    assert requests.get(f"{hub.url}/files/dolma/", timeout=10).status_code == 404
    assert hub.requests[3].if_range == etag


# -- faults --


def test_a_status_says_how_long_to_wait(hub: HubServer) -> None:
    hub.faults.append(Fault("books", Status(429, retry_after_seconds=7, ratelimit_seconds=55), times=2))
    answers = [plain(hub) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "7"
    assert answers[0].headers["RateLimit"] == '"resolver";r=0;t=55'


@pytest.mark.parametrize("action", [Reset(), Reset(100), EndEarly(100)])
def test_a_connection_that_breaks_is_an_error_to_the_client(hub: HubServer, action: Action) -> None:
    hub.faults.append(Fault("books", action))
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        plain(hub)
    assert plain(hub).content == PLAIN


def test_an_early_end_delivers_exactly_the_bytes_before_it(hub: HubServer) -> None:
    hub.faults.append(Fault("books", EndEarly(40)))
    url = f"{hub.url}/files/dolma/books-0000.json.gz"
    with requests.get(url, stream=True, timeout=10) as answer:
        assert answer.headers["Content-Length"] == str(len(PLAIN))
        assert answer.raw.read(40, decode_content=False) == PLAIN[:40]


def test_a_consistent_truncation_is_no_error_to_the_client(hub: HubServer) -> None:
    hub.faults.append(Fault("books", Truncate(40), times=2))
    assert plain(hub).content == PLAIN[:40]
    part = plain(hub, Range="bytes=10-")
    assert (part.content, part.headers["Content-Range"]) == (PLAIN[10:50], f"bytes 10-49/{len(PLAIN)}")


def test_a_flipped_bit_is_the_same_byte_in_every_range(hub: HubServer) -> None:
    hub.faults.append(Fault("books", FlipBit(20), times=3))
    assert [at for at, byte in enumerate(plain(hub).content) if byte != PLAIN[at]] == [20]
    assert plain(hub, Range="bytes=20-20").content == bytes([PLAIN[20] ^ 1])
    assert plain(hub, Range="bytes=21-30").content == PLAIN[21:31]


@pytest.mark.parametrize("after_bytes", [None, 0, 100])
def test_a_stall_delays_and_then_goes_on(hub: HubServer, after_bytes: int | None) -> None:
    hub.faults.append(Fault("books", Stall(0.3, after_bytes)))
    start = time.monotonic()
    assert plain(hub).content == PLAIN
    assert time.monotonic() - start >= 0.3


def test_upstream_changes_between_two_requests(hub: HubServer) -> None:
    hub.faults.append(Fault("books|a.parquet", Replace(b"new content"), times=FOREVER, skip=1))
    etag = plain(hub).headers["ETag"]
    changed = plain(hub, Range="bytes=4-", **{"If-Range": etag})
    assert (changed.status_code, changed.content) == (200, b"new content")
    linked = requests.get(f"{hub.url}/datasets/{REPO}/resolve/main/data/a.parquet", timeout=10)
    assert linked.content == b"new content"
    assert linked.history[0].headers["X-Linked-Etag"] == f'"{hashlib.sha256(b"new content").hexdigest()}"'


def test_a_range_can_be_refused(hub: HubServer) -> None:
    hub.faults.append(Fault("books", IgnoreRange()))
    answer = plain(hub, Range="bytes=10-19")
    assert (answer.status_code, answer.content) == (200, PLAIN)


def test_a_plan_counts_right_under_parallel_requests(hub: HubServer) -> None:
    hub.faults.append(Fault("^GET .*books", Status(503), times=5, skip=3))
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(plain(hub).status_code)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (statuses.count(503), statuses.count(200), list(hub.faults)) == (5, 11, [])


def test_a_seed_chooses_which_requests_fail(root: Path) -> None:
    runs = []
    for _ in range(2):
        with HubServer(root, seed=4) as hub:
            hub.faults.append(Fault("books", Status(503), times=FOREVER, probability=0.5))
            runs.append([plain(hub).status_code for _ in range(12)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 503}


def test_more_requests_than_the_rate_limit_are_told_to_wait(root: Path) -> None:
    with HubServer(root, rate_limit=3) as hub:
        answers = [plain(hub) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[3].headers["Retry-After"] == "1"
        time.sleep(1.1)
        assert plain(hub).status_code == 200


def test_nothing_answers_after_the_end(hub: HubServer) -> None:
    with requests.Session() as session:
        session.get(f"{hub.url}/files/dolma/books-0000.json.gz", timeout=10)
        hub.__exit__(None, None, None)
        with pytest.raises(requests.ConnectionError):
            session.get(f"{hub.url}/files/dolma/books-0000.json.gz", timeout=10)


@pytest.mark.parametrize("status", [301, 307, 308])
def test_huggingface_hub_follows_the_redirects_of_today(status: int, hub: HubServer, tmp_path: Path) -> None:
    """Of regular files, of renamed repositories, in datasets and models alike."""
    tokenizer = hub.root / "models/acme/tok/tokenizer.json"
    tokenizer.parent.mkdir(parents=True)
    tokenizer.write_text('{"version": "1.0"}' * 30)
    hub.renamed, hub.redirect_status = {"old/mini": REPO, "old/tok": "acme/tok"}, status
    said = client(
        hub,
        tmp_path,
        """
import hashlib, json
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
def facts(repo, path, kind):
    told = get_hf_file_metadata(hf_hub_url(repo, path, repo_type=kind))
    return [told.size, told.etag, told.commit_hash]
def digest(repo, path, kind):
    return hashlib.sha256(open(hf_hub_download(repo, path, repo_type=kind), "rb").read()).hexdigest()
files = [("acme/tok", "tokenizer.json", None), ("old/tok", "tokenizer.json", None),
         ("old/mini", "README.md", "dataset"), ("old/mini", "data/a.parquet", "dataset")]
print(json.dumps([
    [facts(*file) for file in files], [digest(*file) for file in files],
    HfApi().repo_info("old/mini", repo_type="dataset").sha,
    [entry.path for entry in HfApi().list_repo_tree("old/tok")],
]))
""",
    )
    repo = hub.root / "datasets" / REPO
    files = [tokenizer, tokenizer, repo / "README.md", repo / "data/a.parquet"]
    facts, digests, commit, tree = said
    assert [size for size, _, _ in facts] == [path.stat().st_size for path in files]
    assert digests == [sha256(path) for path in files]
    assert (commit, tree) == (hub.commit(REPO), ["tokenizer.json"])


def test_the_redirect_of_a_regular_file_is_relative_and_tells_no_size_of_it(hub: HubServer) -> None:
    told = requests.head(f"{hub.url}/datasets/{REPO}/resolve/main/README.md", allow_redirects=False, timeout=10)
    size = (hub.root / "datasets" / REPO / "README.md").stat().st_size
    assert told.status_code == 307
    assert told.headers["Location"].startswith(f"/api/resolve-cache/datasets/{REPO}/{hub.commit(REPO)}/README.md?")
    assert "X-Linked-Size" not in told.headers
    assert 200 < int(told.headers["Content-Length"]) != size
