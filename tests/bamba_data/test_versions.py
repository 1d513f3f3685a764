"""Versions after they were published: withdrawn, expired, tagged; no number twice, and no reader is misled."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bamba_data import catalog
from bamba_data.errors import CorruptManifest, DatasetNotFound, UserError, Withdrawn
from bamba_data.format import version_marks
from bamba_data.format.dataset import open_dataset
from bamba_data.format.layout import mark_path, tag_path
from bamba_data.format.versions import read_version, versions
from bamba_data.inspect.garbage import find, remove
from bamba_data.inspect.verify import verify
from bamba_data.storage.store import Store, open_store
from bamba_data.tokenization.conformance import Certificate
from pipelines.cli import app, run
from tests.building import build, tiny_inputs
from tests.corpora import records, write_jsonl
from tests.sharing import made_once


@pytest.fixture(scope="session")
def three(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with three versions of a dataset, `out`, beside its recipe. To be read only."""

    def make(folder: Path) -> None:
        recipe = tiny_inputs(folder)
        for number in range(3):
            write_jsonl(folder / f"inputs/{number}.json.gz", records(4, 700 + number))
            text = recipe.read_text().replace('"*.json.gz"', f'"{number}.json.gz"')
            (folder / f"{number}.yaml").write_text(text)
            build(folder / "out", certificate, str(folder / f"{number}.yaml"))

    return made_once(tmp_path_factory, "three-versions", make)


@pytest.fixture
def folder(three: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(three, tmp_path / "three"))


@pytest.fixture
def url(folder: Path) -> str:
    return str(folder / "out")


@pytest.fixture
def store(url: str) -> Store:
    return open_store(url)


@pytest.fixture
def bamba(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def command(*arguments: object) -> tuple[int, str]:
        code = run(app, [str(argument) for argument in arguments])
        return code, "".join(capsys.readouterr())

    return command


Command = Callable[..., tuple[int, str]]


def test_a_withdrawn_version_is_not_the_newest_and_says_when_and_why(url: str, bamba: Command) -> None:
    assert bamba("withdraw", url, 3, "--why", "copyright")[0] == 0
    assert open_dataset(url).version.number == 2
    with pytest.raises(
        Withdrawn, match=r"version 3 was withdrawn on 20\d\d-.*: copyright.*ask for version withdrawn:3"
    ):
        open_dataset(url, 3)
    assert open_dataset(url, "withdrawn:3").version.number == 3
    code, said = bamba("show", url, "--version", 3)
    assert code == 2 and "copyright" in said
    assert bamba("show", url, "--version", "withdrawn:3")[0] == 0
    code, said = bamba("versions", url)
    assert code == 0 and "withdrawn" in said and "newest" in said.splitlines()[1]
    assert bamba("withdraw", url, 3, "--undo")[0] == 0
    assert open_dataset(url).version.number == 3


def test_what_was_withdrawn_is_not_published_again_by_the_same_build_and_no_number_is_used_twice(
    folder: Path, url: str, certificate: Certificate
) -> None:
    store = open_store(url)
    catalog.withdraw(store, 3, "bad")
    with pytest.raises(UserError, match=r"published before, as version 3, and was withdrawn .* --undo"):
        build(url, certificate, str(folder / "2.yaml"))
    assert versions(store) == [1, 2, 3]
    assert build(url, certificate, str(folder / "0.yaml"))[0].number == 4
    catalog.withdraw(store, 4, "")
    assert build(url, certificate, str(folder / "1.yaml"))[0].number == 2  # it is the newest that is offered


def test_all_withdrawn_is_said_and_a_new_build_goes_on_counting(
    folder: Path, url: str, store: Store, certificate: Certificate
) -> None:
    for number in (1, 2, 3):
        catalog.withdraw(store, number, "")
    with pytest.raises(DatasetNotFound, match="all its versions are withdrawn or expired"):
        open_dataset(url)
    recipe = folder / "2.yaml"
    assert build(url, certificate, str(recipe), ["name=other"])[0].number == 4


def test_an_expired_version_is_gone_for_readers_and_the_sweep_takes_what_only_it_needs(
    url: str, store: Store, bamba: Command
) -> None:
    assert find(url, grace_seconds=0).orphans == []
    code, said = bamba("expire", url, "--keep", 2, "--why", "old")
    assert code == 0 and "expired: 1" in said
    with pytest.raises(
        DatasetNotFound, match=r"version 1 expired on .*: old; its files may be gone \(there are: 2, 3\)"
    ):
        open_dataset(url, "withdrawn:1")
    found = find(url, grace_seconds=0)
    taken = {entry.path for entry in found.orphans}
    assert any(path.startswith("dataset=lines/") for path in taken)
    assert not any(path.startswith("dataset=rows/") for path in taken)  # that version 2 and 3 need, too
    remove(url, found)
    assert verify(url, 2, full=True).faults == verify(url, 3, full=True).faults == []
    assert versions(store) == [1, 2, 3] and find(url, grace_seconds=0).orphans == []


def test_a_tag_names_a_version_everywhere_and_keeps_it_from_expiring(url: str, store: Store, bamba: Command) -> None:
    assert bamba("tag", url, "paper-v1", 1)[0] == 0
    assert open_dataset(url, "paper-v1").version.number == 1
    assert bamba("verify", url, "--version", "paper-v1")[0] == 0
    code, said = bamba("expire", url, 1)
    assert code == 2 and "version 1 is tagged paper-v1" in said and "--remove" in said
    assert catalog.to_expire(store, keep=1, older_than_days=None) == [2]
    code, said = bamba("tag", url, "paper-v1", 2)
    assert code == 2 and "--move" in said
    assert bamba("tag", url, "paper-v1", 2, "--move")[0] == 0
    assert open_dataset(url, "paper-v1").version.number == 2
    assert bamba("expire", url, 1)[0] == 0
    assert bamba("tag", url, "back", 1)[0] == 2
    assert bamba("tag", url, "paper-v1", "--remove")[0] == 0
    with pytest.raises(DatasetNotFound, match=r"no version or tag 'paper-v1' \(the tags are: none\)"):
        open_dataset(url, "paper-v1")


@pytest.mark.parametrize("name", ["7", "", "../x", "a/b", "withdrawn:3", "latest", "x" * 65, ".a", "a."])
def test_a_name_that_could_be_misread_is_no_tag(url: str, bamba: Command, name: str) -> None:
    assert bamba("tag", url, name, 1)[0] == 2


def test_the_newest_does_not_expire_and_one_that_is_not_there_is_named(url: str, bamba: Command) -> None:
    code, said = bamba("expire", url, 3)
    assert code == 2 and "newest that readers get" in said
    assert bamba("expire", url, 9)[0] == bamba("withdraw", url, 9)[0] == 2
    assert bamba("expire", url)[0] == bamba("expire", url, 1, "--keep", 1)[0] == 2
    assert "would expire: 1, 2" in bamba("expire", url, "--keep", 1, "--dry-run")[1]
    assert "would expire: none" in bamba("expire", url, "--older-than", 1, "--dry-run")[1]
    assert open_dataset(url, 1)


@pytest.mark.parametrize("what", ["_bamba/versions/000003.json", "_bamba/manifests"])
def test_a_damaged_version_is_no_dead_end(
    folder: Path, url: str, store: Store, certificate: Certificate, bamba: Command, what: str
) -> None:
    """As the message says: give it up and build again, or just build again."""
    digest = open_dataset(url).manifest.digest
    path = Path(url, what) if what.endswith(".json") else Path(url, what, f"{digest}.json")
    path.write_bytes(path.read_bytes().replace(b'":"', b'":"x', 1))
    with pytest.raises(CorruptManifest):
        open_dataset(url)
    with pytest.raises(CorruptManifest, match=r"bamba-data expire .* 3"):
        find(url)
    if what.endswith(".json"):
        with pytest.raises(CorruptManifest, match=r"give this version up \(bamba-data expire .* 3\), then build again"):
            build(url, certificate, str(folder / "2.yaml"))
        assert bamba("expire", url, 3)[0] == 0
    version, manifest = build(url, certificate, str(folder / "2.yaml"))
    assert manifest.digest == digest and version.number == (4 if what.endswith(".json") else 3)
    assert verify(url, full=True).faults == [] and find(url).versions


def test_damaged_marks_and_tags_never_say_something_else(url: str, store: Store, bamba: Command) -> None:
    catalog.withdraw(store, 3, "bad")
    catalog.tag(store, "v1", 1, move=False)
    for path in (Path(url, mark_path("withdrawn", 3)), Path(url, tag_path("v1"))):
        path.write_bytes(path.read_bytes().replace(b'"version":', b'"versiom":'))
    with pytest.raises(Withdrawn, match="when and why cannot be read"):
        open_dataset(url, 3)
    with pytest.raises(CorruptManifest, match=r"set it anew: bamba-data tag .* v1 VERSION --move"):
        open_dataset(url, "v1")
    assert bamba("versions", url)[0] == 0
    assert bamba("expire", url, 1)[0] == 5  # who knows what it kept
    assert bamba("tag", url, "v1", 1, "--move")[0] == 0
    assert open_dataset(url, "v1").version.number == 1


def test_of_a_tag_and_an_expiry_at_once_one_is_undone(url: str, store: Store) -> None:
    for round_ in range(20):
        said: list[str] = []

        def attempt(work: Callable[[], object], said: list[str] = said) -> None:
            try:
                work()
            except (UserError, DatasetNotFound) as error:
                said.append(str(error))

        works: list[Callable[[], object]] = [
            lambda n=round_: catalog.tag(store, f"t{n}", 1, move=False),  # type: ignore[misc]
            lambda: catalog.expire(store, [1], ""),
        ]
        threads = [threading.Thread(target=attempt, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        is_tagged, is_expired = f"t{round_}" in version_marks.tags(store), 1 in version_marks.known(store).expired
        assert not (is_tagged and is_expired) and said
        version_marks.unmark(store, "expired", 1)
        version_marks.remove_tag(store, f"t{round_}")
    assert read_version(store, 1).number == 1


def test_a_version_is_named_as_people_type_it(url: str, store: Store, bamba: Command) -> None:
    """By number, tag or digest, after an `@` or beside the URL, with a slash at its end or without."""
    catalog.tag(store, "v1", 1, move=False)
    digest = open_dataset(url, 1).manifest.digest
    for which in (1, "1", "v1", digest, digest[:8], "withdrawn:1"):
        assert open_dataset(url, which).version.number == open_dataset(f"{url}@{which}").version.number == 1
    assert open_dataset(f"{url}/").version.number == open_dataset(f"file://{url}").version.number == 3
    assert bamba("show", f"{url}@v1") == bamba("show", url, "--version", digest)
    assert open_dataset(f"{url}/@1").version.number == 1  # as a shell completes it
    assert open_dataset(Path(url), 1).version.number == 1
    with pytest.raises(DatasetNotFound, match="no version or tag '00000000', nor a digest that begins so"):
        open_dataset(f"{url}@00000000")
    with pytest.raises(UserError, match="says version '1', and 2 is asked for beside it"):
        open_dataset(f"{url}@1", 2)


def test_a_folder_with_an_at_in_its_name_is_a_folder(folder: Path, url: str) -> None:
    (folder / "at").mkdir()
    shutil.copytree(url, folder / "at/out@1")
    assert open_dataset(str(folder / "at/out@1")).version.number == 3
    assert open_dataset(str(folder / "at/out@1@2")).version.number == 2
    with pytest.raises(DatasetNotFound, match=r"nobody@work: no"):
        open_dataset(str(folder / "at/nobody@work"), 3)
    shutil.copytree(url, folder / "at/out")
    with pytest.raises(UserError, match="is a dataset, and so is"):
        open_dataset(str(folder / "at/out@1"))
    assert open_dataset(f"{folder / 'at/out@1'}/").version.number == 3
    assert open_dataset(str(folder / "at/out@1"), 2).version.number == 2


def test_a_digest_that_is_also_a_tag_of_another_version_is_refused(url: str, store: Store) -> None:
    digest = open_dataset(url, 1).manifest.digest
    name = next(digest[:length] for length in range(8, 65) if any(c.isalpha() for c in digest[:length]))
    catalog.tag(store, name, 2, move=False)
    with pytest.raises(UserError, match=f"{name} is a tag of version 2 and begins the digest of version 1"):
        open_dataset(url, name)
