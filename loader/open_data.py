"""What a loader is given, opened: datasets and text sources, as blocks by source name, and the tokenizer they share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bamba_data.errors import UserError
from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.format.manifest_entries import TokenizerEntry

from .cache.location import default_cache
from .chat.blocks import check_alone, open_conversations
from .chat.spec import ConversationSource
from .sources.base import Blocks
from .sources.every_document import for_holdout
from .sources.shards import open_blocks
from .text.open import open_text
from .text.spec import TextSource

#: The URL of a dataset, a dataset that is open, text to be tokenized on the fly, or conversations.
Data = str | Dataset | TextSource | ConversationSource


@dataclass(frozen=True)
class OpenData:
    """A dataset or a text source that is open.

    Attributes:
        blocks: Its sources by name.
        tokenizer: What its ids mean.
        tokenizer_json: Gives the tokenizer's file; it is read only where it is needed.
        is_delimited: Its documents begin and end as they are to: the loader puts no ids around them.
    """

    blocks: Mapping[str, Blocks]
    tokenizer: TokenizerEntry
    tokenizer_json: Callable[[], bytes]
    is_delimited: bool = False


def open_data(data: Data | Path | Sequence[Data | Path], cache: Path) -> list[OpenData]:
    """Open each of `data`. Raises UserError where their ids do not mean the same."""
    if not isinstance(data, Data | Path | Sequence):
        raise UserError(
            f"the data is {data!r}: it can be a URL, a path, a Dataset, a TextSource, a ConversationSource, or a list"
        )
    listed: Sequence[Data | Path] = [data] if isinstance(data, Data | Path) else data
    opened = [_open(str(item) if isinstance(item, Path) else item, cache) for item in listed]
    if any(item.is_delimited for item in opened):
        check_alone(sorted(name for item in opened if not item.is_delimited for name in item.blocks))
    by_tokenizer: dict[str, OpenData] = {}
    for item in opened:
        by_tokenizer.setdefault(item.tokenizer.sha256, item)
    if len(by_tokenizer) > 1:
        named = (f"{', '.join(sorted(item.blocks))} with {digest[:16]}" for digest, item in by_tokenizer.items())
        raise UserError(
            f"the data was made with different tokenizers, whose ids do not mean the same: {'; '.join(named)}"
        )
    return opened


def _open(data: Data, cache: Path) -> OpenData:
    if isinstance(data, TextSource):
        text = open_text(data, cache)
        return OpenData({text.name: text}, text.index.tokenizer, lambda: text.tokenizer.data)
    if isinstance(data, ConversationSource):
        chat = open_conversations(data, cache)
        return OpenData({chat.name: chat}, chat.entry, lambda: chat.tokenizer.data, is_delimited=True)
    dataset = open_dataset(data) if isinstance(data, str) else data
    return OpenData(open_blocks(dataset, cache), dataset.manifest.tokenizer, dataset.tokenizer_json)


def blocks_by_source(opened: Sequence[OpenData]) -> dict[str, Blocks]:
    """All sources by name. Raises UserError where two have one name."""
    sources: dict[str, Blocks] = {}
    for data in opened:
        if twice := sorted(set(data.blocks) & set(sources)):
            raise UserError(f"two of the data have sources of one name: {twice}")
        sources |= data.blocks
    return sources


def identities(
    data: Data | Path | Sequence[Data | Path], cache: Path | str | None = None, holdout: float = 0.0
) -> dict[str, str]:
    """The identity of every source, by name: what `MixPlan.with_mix(sources=...)` takes for sources that join.

    Args:
        holdout: The share of documents that the plan holds out, where that is above 0.005: the ids of all documents
            decide its rows, so they are part of an identity there.
    """
    folder = default_cache() if cache is None else Path(cache)
    sources = for_holdout(blocks_by_source(open_data(data, folder)), round(holdout * 1e6))
    return {name: blocks.identity for name, blocks in sources.items()}
