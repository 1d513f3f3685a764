"""Opening a text source: its index is found and its files compared with it; a small source is indexed in passing."""

import fcntl
import logging
import os
import re
from functools import lru_cache
from pathlib import Path

from bamba_data.errors import InputChanged, StaleIndex, UserError
from bamba_data.locking import lock
from bamba_data.locking.exclusions import quarantined
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.store import open_store
from bamba_data.storage.transport import check, hub_commit
from bamba_data.tokenization.tokenizer import Tokenizer

from .blocks import TextBlocks, process_fetcher
from .index_format import Index, read_arrays, read_index, rows_decoded_a_row
from .spec import TextSource

LOG = logging.getLogger(__name__)

#: Rows decoded for each that is served: beyond it the user is told, for shards or smaller row groups would be quicker.
TOO_MANY_ROWS = 8
#: A source below needs no command: the first loader that opens it makes its index, in about a minute a core.
INDEX_AT_ONCE_BYTES = 10**9
_COMMIT = re.compile(r"[0-9a-f]{40}")


def open_text(source: TextSource, cache: Path) -> TextBlocks:
    """A text source with its index, which is looked for in `source.index`, else in the folder `cache`.

    Raises:
        UserError: There is no index, and the files are too large to index in passing; it names the command.
        StaleIndex: A file is not what it was when it was indexed. Files on the hub at a commit cannot change, so
            nothing is asked of them.
    """
    fetcher, at = process_fetcher(os.getpid()), source.index or str(cache / "text")
    tokenizer = _first_equal(lock.load_tokenizer(source.recipe, Path(), fetcher))
    key = source.key(_commit(source, fetcher), tokenizer.sha256)
    store = open_store(at)
    index = read_index(store, key)
    is_new = index is None
    if index is None:
        index = _make_at_once(source, at, key, cache, fetcher)
    blocks = TextBlocks(source, index, read_arrays(store, key, index), tokenizer, at, key)
    if not is_new and index.source["revision"] is None:
        _check_files(blocks, fetcher)
    if (decoded := rows_decoded_a_row(blocks.arrays)) > TOO_MANY_ROWS:
        LOG.warning(
            "text source %r has row groups of many blocks: for each row served %.0f are decoded; write its files with "
            "smaller row groups (a thousand rows), or build shards of them",
            source.name,
            decoded,
        )
    return blocks


def _commit(source: TextSource, fetcher: Fetcher) -> str | None:
    location = source.recipe.sources()[0].location
    if not location.base.startswith("hf://"):
        return None
    if location.revision and _COMMIT.fullmatch(location.revision):
        return location.revision
    return fetcher.persist(location.base, lambda: hub_commit(location.base, location.revision))


def _make_at_once(source: TextSource, at: str, key: str, cache: Path, fetcher: Fetcher) -> Index:
    """The index of a small source, made by one process of this host while the others wait."""
    from .index_build import in_processes, make_index

    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"text-{key}.lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        if (index := read_index(open_store(at), key)) is not None:  # another process made it meanwhile
            return index
        files = lock.resolve(source.recipe, Path(), fetcher).files
        size_bytes = sum(file.facts.size_bytes or INDEX_AT_ONCE_BYTES for file in files)
        size = f"{len(files):,} files of {size_bytes / 1e9:,.3f} GB"
        if size_bytes >= INDEX_AT_ONCE_BYTES:
            raise UserError(
                f"text source {source.name!r} ({size}) has no index in {at}, without which its order is not known. "
                f"Make it once: {source.command(at)}"
            )
        LOG.warning("text source %r (%s) has no index yet; it is made now, in %s", source.name, size, at)
        index = make_index(source, at, fetcher, in_processes(1, cache / "scratch", fetcher))
    LOG.warning(
        "text source %r is indexed: %s documents, %s tokens, %s blocks",
        source.name,
        f"{index.totals.kept:,}",
        f"{index.totals.tokens:,}",
        f"{sum(file.blocks for file in index.files):,}",
    )
    return index


def _check_files(blocks: TextBlocks, fetcher: Fetcher) -> None:
    """That the files are those of the index, as far as their hosts tell without sending them. Of local ones that were
    written since, or copied, the footers are read: what is in one changes with nearly everything in a file."""
    source, command = blocks.source, blocks.source.command(blocks.at)
    locked = lock.resolve(source.recipe, Path(), fetcher).files
    files = {file.path: file for file in locked}
    left_out = {
        key.removeprefix(f"{source.name}/")
        for key in quarantined(source.rules.quarantine, (file.key for file in locked))
    }
    known = {file.path: file for file in blocks.index.files}
    if added := sorted(set(files) - set(known) - left_out):
        raise StaleIndex(files[added[0]].url, "is not in the index", command)
    for number, (path, file) in enumerate(known.items()):
        if path not in files:
            raise StaleIndex(file.url, "is in the index, but is no longer found", command)
        now = files[path].facts
        try:
            check(file.url, file.facts, now)
        except InputChanged as error:
            raise StaleIndex(
                file.url, f"its {error.field} is {error.found!r}, it was {error.locked!r}", command
            ) from None
        if not files[path].is_remote and now.etag != file.etag and file.size_bytes:
            blocks.footer(number)


@lru_cache(maxsize=4)
def _first_equal(tokenizer: Tokenizer) -> Tokenizer:
    """So that sources with one tokenizer parse it once."""
    return tokenizer
