"""The hub: what a branch means is pinned once, files come at that commit through redirects, and no token leaves it.

huggingface_hub reads HF_ENDPOINT when it is imported: every conversation with the server is a Python of its own.
"""

import gzip
import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.bamba_data.memory import grown
from tests.servers.faults import FOREVER, EndEarly, Fault, FlipBit, Replace, Reset, Stall, Status, Truncate
from tests.servers.hub import HubServer

REPO = "acme/mini"
BASE = f"hf://datasets/{REPO}"
SECRET = "hf_secret_of_these_tests"
BIG = gzip.compress(random.Random(1).randbytes(300_000), 0, mtime=0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    repo = tmp_path / "root/datasets" / REPO
    (repo / "data/deep").mkdir(parents=True)
    for number in range(5):
        (repo / f"data/{number}.json.gz").write_bytes(gzip.compress(b'{"text": "%d"}' % number, mtime=0))
    (repo / "data/deep/5.json.gz").write_bytes(gzip.compress(b'{"text": "5"}', mtime=0))
    (repo / "small.jsonl").write_bytes(b'{"text": "small"}\n')
    (repo / "big.json.gz").write_bytes(BIG)
    texts = [random.Random(n).randbytes(500).hex() for n in range(900)]
    table = pa.table({"text": texts})
    pq.write_table(table, repo / "x.parquet", row_group_size=300, compression="none", use_dictionary=False)
    return tmp_path / "root"


@pytest.fixture
def hub(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    with HubServer(root) as server:
        for name, value in server.env(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_TOKEN", SECRET)
        yield server


PRELUDE = """
from bamba_data.locking import lock
from bamba_data.storage.rate_limit import LocalBudget
from bamba_data.errors import BambaError
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import LockedFile
from bamba_data.recipe import load
retries = []
fetcher = Fetcher(LocalBudget(1000, 1000), 6, lambda cause, seconds: retries.append(cause))
def resolved(base, *files, revision=None):
    corpus = {"corpus": "folder", "name": "mini", "base": base, "form": "jsonl", "files": list(files)}
    if revision:
        corpus["revision"] = revision
    recipe = {"name": "x", "tokenizer": {"url": "t.json"}, "corpora": [corpus]}
    return lock.resolve(load(json.dumps(recipe), "x"), Path("/"), fetcher)
def read(file):
    with fetcher.stream(file) as stream:
        stream.drain()
        return stream.sha256
def tried(verb):
    try:
        return verb()
    except BambaError as error:
        return f"{type(error).__name__}: {error}"
base = "hf://datasets/acme/mini"
"""


def ask(script: str, *arguments: object) -> Any:
    """What the script gave to `answer(...)`."""
    said, _ = grown(PRELUDE + "def answer(value): done(value, 0)\n" + script, *arguments)
    assert SECRET not in repr(said)
    return said


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_branch_becomes_a_commit_and_every_file_its_size_and_sha256(hub: HubServer) -> None:
    said = ask("""
found = resolved(base, "data/*.json.gz", "small.jsonl", revision="main")
answer([found.revisions, [[f.path, f.url, *f.facts] for f in found.files], found.public_url(found.files[0])])
""")
    commit, repo = hub.commit(REPO), hub.root / "datasets" / REPO
    blob = hashlib.sha1(b"blob 18\0" + (repo / "small.jsonl").read_bytes()).hexdigest()
    revisions, files, public_url = said
    assert revisions == {"mini": commit}
    assert [(path, url, size, digest) for path, url, size, _, digest in files] == [
        (path, f"{BASE}@{commit}/{path}", (repo / path).stat().st_size, sha256(repo / path) if "data" in path else None)
        for path in [*(f"data/{number}.json.gz" for number in range(5)), "small.jsonl"]
    ]
    assert files[-1][3] == f'"{blob}"'
    assert public_url == f"{BASE}@{commit}/data/0.json.gz"


def test_a_pattern_is_matched_over_every_page_of_the_tree(hub: HubServer) -> None:
    hub.page_size = 2
    said = ask('answer([file.path for file in resolved(base, "**/*.json.gz").files])')
    assert said == ["big.json.gz", *(f"data/{n}.json.gz" for n in range(5)), "data/deep/5.json.gz"]
    assert any("cursor=" in line.query for line in hub.requests)


def test_files_come_whole_through_redirects_and_no_token_goes_to_the_cdn(hub: HubServer) -> None:
    said = ask("""
found = resolved(base, "big.json.gz", "small.jsonl", "x.parquet")
answer({file.path: read(file) for file in found.files})
""")
    repo = hub.root / "datasets" / REPO
    assert said == {path: sha256(repo / path) for path in ("big.json.gz", "small.jsonl", "x.parquet")}
    assert any(line.path.startswith("/lfs/") for line in hub.requests)
    assert any(line.authorized for line in hub.requests)
    assert hub.leaks == []


def test_what_is_pushed_after_the_lock_does_not_matter(hub: HubServer) -> None:
    small = hub.root / "datasets" / REPO / "small.jsonl"
    before, digest = hub.commit(REPO), sha256(small)
    small.write_bytes(b'{"text": "other"}\n')
    after = hub.push(REPO)
    said = ask(
        """
locks = [resolved(base, "small.jsonl", revision=revision) for revision in sys.argv[1:]]
answer([[found.revisions["mini"], read(found.files[0])] for found in locks])
""",
        before,
        "main",
    )
    assert said == [[before, digest], [after, sha256(small)]]


def test_breaks_on_the_way_are_taken_up_at_the_byte_and_behind_a_fresh_redirect(hub: HubServer) -> None:
    hub.faults += [
        Fault("GET /lfs/.*big", EndEarly(100_000)),
        Fault("GET /lfs/.*big", Reset(50_000)),
        Fault("GET /datasets/.*big", Status(503)),
        Fault("GET /lfs/.*big", Status(403)),
        Fault("GET /datasets/.*big", Status(429, ratelimit_seconds=1)),
    ]
    said = ask('answer([read(resolved(base, "big.json.gz").files[0]), retries])')
    assert said[0] == hashlib.sha256(BIG).hexdigest()
    assert len(said[1]) == 5
    assert hub.faults == []


def test_a_signed_address_that_expires_in_the_middle_is_resolved_anew(hub: HubServer) -> None:
    hub.signed_url_seconds = 0.5
    hub.faults += [Fault("GET /lfs/.*big", Stall(1.0, after_bytes=100_000)), Fault("GET /lfs/.*big", EndEarly(1))]
    said = ask("""
import bamba_data.storage.transport
bamba_data.storage.transport.TIMEOUT_SECONDS = (1.0, 0.6)
answer(read(resolved(base, "big.json.gz").files[0]))
""")
    signed = [line.query for line in hub.requests if line.path.startswith("/lfs/")]
    assert said == hashlib.sha256(BIG).hexdigest()
    assert len(set(signed)) == len(signed) == 3


def test_the_interface_of_the_hub_may_fail_for_a_while_too(hub: HubServer) -> None:
    hub.faults += [
        Fault("^GET /api/datasets/acme/mini$", Reset()),
        Fault("^GET /api/datasets/acme/mini$", Status(503)),
        Fault("^GET /api/datasets/acme/mini$", Truncate(20)),
        Fault("^GET .*/tree/", Reset()),
    ]
    assert ask('answer(len(resolved(base, "data/*.json.gz").files))') == 5
    assert hub.faults == []


def test_damage_and_change_are_named(hub: HubServer) -> None:
    hub.faults += [
        Fault("GET /lfs/.*big", FlipBit(123_456)),
        Fault("GET /lfs/.*/data/0", Truncate(0), times=FOREVER),
        Fault("GET /datasets/.*/data/1", Replace(b"another"), times=FOREVER),
    ]
    flipped, cut, replaced = ask("""
fetcher = Fetcher(LocalBudget(1000, 1000), 0.3)
big, cut, replaced = resolved(base, "big.json.gz", "data/[01].json.gz").files
answer([tried(lambda: read(file)) for file in (big, cut, replaced)])
""")
    assert flipped.startswith(f"CorruptInput: {BASE}@{hub.commit(REPO)}/big.json.gz: sha256 is ")
    assert cut.startswith("SourceUnavailable: ")
    assert replaced.startswith(f"InputChanged: {BASE}@{hub.commit(REPO)}/data/1.json.gz: size is 7, the lock says ")


def test_staging_heals_on_the_hub_too(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.append(Fault("GET /lfs/.*big", FlipBit(123_456)))
    said = ask(
        'answer([fetcher.stage(resolved(base, "big.json.gz").files[0], Path(sys.argv[1])).sha256, retries])', tmp_path
    )
    assert said == [hashlib.sha256(BIG).hexdigest(), ["wrong bytes"]]


def test_a_parquet_file_of_the_hub_is_read_at_random(hub: HubServer) -> None:
    said = ask("""
import pyarrow.parquet as pq
with fetcher.open(resolved(base, "x.parquet").files[0]) as opened:
    answer(pq.ParquetFile(opened, pre_buffer=False).read_row_group(1, use_threads=False)["text"].to_pylist()[:2])
""")
    assert said == [random.Random(n).randbytes(500).hex() for n in (300, 301)]
    assert all(line.range for line in hub.requests if line.path.startswith("/lfs/"))


def test_what_the_hub_does_not_have_is_the_users_matter_and_named(hub: HubServer) -> None:
    hub.gated = {"acme/gated": "hf_right"}
    said = ask("""
answer([
    tried(lambda: resolved(base, "data/*.csv")),
    tried(lambda: resolved(base, "nowhere/*.gz")),
    tried(lambda: resolved(base, "small.json")),
    tried(lambda: resolved("hf://datasets/acme/none", "x")),
    tried(lambda: resolved(base, "x", revision="v9")),
    tried(lambda: resolved("hf://datasets/acme/no..pe", "x")),
    tried(lambda: resolved("hf://datasets/acme", "x")),
    tried(lambda: resolved(base + "@main", "small.jsonl")),
    tried(lambda: resolved(base + "/data", "0.json.gz")),
])
""")
    nothing = f"RecipeError: source mini: nothing at {BASE}@{hub.commit(REPO)} matches "
    for answer, start in zip(
        said,
        [
            f"{nothing}'data/*.csv'",
            f"{nothing}'nowhere/*.gz'",
            f"{nothing}'small.json'",
            "UserError: hf://datasets/acme/none: 404",
            f"UserError: {BASE}: 404 Client Error. Revision Not Found",
            "UserError: hf://datasets/acme/no..pe: Cannot have",
            "UserError: hf://datasets/acme: expected hf://datasets/ORG/NAME",
            f"RecipeError: source mini: base {BASE}@main: folders go into files, revisions into revision",
            f"RecipeError: source mini: base {BASE}/data: folders go into files, revisions into revision",
        ],
        strict=True,
    ):
        assert answer.startswith(start)


def test_a_gated_repository_says_what_it_needs(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated = {REPO: SECRET}
    script = 'answer(tried(lambda: read(resolved(base, "small.jsonl").files[0])))'
    assert ask(script) == sha256(hub.root / "datasets" / REPO / "small.jsonl")
    monkeypatch.delenv("HF_TOKEN")
    assert "status 401: it needs a token (HF_TOKEN) or an accepted licence" in ask(script)


def test_a_tokenizer_of_the_hub_is_read_at_its_commit(hub: HubServer) -> None:
    said = ask(
        """
answer(fetcher.read_all(f"hf://datasets/acme/mini@{sys.argv[1]}/small.jsonl", 1000).decode())
""",
        hub.commit(REPO),
    )
    assert said == '{"text": "small"}\n'


# -- today's redirects: of regular files, of renamed repositories, by mirrors


@pytest.fixture
def tokenizer(root: Path) -> Path:
    """A regular file, smaller than what goes to LFS, of a model's repository."""
    path = root / "models/acme/tok/tokenizer.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"version": "1.0"}' * 40)
    return path


HABITS: dict[str, dict[str, Any]] = {
    "of today": {},
    "of a mirror": {"is_mirror": True},
    "301": {"redirect_status": 301},
    "308": {"redirect_status": 308},
}


@pytest.mark.parametrize("habit", HABITS.values(), ids=HABITS)
@pytest.mark.parametrize("repo", ["acme", "old"])
def test_regular_files_come_whole_by_every_name_of_their_repository(
    repo: str, habit: dict[str, Any], hub: HubServer, tokenizer: Path
) -> None:
    hub.renamed = {"old/tok": "acme/tok", "old/mini": REPO}
    for name, value in habit.items():
        setattr(hub, name, value)
    said = ask(
        """
repo = sys.argv[1]
texts = [fetcher.read_all(f"hf://{repo}/tok{at}/tokenizer.json", 10_000).decode() for at in ("", "@main", sys.argv[2])]
found = resolved(f"hf://datasets/{repo}/mini", "small.jsonl", "big.json.gz")
answer([texts, [[file.facts.size_bytes, read(file)] for file in found.files]])
""",
        repo,
        f"@{hub.commit('acme/tok', 'models')}",
    )
    folder = hub.root / "datasets" / REPO
    assert said == [
        [tokenizer.read_text()] * 3,
        [[(folder / path).stat().st_size, sha256(folder / path)] for path in ("small.jsonl", "big.json.gz")],
    ]
    assert hub.leaks == []


def test_another_commit_than_was_asked_for_is_refused(hub: HubServer, tokenizer: Path) -> None:
    """As a careless mirror gives it."""
    asked, repos = hub.commit("acme/tok", "models"), hub._repos["models"]
    tokenizer.write_text("another")
    pushed = hub.push("acme/tok", "models")
    hub._repos["models"].at = lambda repo, revision: (pushed, repos._commits[repo, pushed])  # type: ignore[method-assign]
    said = ask('answer(tried(lambda: fetcher.read_all(f"hf://acme/tok@{sys.argv[1]}/tokenizer.json", 1000)))', asked)
    assert said.startswith(f"InputChanged: hf://acme/tok@{asked}/tokenizer.json: commit is '{pushed}'")


def test_a_netrc_entry_does_not_take_the_place_of_the_token(
    hub: HubServer, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\nmachine localhost login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    hub.tokens = frozenset({SECRET})
    said = ask("""
found = resolved(base, "data/*.json.gz", "small.jsonl")
answer([fetcher.read_all("hf://acme/tok/tokenizer.json", 10_000).decode(), [read(file) for file in found.files]])
""")
    assert said[0] == tokenizer.read_text()
    assert len(said[1]) == 6
    assert hub.leaks == []


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "another token": ({"tokens": frozenset({"hf_another"})}, "status 401: the token in HF_TOKEN is not accepted"),
    "gated": ({"gated": {"acme/tok": "hf_another"}}, "status 403: the repository is gated: accept its terms"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_token_that_does_not_open_a_repository_is_told_why(
    settings: dict[str, Any], message: str, hub: HubServer, tokenizer: Path
) -> None:
    for name, value in settings.items():
        setattr(hub, name, value)
    said = ask('answer(tried(lambda: fetcher.read_all("hf://acme/tok/tokenizer.json", 1000)))')
    assert said.startswith(f"SourceRefused: hf://acme/tok/tokenizer.json: {message}")
    assert len(hub.requests) == 1


def test_what_a_repository_does_not_have_is_told_at_once(hub: HubServer, tokenizer: Path) -> None:
    said = ask("""
urls = ["hf://acme/tok/nope.json", "hf://acme/tok@v9/tokenizer.json", "hf://acme/none/tokenizer.json"]
answer([tried(lambda: fetcher.read_all(url, 1000)) for url in urls])
""")
    assert [text.partition("status 404: ")[2] for text in said] == [
        "there is no such file in the repository at this revision",
        "the repository has no such revision",
        "there is no such repository, or it is private and this token may not see it",
    ]
    assert len(hub.requests) == 3


def test_a_forbidden_file_that_stays_forbidden_is_the_callers_matter(hub: HubServer, tokenizer: Path) -> None:
    hub.faults.append(Fault("/acme/tok/", Status(403), times=FOREVER))
    said = ask('answer(tried(lambda: fetcher.read_all("hf://acme/tok/tokenizer.json", 1000)))')
    assert said == "SourceRefused: hf://acme/tok/tokenizer.json: status 403: planned fault"
    assert len(hub.requests) == 2


@pytest.mark.parametrize("endpoint", ["127.0.0.1:80", f"http://user:{SECRET}@127.0.0.1:9", f"http://h/?t={SECRET}"])
def test_an_endpoint_that_is_no_address_or_holds_a_secret_is_refused_and_not_shown(
    endpoint: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    said = ask('answer([tried(lambda: resolved(base, "x")), tried(lambda: fetcher.read_all("hf://a/b/c", 9))])')
    assert [text.startswith("UserError: HF_ENDPOINT ") for text in said] == [True, True]
    assert hub.requests == []
