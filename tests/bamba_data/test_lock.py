"""A lock freezes every input once, in one order; it names nothing unsafe, and a hostile one is refused."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bamba_data import canonical_json
from bamba_data.errors import CorruptManifest, RecipeError, SourceUnavailable, TokenizerError, UnsafePath, UserError
from bamba_data.locking import lock as locks
from bamba_data.locking.lock import Lock, load_tokenizer, loads, request_key, resolve
from bamba_data.recipe import Recipe, load, load_file
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.locked_file import NOT_ASKED, Facts
from bamba_data.storage.rate_limit import LocalBudget
from bamba_data.tokenization.purity import DICE
from pipelines.cli.options import RECIPES
from pipelines.dataset_build import plan as plans
from tests.corpora import TOKENIZER
from tests.servers.faults import FOREVER, Fault, Status
from tests.servers.hub import HubServer

NAMES = ["b.jsonl", "a.jsonl", "deep/c.jsonl", "d.txt"]
LATIN_E = "caf\u00e9.jsonl"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(f'{{"text": "{name}"}}\n')
    return tmp_path


@pytest.fixture
def fetcher() -> Fetcher:
    return Fetcher(LocalBudget(1000, 1000), retry_seconds=1)


def recipe(*corpora: dict[str, Any], **fields: Any) -> Recipe:
    whole = {"name": "x", "tokenizer": {"url": f"package:{TOKENIZER.name}"}, "corpora": list(corpora), **fields}
    return load(json.dumps(whole), "my.yaml")


def texts(*files: str, base: str = "texts", name: str = "texts", **fields: Any) -> dict[str, Any]:
    return {"corpus": "folder", "name": name, "base": base, "form": "jsonl", "files": list(files), **fields}


@pytest.fixture
def lock(folder: Path, fetcher: Fetcher) -> Lock:
    return resolve(recipe(texts("*.jsonl"), texts("deep/*", name="deep")), folder, fetcher)


# -- resolving


def test_relative_folders_start_where_the_recipe_lies(folder: Path, fetcher: Fetcher) -> None:
    lock = resolve(recipe(texts("a.jsonl")), folder, fetcher)
    assert [file.url for file in lock.files] == [str(folder / "texts/a.jsonl")]


def test_files_stand_in_the_order_of_the_recipe_and_then_of_their_names(folder: Path, fetcher: Fetcher) -> None:
    lock = resolve(recipe(texts("d.txt", "*.jsonl"), texts("deep/*", name="deep")), folder, fetcher)
    assert [file.key for file in lock.files] == [
        "texts/d.txt",
        "texts/a.jsonl",
        "texts/b.jsonl",
        "deep/deep/c.jsonl",
    ]


def test_a_locked_file_has_its_size_and_the_time_it_changed(lock: Lock, folder: Path) -> None:
    found = (folder / "texts/a.jsonl").stat()
    assert lock.files[0].facts == Facts(found.st_size, f"mtime:{found.st_mtime_ns}", None)


def test_a_limit_takes_the_first_files_of_each_source(folder: Path, fetcher: Fetcher) -> None:
    limited = recipe(texts("*.jsonl"), texts("b.jsonl", "a.jsonl", name="named"), limits={"files": 1})
    assert [file.key for file in resolve(limited, folder, fetcher).files] == ["texts/a.jsonl", "named/b.jsonl"]


def test_with_a_limit_no_more_names_are_looked_up_than_needed(folder: Path, fetcher: Fetcher) -> None:
    limited = recipe(texts("a.jsonl", "not-there.jsonl"), limits={"files": 1})
    assert len(resolve(limited, folder, fetcher).files) == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["nope.jsonl"], "source texts: .*/texts/nope.jsonl: no such file"),
        (["*.csv"], r"source texts: nothing at .*/texts matches '\*\.csv'"),
        (["a.jsonl", "*.jsonl"], "source texts: files name 'a.jsonl' twice"),
        (["a.jsonl", "a.jsonl"], "source texts: files name 'a.jsonl' twice"),
        (["deep"], "source texts: .*/texts/deep: no such file: it is a folder"),
    ],
)
def test_files_that_are_not_there_or_there_twice_are_named(
    files: list[str], message: str, folder: Path, fetcher: Fetcher
) -> None:
    with pytest.raises(RecipeError, match=message):
        resolve(recipe(texts(*files)), folder, fetcher)


def test_names_that_differ_only_by_case_are_two_inputs(folder: Path, fetcher: Fetcher) -> None:
    (folder / "texts/A.jsonl").write_text("{}")
    found = resolve(recipe(texts("*.jsonl")), folder, fetcher).files
    assert [file.path for file in found] == ["A.jsonl", "a.jsonl", "b.jsonl"]


def test_a_pattern_finds_no_hidden_file_unless_it_says_the_dot(folder: Path, fetcher: Fetcher) -> None:
    for name in (".hidden.jsonl", ".folder/x.jsonl"):
        (folder / "texts" / name).parent.mkdir(exist_ok=True)
        (folder / "texts" / name).write_text("{}")

    def found(pattern: str) -> list[str]:
        return [file.path for file in resolve(recipe(texts(pattern)), folder, fetcher).files]

    assert found("*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert found("**/*.jsonl") == ["a.jsonl", "b.jsonl", "deep/c.jsonl"]
    assert found(".*.jsonl") == [".hidden.jsonl"]
    assert found(".folder/*.jsonl") == [".folder/x.jsonl"]
    assert found(".hidden.jsonl") == [".hidden.jsonl"]


@pytest.mark.parametrize("name", ["../secret.jsonl", "/etc/hostname", "deep/../a.jsonl", "./a.jsonl"])
def test_a_name_that_leads_elsewhere_is_refused(name: str, folder: Path, fetcher: Fetcher) -> None:
    (folder / "secret.jsonl").write_text("{}")
    with pytest.raises(UnsafePath):
        resolve(recipe(texts(name)), folder, fetcher)


@pytest.mark.parametrize("name", ["a\\b.jsonl", "a\nb.jsonl"])
def test_a_name_with_a_backslash_or_a_control_character_is_refused(name: str, folder: Path, fetcher: Fetcher) -> None:
    (folder / "texts" / name).write_text("{}")
    with pytest.raises(UnsafePath):
        resolve(recipe(texts(name)), folder, fetcher)


@pytest.mark.parametrize(
    "name", ["a b.jsonl ", "x:y.jsonl", "con.jsonl", "cafe\u0301.jsonl", "50% off#1.jsonl", "x" * 240 + ".jsonl"]
)
def test_a_name_that_other_machines_cannot_have_is_an_input(name: str, folder: Path, fetcher: Fetcher) -> None:
    (folder / "texts" / name).write_text("{}")
    assert [file.path for file in resolve(recipe(texts(name)), folder, fetcher).files] == [name]


def test_a_question_mark_in_a_name_is_found_by_a_pattern(folder: Path, fetcher: Fetcher) -> None:
    (folder / "texts/what?.jsonl").write_text("{}")
    assert "what?.jsonl" in [file.path for file in resolve(recipe(texts("*.jsonl")), folder, fetcher).files]


def test_an_accent_in_normal_form_is_no_harm(folder: Path, fetcher: Fetcher) -> None:
    (folder / "texts" / LATIN_E).write_text("{}")
    assert resolve(recipe(texts(LATIN_E)), folder, fetcher).files[0].path == LATIN_E


def test_a_revision_of_a_folder_that_has_none_is_refused(folder: Path, fetcher: Fetcher) -> None:
    with pytest.raises(RecipeError, match="source texts: only hf:// has revisions"):
        resolve(recipe(texts("a.jsonl", revision="v1")), folder, fetcher)


@pytest.fixture
def host(folder: Path) -> Iterator[HubServer]:
    (folder / "files").symlink_to(folder / "texts")
    with HubServer(folder) as server:
        yield server


def test_a_plain_host_is_asked_once_for_each_file(host: HubServer, folder: Path, fetcher: Fetcher) -> None:
    base = f"{host.url}/files"
    lock = resolve(recipe(texts("b.jsonl", "a.jsonl", "deep/c.jsonl", base=base)), folder, fetcher)
    assert sorted((line.method, line.path) for line in host.requests if line.method == "HEAD") == [
        ("HEAD", f"/files/{name}") for name in ("a.jsonl", "b.jsonl", "deep/c.jsonl")
    ]
    (probe,) = [line for line in host.requests if line.method != "HEAD"]
    assert (probe.method, probe.range) == ("GET", "bytes=0-0")  # once a host: whether GET says what HEAD says
    assert [file.url for file in lock.files] == [f"{base}/{name}" for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl")]


def test_a_file_that_a_host_does_not_have_is_named_among_all(host: HubServer, folder: Path, fetcher: Fetcher) -> None:
    files = ["a.jsonl", "b.jsonl", "nope.jsonl"]
    with pytest.raises(SourceUnavailable, match=r"/files/nope\.jsonl: .*status 404, 2 tries"):
        resolve(recipe(texts(*files, base=f"{host.url}/files")), folder, fetcher)


def test_a_host_that_fails_for_a_while_is_asked_again(host: HubServer, folder: Path, fetcher: Fetcher) -> None:
    host.faults.append(Fault("HEAD", Status(503, retry_after_seconds=0), times=2))
    lock = resolve(recipe(texts("a.jsonl", "b.jsonl", base=f"{host.url}/files")), folder, Fetcher(retry_seconds=20))
    assert len(lock.files) == 2


def test_one_file_that_cannot_be_had_stops_the_rest_soon(host: HubServer, folder: Path, fetcher: Fetcher) -> None:
    host.faults.append(Fault("HEAD", Status(410), times=FOREVER))
    with pytest.raises(RecipeError, match=r"status 410(?s:.*)and 484 more were not looked up"):
        resolve(recipe(texts(*(f"{n}.jsonl" for n in range(500)), base=f"{host.url}/files")), folder, fetcher)
    assert len(host.requests) < 100


def test_all_that_cannot_be_locked_is_named_at_once_with_the_way_out(
    host: HubServer, folder: Path, fetcher: Fetcher
) -> None:
    for n in range(40):
        (folder / f"texts/{n}.jsonl").write_text("{}")
    host.faults += [
        Fault("HEAD .*/7.jsonl", Status(404), times=FOREVER),
        Fault("HEAD .*/11.jsonl", Status(410), times=FOREVER),
        Fault("HEAD .*/39.jsonl", Status(451), times=FOREVER),
    ]
    asked = recipe(texts(*(f"{n}.jsonl" for n in range(40)), base=f"{host.url}/files"), texts("no*.jsonl", name="b"))
    with pytest.raises(RecipeError, match=r"^4 inputs cannot be locked:") as caught:
        resolve(asked, folder, fetcher)
    said = str(caught.value)
    for part in (
        "/7.jsonl: status 404, 2 tries",
        "/11.jsonl: status 410: it is gone for good",
        "/39.jsonl: status 451: it is withheld for legal reasons",
        "source b: nothing at",
        "--quarantine 'texts/7.jsonl' --quarantine 'texts/11.jsonl' --quarantine 'texts/39.jsonl'",
    ):
        assert part in said


def test_what_may_come_back_is_worth_another_run_if_nothing_else_is_wrong(
    host: HubServer, folder: Path, fetcher: Fetcher
) -> None:
    with pytest.raises(
        SourceUnavailable, match=r"2 inputs: not available now \((?s:.*)no1(?s:.*)no2(?s:.*)run the same"
    ):
        resolve(recipe(texts("a.jsonl", "no1.jsonl", "no2.jsonl", base=f"{host.url}/files")), folder, fetcher)


def test_an_input_that_nobody_has_any_more_can_be_left_out(host: HubServer, folder: Path, fetcher: Fetcher) -> None:
    files = texts("a.jsonl", "gone.jsonl", base=f"{host.url}/files")
    lock = resolve(recipe(files, bad_input={"quarantine": ["texts/gone.jsonl"]}), folder, fetcher)
    assert [(file.path, file.facts == NOT_ASKED) for file in lock.files] == [("a.jsonl", False), ("gone.jsonl", True)]
    assert not any("gone" in line.path for line in host.requests)
    again = loads(canonical_json.dumps(lock.to_json()), "lock.json")
    with pytest.raises(RecipeError, match=r"texts/gone\.jsonl: in quarantine when .* --relock"):
        plans.make(recipe(files), again, SHA)


def test_how_many_were_looked_up_is_told(host: HubServer, folder: Path, fetcher: Fetcher) -> None:
    told: list[tuple[int, int]] = []
    asked = recipe(texts("a.jsonl", "b.jsonl", base=f"{host.url}/files"), texts("*", name="all"))
    resolve(asked, folder, fetcher, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: os.mkfifo(path), "no such file: it is a FIFO"),
        (lambda path: path.symlink_to("gone"), "no such file: it is a symbolic link that leads nowhere, to gone"),
        (lambda path: path.symlink_to(path), "no such file: it is a symbolic link that leads in a circle"),
    ],
    ids=["fifo", "dangling", "circle"],
)
@pytest.mark.parametrize("pattern", ["x.jsonl", "x.*"])
def test_what_is_no_file_is_said_to_be_what_it_is(
    pattern: str, make: Callable[[Path], None], said: str, folder: Path, fetcher: Fetcher
) -> None:
    make(folder / "texts/x.jsonl")
    with pytest.raises(RecipeError, match=said):
        resolve(recipe(texts(pattern)), folder, fetcher)


# -- what a lock is bound to


def test_a_lock_is_the_same_after_being_written_and_read(lock: Lock) -> None:
    again = loads(canonical_json.dumps(lock.to_json()), "lock.json")
    assert (again, again.digest) == (lock, lock.digest)


SHA = "5" * 64


def test_a_sha256_that_was_learned_binds_the_same_file_only(lock: Lock) -> None:
    size = lock.files[0].facts.size_bytes
    known = {
        "texts/a.jsonl": Facts(size, None, SHA),
        "texts/b.jsonl": Facts(1, None, SHA),
        "other": Facts(1, None, SHA),
    }
    assert [file.facts.sha256 for file in lock.bound_to(known).files] == [SHA, None, None]


def test_a_sha256_that_the_host_told_is_not_replaced(lock: Lock) -> None:
    size = lock.files[0].facts.size_bytes
    told = lock.bound_to({"texts/a.jsonl": Facts(size, None, SHA)})
    assert told.bound_to({"texts/a.jsonl": Facts(size, None, "6" * 64)}) == told


def test_binding_changes_nothing_else(lock: Lock) -> None:
    bound = lock.bound_to({"texts/a.jsonl": Facts(lock.files[0].facts.size_bytes, None, SHA)})
    assert [file.facts._replace(sha256=None) for file in bound.files] == [file.facts for file in lock.files]


def bound(lock: Lock) -> Lock:
    return lock.bound_to({file.key: Facts(file.facts.size_bytes, None, SHA) for file in lock.files})


@pytest.mark.parametrize("base", ["s3://mirror/x", "s3://mirror/x/"])
def test_a_lock_moved_to_a_mirror_reads_the_same_files_from_there(base: str, lock: Lock) -> None:
    moved = bound(lock).moved_to(base)
    assert [(file.key, file.url) for file in moved.files] == [
        (file.key, f"s3://mirror/x/{file.key}") for file in lock.files
    ]
    assert {(file.facts.etag, file.facts.sha256) for file in moved.files} == {(None, SHA)}


def test_a_mirror_of_files_without_a_sha256_cannot_be_verified(lock: Lock) -> None:
    with pytest.raises(UserError, match=r"texts/a\.jsonl: the lock has no sha256 of it"):
        lock.moved_to("s3://mirror")


def test_where_a_file_comes_from_is_said_as_the_recipe_says_it(lock: Lock) -> None:
    assert lock.public_url(lock.files[0]) == "texts/a.jsonl"


# -- what a lock depends on


def key(*corpora: dict[str, Any], folder: str = "/projects/one", **fields: Any) -> str:
    return request_key(recipe(*corpora, **fields), Path(folder))


PLAIN = texts("*.jsonl")


@pytest.mark.parametrize(
    "change",
    [
        {"shards": {"block_tokens": 99}},
        {"bad_input": {"max_bad_rate": 0.5}},
        {"network": {"burst": 1}},
        {"limits": {"documents": 5}},
        {"unit_bytes": 7},
        {"name": "another"},
        {"tokenizer": {"url": "other.json"}},
    ],
)
def test_what_cannot_change_the_files_does_not_change_the_request(change: dict[str, Any]) -> None:
    assert key(PLAIN, **change) == key(PLAIN)


def test_what_can_change_the_files_changes_the_request() -> None:
    keys = {
        key(PLAIN),
        key(PLAIN, limits={"files": 5}),
        key(texts("*.json")),
        key(texts("*.jsonl", base="elsewhere")),
        key(texts("*.jsonl", name="other")),
        key(texts("*.jsonl", base="hf://datasets/a/b", revision="v1")),
        key(PLAIN, texts("*.jsonl", name="second")),
        key(PLAIN, folder="/projects/two"),
    }
    assert len(keys) == 8


@pytest.mark.parametrize("base", ["hf://datasets/a/b", "s3://bucket/texts", "https://host/texts", "/data/texts"])
def test_what_means_the_same_everywhere_is_the_same_request_in_every_folder(base: str) -> None:
    one = texts("a.jsonl", base=base)
    assert key(one, folder="/projects/one") == key(one, folder="/projects/two")


def test_the_requests_of_the_first_format_are_found_again() -> None:
    """A build that was begun then goes on under its lock."""
    assert key(texts("*.jsonl", base="hf://datasets/a/b", revision="v1")) == "30c4d29231c87722013bdfdb396a0444"


# -- a lock that somebody else wrote


def damaged(lock: Lock, change: Callable[[dict[str, Any]], object]) -> bytes:
    raw = json.loads(canonical_json.dumps(lock.to_json()))
    change(raw)
    return json.dumps(raw).encode()


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "another format": lambda raw: raw.update(format="bamba-lock/9"),
    "no format": lambda raw: raw.pop("format"),
    "no files": lambda raw: raw.pop("files"),
    "files is no list": lambda raw: raw.update(files="x"),
    "files is a mapping": lambda raw: raw.update(files={"a": 1}),
    "a file is no list": lambda raw: raw["files"].append(5),
    "a file too short": lambda raw: raw["files"][0].pop(),
    "a file too long": lambda raw: raw["files"][0].append(None),
    "a size is text": lambda raw: raw["files"][0].__setitem__(3, "12"),
    "a size is negative": lambda raw: raw["files"][0].__setitem__(3, -1),
    "a size is a fraction": lambda raw: raw["files"][0].__setitem__(3, 1.5),
    "a size is true": lambda raw: raw["files"][0].__setitem__(3, True),
    "a size is 2**70": lambda raw: raw["files"][0].__setitem__(3, 2**70),
    "an etag is a list": lambda raw: raw["files"][0].__setitem__(4, ["x"]),
    "a sha256 is short": lambda raw: raw["files"][0].__setitem__(5, "abc"),
    "a sha256 is a number": lambda raw: raw["files"][0].__setitem__(5, 7),
    "a url is null": lambda raw: raw["files"][0].__setitem__(2, None),
    "a path is null": lambda raw: raw["files"][0].__setitem__(1, None),
    "a file of no source": lambda raw: raw["files"][0].__setitem__(0, "ghost"),
    "a revision of no source": lambda raw: raw["revisions"].update(ghost="c0ffee"),
    "a revision is a number": lambda raw: raw["revisions"].update(texts=5),
    "sources is a list": lambda raw: raw.update(sources=[]),
    "a source is text": lambda raw: raw["sources"].update(texts="x"),
    "a source of another name": lambda raw: raw["sources"]["texts"].update(name="other"),
    "a source of a hostile name": lambda raw: raw["sources"]["texts"].update(name="../x"),
    "a source of an unknown form": lambda raw: raw["sources"]["texts"].update(form="pickle"),
    "a source with more": lambda raw: raw["sources"]["texts"].update(more=1),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_lock_of_wrong_types_is_refused_and_named(change: Callable[[dict[str, Any]], object], lock: Lock) -> None:
    with pytest.raises(CorruptManifest, match=r"^lock\.json: "):
        loads(damaged(lock, change), "lock.json")


@pytest.mark.parametrize("data", [b"", b"{", b"null", b"[]", b"5", b"\xff", b"[" * 10_000, b'{"a": 1, "a": 2}', b"NaN"])
def test_what_is_no_lock_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptManifest):
        loads(data, "lock.json")


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/passwd", "a/../../x", "C:\\x", "a\\b", "", ".", "x\0y", "http://h/x", "a//b", "b.jsonl"],
)
def test_a_lock_with_an_unsafe_or_repeated_path_is_refused(path: str, lock: Lock) -> None:
    with pytest.raises(UnsafePath):
        loads(damaged(lock, lambda raw: raw["files"][0].__setitem__(1, path)), "lock.json")


def test_a_lock_larger_than_the_limit_is_not_parsed(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "MAX_BYTES", 100)
    with pytest.raises(CorruptManifest, match="the limit is 100"):
        loads(canonical_json.dumps(lock.to_json()), "lock.json")


# -- the tokenizer


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_tokenizer_of_every_recipe_that_ships_with_us_ships_too(path: Path, fetcher: Fetcher) -> None:
    found = load_file(path)
    assert load_tokenizer(found, path.parent, fetcher).sha256 == found.tokenizer.sha256


def test_a_tokenizer_lies_beside_the_recipe_or_on_a_host(host: HubServer, folder: Path, fetcher: Fetcher) -> None:
    (folder / "texts/t.json").write_bytes(TOKENIZER.read_bytes())
    for url in ("texts/t.json", f"{host.url}/files/t.json", f"file://{folder}/texts/t.json"):
        found = load_tokenizer(recipe(PLAIN, tokenizer={"url": url}), folder, fetcher)
        assert found.data == TOKENIZER.read_bytes()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "package:nope.json"}, "tokenizer.url: package:nope.json does not ship with us; these do: allenai"),
        ({"url": "nope.json"}, "tokenizer.url: .*nope.json: .*no such file"),
        ({"url": f"package:{TOKENIZER.name}", "sha256": SHA}, f"tokenizer.sha256: .*, the recipe says {SHA}"),
    ],
)
def test_a_tokenizer_that_is_not_the_one_is_named(
    fields: dict[str, str], message: str, folder: Path, fetcher: Fetcher
) -> None:
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(recipe(PLAIN, tokenizer=fields), folder, fetcher)


def test_a_tokenizer_whose_host_does_not_answer_is_nobodys_fault_yet(folder: Path) -> None:
    url = "http://127.0.0.1:9/tokenizer.json"
    with pytest.raises(SourceUnavailable, match=url):
        load_tokenizer(recipe(PLAIN, tokenizer={"url": url}), folder, Fetcher(retry_seconds=0))


@pytest.mark.parametrize("name", ["../recipe.py", "/etc/passwd", "..", ""])
def test_a_tokenizer_of_the_package_is_nothing_but_that(name: str, folder: Path, fetcher: Fetcher) -> None:
    with pytest.raises(UnsafePath):
        load_tokenizer(recipe(PLAIN, tokenizer={"url": f"package:{name}"}), folder, fetcher)


# -- secrets

SECRET = "s3cr3t-of-these-tests"
WITH_CREDENTIALS = [
    f"https://user:{SECRET}@host/x",
    f"https://{SECRET}@host/x",
    f"s3://key:{SECRET}@bucket/x",
    f"hf://user:{SECRET}@datasets/a/b",
    f"https://host/x?X-Amz-Signature={SECRET}",
    f"https://host/x#{SECRET}",
]


@pytest.mark.parametrize("url", WITH_CREDENTIALS)
def test_a_base_with_credentials_is_refused_and_not_shown(url: str, folder: Path, fetcher: Fetcher) -> None:
    with pytest.raises(UserError, match="is refused") as caught:
        resolve(recipe(texts("a.jsonl", base=url)), folder, fetcher)
    assert SECRET not in f"{caught.value!r} {caught.value}"


@pytest.mark.parametrize(
    "corpus",
    [
        *("dolma-v1_7", "fineweb-edu", "cosmopedia", "smollm-corpus"),
        *("olmo-mix-1124", "dolmino-mix-1124", "nemotron-cc", "finemath", "dclm-baseline"),
    ],
)
def test_a_copy_of_a_corpus_with_credentials_is_refused(corpus: str, folder: Path, fetcher: Fetcher) -> None:
    with pytest.raises(UserError, match="credentials"):
        resolve(recipe({"corpus": corpus, "base": WITH_CREDENTIALS[0]}), folder, fetcher)


@pytest.mark.parametrize("url", WITH_CREDENTIALS)
def test_a_tokenizer_with_credentials_is_refused_and_not_shown(url: str, folder: Path, fetcher: Fetcher) -> None:
    with pytest.raises(UserError, match="is refused") as caught:
        load_tokenizer(recipe(PLAIN, tokenizer={"url": url}), folder, fetcher)
    assert SECRET not in f"{caught.value!r} {caught.value}"


def test_secrets_of_the_environment_never_stand_in_a_lock(
    lock: Lock, folder: Path, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    assert SECRET not in json.dumps(resolve(recipe(PLAIN), folder, fetcher).to_json())
    assert os.environ["HF_TOKEN"] == SECRET


@pytest.mark.parametrize(
    ("model", "option"),
    [
        ({"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.1}, "dropout is 0.1"),
        ({"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 0, "alpha": 0.2, "nbest_size": 4}, "alpha is 0.2"),
    ],
)
def test_a_tokenizer_that_rolls_dice_is_refused_with_the_way_out(
    model: dict[str, Any], option: str, folder: Path, fetcher: Fetcher
) -> None:
    file = {"version": "1.0", "added_tokens": [], "model": model}
    (folder / "dice.json").write_text(json.dumps(file))
    asked = recipe(texts("*.jsonl"), tokenizer={"url": "dice.json"})
    with pytest.raises(TokenizerError, match=rf"model\.{option}, so .* set it to null"):
        load_tokenizer(asked, folder, fetcher)
    (folder / "dice.json").write_text(json.dumps({**file, "model": {**model, **dict.fromkeys(DICE)}}))
    assert load_tokenizer(asked, folder, fetcher).vocab_size == 1
