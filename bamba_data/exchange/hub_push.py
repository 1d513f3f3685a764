"""A version of a dataset goes to a hub: what it is made of, and last, in one commit, the object that makes it one.

    shards, tables, …       by the client's upload of large folders, several commits where they are many
    compared                with what the hub says that it has, by sha256, before anything names them
    the version, README.md  one commit; `v<number>`, and the version's own tags, name it

So whoever reads `main` at any moment sees a whole version, or the one before. A push that was killed goes on: what the
hub has already is neither read nor sent again. What belongs to other versions, or to builds, is not pushed.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bamba_data.errors import CorruptManifest, IntegrityError, UserError
from bamba_data.format import version_marks
from bamba_data.format.dataset import Dataset
from bamba_data.format.layout import (
    CROISSANT,
    README,
    VERSIONS,
    lock_path,
    manifest_path,
    table_path,
    tokenizer_path,
    version_path,
)
from bamba_data.format.lineage import files_of_ancestors
from bamba_data.format.referring import ReferringStore
from bamba_data.format.version_marks import Tag
from bamba_data.format.versions import Version
from bamba_data.storage.local_disk import scratch_folder
from bamba_data.storage.store import LocalStore, Store

from .hub_repo import HubFile, HubRepo, git_blob_id

FILES_A_CALL = 5000
STAGED_BYTES = 8 << 30  # of a store that is not a disk, on this one at once


class DatasetFile(NamedTuple):
    """An object of a version: its path on both sides, and what it must be."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Pushed:
    """What a push came to. `commit` is that of the version on the hub, `files` and `size_bytes` what was sent."""

    url: str
    version: int
    commit: str
    tags: tuple[str, ...]
    files: int
    size_bytes: int
    files_there: int
    readme_left_alone: bool


def push(
    dataset: Dataset, repo: HubRepo, private: bool = False, say: Callable[[str], None] = lambda line: None
) -> Pushed:
    """Put a version of a dataset on a hub.

    Args:
        dataset: the version.
        repo: where to; made if it is not there.
        private: of a repository that is made.
        say: told what goes on, a line at a time.

    Raises:
        UserError: the hub has another version of this number.
        AccessDenied: the token may not write there, or there is none.
        IntegrityError: a file is not what the manifest says, and so arrived as something else; nothing names it.
        StoreUnavailable: the hub does not answer now; the same command goes on.
    """
    number = dataset.version.number
    wanted = files_of(dataset)
    repo.make(private)
    head = repo.head()
    there = repo.files(head)
    with tempfile.TemporaryDirectory(prefix="push-", dir=scratch_folder()) as folder:
        _check_number(dataset, repo, there, head, Path(folder))
        missing = [file for file in wanted if not _is_there(_place_of(dataset, file), file, there)]
        say(f"{repo.url}: {len(missing):,} of {len(wanted):,} files to send")
        for part, staged in enumerate(_staged(dataset, missing, Path(folder) / "staged"), 1):
            repo.upload(staged, f"Files of version {number}" + (f", part {part}" if part > 1 else ""))
        if missing:
            head = repo.head()
            there = repo.files(head)
            if wrong := next((file for file in wanted if not _is_there(_place_of(dataset, file), file, there)), None):
                raise IntegrityError(
                    f"{repo.url}/{wrong.path}: is not the file of the manifest: the one here is damaged (bamba-data "
                    f"verify {dataset.store.url} --full), or somebody else changed it there. The version is not named"
                )
        last, left_alone = _last_commit(dataset, repo, there, head, Path(folder))
    commit = repo.commit(last, f"Version {number}", head) if last else head
    tags = _tags(dataset)
    for name in tags:
        repo.tag(name, commit, f"Version {number}: {dataset.manifest.digest}")
    commit = repo.tags().get(tags[0], commit)
    sent = sum(file.size_bytes for file in missing)
    return Pushed(repo.url, number, commit, tags, len(missing), sent, len(wanted) - len(missing), left_alone)


def files_of(dataset: Dataset) -> list[DatasetFile]:
    """All that a version is made of but the object that says so: what a copy needs to be read and verified, and for a
    run to go on there that began with an ancestor."""
    manifest, store = dataset.manifest, dataset.store
    files = [
        DatasetFile(*row)
        for frame in (dataset.shards, dataset.dead_letters)
        for row in frame.select(*DatasetFile._fields).iter_rows()
    ]
    files += [DatasetFile(table_path(table.sha256), table.size_bytes, table.sha256) for table in manifest.all_tables]
    files += [DatasetFile(*file) for file in files_of_ancestors(dataset)]
    for path, digest in (
        (manifest_path(manifest.digest), manifest.digest),
        (tokenizer_path(manifest.tokenizer.sha256), manifest.tokenizer.sha256),
        (lock_path(dataset.version.lock), dataset.version.lock),
    ):
        entry = store.stat(path)
        if entry is None:
            raise CorruptManifest(path, "is missing")
        files.append(DatasetFile(path, entry.size_bytes, digest))
    return sorted(set(files))


def _is_there(store: Store, file: DatasetFile, there: dict[str, HubFile]) -> bool:
    """Whether the hub has it, by its sha256, or, of a small file outside LFS, by the content that lies here."""
    known = there.get(file.path)
    if known is None:
        return False
    if known.sha256 is None and not isinstance(store, LocalStore):
        return known.size_bytes == file.size_bytes and git_blob_id(store.read(file.path)) == known.blob_id
    return known.is_content(
        file.size_bytes, file.sha256, store.root / file.path if isinstance(store, LocalStore) else None
    )


def _place_of(dataset: Dataset, file: DatasetFile) -> Store:
    """Where a file lies: of what the dataset refers to, in another store."""
    store = dataset.files_store
    return store.place_of(file.path) if isinstance(store, ReferringStore) else store


def _staged(dataset: Dataset, files: Sequence[DatasetFile], folder: Path) -> Iterator[Path]:
    """Folders that hold these files and nothing else: links to those of a disk, copies of others, some at a time."""
    batch: list[DatasetFile] = []
    batch_bytes = 0
    for file in [*files, None]:
        size = file.size_bytes if file and not isinstance(_place_of(dataset, file), LocalStore) else 0
        if batch and (file is None or len(batch) >= FILES_A_CALL or batch_bytes + size > STAGED_BYTES):
            shutil.rmtree(folder, ignore_errors=True)
            for one in batch:
                _stage(_place_of(dataset, one), one, folder / one.path)
            yield folder
            batch, batch_bytes = [], 0
        if file is not None:
            batch.append(file)
            batch_bytes += size
    shutil.rmtree(folder, ignore_errors=True)


def _stage(store: Store, file: DatasetFile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(store, LocalStore):
        if store.stat(file.path) is None:
            raise IntegrityError(f"{store.url}/{file.path}: is missing: bamba-data verify says what else is")
        path.symlink_to(store.root / file.path)
        return
    with store.open(file.path) as source, path.open("wb") as copy:
        shutil.copyfileobj(source, copy, 8 << 20)


def _check_number(dataset: Dataset, repo: HubRepo, there: dict[str, HubFile], head: str, folder: Path) -> None:
    """Raise UserError if the hub has this number as another version."""
    path = version_path(dataset.version.number)
    if path not in there:
        return
    theirs = Version.parse(repo.read(path, head, folder), f"{repo.url}/{path}")
    if theirs.manifest != dataset.version.manifest:
        raise UserError(
            f"{repo.url}: has a version {theirs.number} of manifest {theirs.manifest[:16]}, and that of "
            f"{dataset.store.url} is {dataset.version.manifest[:16]}: they are two datasets; push to another repository"
        )


def _last_commit(
    dataset: Dataset, repo: HubRepo, there: dict[str, HubFile], head: str, folder: Path
) -> tuple[dict[str, bytes], bool]:
    """What makes it a version, as far as it is not there: the object itself, and the card if it is the newest on the
    hub; and whether a README.md of somebody else's is left as it is."""
    from bamba_data.card.readme import tail_of
    from bamba_data.card.refresh import card_of

    path = version_path(dataset.version.number)
    files = {} if path in there else {path: dataset.store.read(path)}
    numbers = [int(name) for known in there if (name := _number(known))]
    left_alone = False
    if dataset.version.number >= max(numbers, default=0):
        card = card_of(dataset, is_whole=True)
        tail: str | None = ""
        if README in there:
            tail = tail_of(repo.read(README, head, folder).decode("utf-8", "replace"))
        if tail is None:
            left_alone = True
        else:
            files[README] = (card.readme + tail).encode()
            if card.croissant is not None:
                files[CROISSANT] = card.croissant
    changed = {
        name: data for name, data in files.items() if name not in there or there[name].blob_id != git_blob_id(data)
    }
    return changed, left_alone


def _number(path: str) -> str:
    """The digits of a version's path; of a mark of it, or of another file, nothing."""
    name = path.removeprefix(f"{VERSIONS}/").removesuffix(".json")
    return name if path.startswith(f"{VERSIONS}/") and name.isdecimal() else ""


def _tags(dataset: Dataset) -> tuple[str, ...]:
    """`v<number>`, then the tags that the version has here."""
    own = [
        name
        for name, tag in version_marks.tags(dataset.store).items()
        if isinstance(tag, Tag) and tag.version == dataset.version.number
    ]
    return tuple(dict.fromkeys([f"v{dataset.version.number}", *own]))
