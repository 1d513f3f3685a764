"""README.md and croissant.json are brought up to the version that readers get, whenever that may be another one.

Everything that publishes, withdraws, expires or tags calls `refresh` when it is done. Killed before, the folder has the
card of the version before, whose files are all there still; the next command that comes by, the same one again for
instance, makes it good. Two that come at once: each writes and then looks whether the versions are as it wrote, so the
last word is the newest's.

A file of that name that is none of ours, or was edited above its seal, is left alone, and said.
"""

import logging
from dataclasses import dataclass

from bamba_data.errors import DatasetNotFound, IntegrityError, UnsafePath, Withdrawn
from bamba_data.format import version_marks
from bamba_data.format.dataset import Dataset, open_version
from bamba_data.format.layout import CROISSANT, README
from bamba_data.format.version_marks import Tag
from bamba_data.storage.store import Store
from bamba_data.terminal import printable

from .croissant import MAX_BYTES, croissant, is_ours
from .readme import readme, readme_of_nothing, tail_of

MAX_README_BYTES = 256 << 20
NOT_OURS = (
    "is not ours, or was edited: it is left as it is, and may not speak of the newest version. "
    "bamba-data card {url} prints ours, --replace puts it there"
)
_ROUNDS = 8
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Card:
    """What the folder is to say: `croissant` is None where there is nothing that files alone give: no version is
    offered, documents were dropped that lie in them still, or files lie in other places."""

    readme: str
    croissant: bytes | None


def refresh(store: Store, replace: bool = False) -> list[str]:
    """Write both files anew if they are not what the versions say now.

    Args:
        store: The dataset's place. Where nothing was ever published nothing is written.
        replace: Also what somebody else wrote or edited.

    Returns:
        The names of files that were left alone because they are not ours.

    Raises:
        StoreUnavailable, OSError: The store does not take them. The versions are as they are; the same again goes on.
    """
    left_alone: list[str] = []
    for _ in range(_ROUNDS):
        known, names = _seen(store)
        if not known.numbers:
            return []
        try:
            left_alone = _write(store, _card(store, known, names), replace)
        except (DatasetNotFound, Withdrawn, _Meanwhile):
            continue
        except (IntegrityError, FileNotFoundError) as error:  # that version is damaged: to withdraw it must go on
            _log.warning("%s", printable(f"{store.url}: {README} is not made anew: {error}"))
            return []
        if _seen(store) == (known, names):
            break
    return left_alone


def refresh_and_say(store: Store) -> None:
    """The same for who does not ask for the card: a warning for every file that was left alone."""
    for name in refresh(store):
        _log.warning("%s", printable(f"{store.url}/{name} {NOT_OURS.format(url=store.url)}"))


def card_of(dataset: Dataset, is_whole: bool | None = None) -> Card:
    """The card of one version, newest or not. `is_whole` says whether all files lie where it will be; without it,
    whether they do here."""
    return _card_of(dataset, _seen(dataset.store)[1], dataset.is_whole if is_whole is None else is_whole)


_Names = tuple[tuple[str, int], ...]  # tags, each with its version's number


class _Meanwhile(Exception):
    """Somebody else wrote one of the files this very moment: look again."""


def _seen(store: Store) -> tuple[version_marks.Known, _Names]:
    """All that a card depends on beside the dataset itself."""
    tags = version_marks.tags(store).items()
    return version_marks.known(store), tuple((name, tag.version) for name, tag in tags if isinstance(tag, Tag))


def _tags(names: _Names, number: int) -> list[str]:
    return [name for name, version in names if version == number]


def _card(store: Store, known: version_marks.Known, names: _Names) -> Card:
    if not known.offered:
        return Card(readme_of_nothing(), None)
    dataset = open_version(store, known.offered[-1])
    return _card_of(dataset, names, dataset.is_whole)


def _card_of(dataset: Dataset, names: _Names, is_whole: bool) -> Card:
    described = None if len(dataset.masks) or not is_whole else croissant(dataset)
    return Card(readme(dataset, _tags(names, dataset.version.number), is_whole), described)


def _write(store: Store, card: Card, replace: bool) -> list[str]:
    """Both files; the names of those that are not ours."""
    there = _read(store, README, MAX_README_BYTES)
    tail = "" if there is None else _tail(there)
    described = _read(store, CROISSANT, MAX_BYTES)
    left_alone = []
    if tail is not None or replace:
        _put(store, README, there, (card.readme + (tail or "")).encode())
    else:
        left_alone.append(README)
    if described is None or is_ours(described) or replace:
        _put(store, CROISSANT, described, card.croissant)
    else:
        left_alone.append(CROISSANT)
    return left_alone


def _tail(data: bytes) -> str | None:
    try:
        return tail_of(data.decode())
    except UnicodeDecodeError:
        return None


def _read(store: Store, path: str, max_bytes: int) -> bytes | None:
    """What is there; a folder or a link that leads away is something, and none of ours."""
    try:
        return store.read_range(path, 0, max_bytes + 1)
    except FileNotFoundError:
        return None
    except (IsADirectoryError, UnsafePath):
        return b""


def _put(store: Store, path: str, there: bytes | None, wanted: bytes | None) -> None:
    if wanted == there:
        return
    if wanted is None:
        store.delete(path)
    elif there is not None:
        store.put(path, wanted)
    elif not store.create(path, wanted):
        raise _Meanwhile
