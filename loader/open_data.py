"""What a loader is given, opened: datasets and text sources, as blocks by source name, and the tokenizer they share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bamba_data.errors import UserError
from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.format.manifest import TokenizerEntry

from .cache.location import default_cache
from .sources.base import Blocks
from .sources.shards import open_blocks
from .text.open import open_text
from .text.spec import TextSource

#: The URL of a dataset, a dataset that is open, or text to be tokenized on the fly.
Data = str | Dataset | TextSource


@dataclass(frozen=True)
class Opened:
    """One of them. `tokenizer_json` gives the tokenizer file."""

    blocks: Mapping[str, Blocks]
    tokenizer: TokenizerEntry
    tokenizer_json: Callable[[], bytes]


def open_data(data: Data | Path | Sequence[Data | Path], cache: Path) -> list[Opened]:
    """Each of `data`. Raises UserError where their ids do not mean the same."""
    if not isinstance(data, Data | Path | Sequence):
        raise UserError(f"the data is {data!r}: it can be a URL, a path, a Dataset, a TextSource, or a list of these")
    listed: Sequence[Data | Path] = [data] if isinstance(data, Data | Path) else data
    opened = [_open(str(one) if isinstance(one, Path) else one, cache) for one in listed]
    first: dict[str, Opened] = {}
    for one in opened:
        first.setdefault(one.tokenizer.sha256, one)
    if len(first) > 1:
        named = (f"{', '.join(sorted(one.blocks))} with {digest[:16]}" for digest, one in first.items())
        raise UserError(
            f"the data was made with different tokenizers, whose ids do not mean the same: {'; '.join(named)}"
        )
    return opened


def _open(one: Data, cache: Path) -> Opened:
    if isinstance(one, TextSource):
        text = open_text(one, cache)
        return Opened({text.name: text}, text.index.tokenizer, lambda: text.tokenizer.data)
    dataset = open_dataset(one) if isinstance(one, str) else one
    return Opened(open_blocks(dataset, cache), dataset.manifest.tokenizer, dataset.tokenizer_json)


def available(opened: Sequence[Opened]) -> dict[str, Blocks]:
    """All blocks by source name. Raises UserError where two have one name."""
    found: dict[str, Blocks] = {}
    for one in opened:
        if twice := sorted(set(one.blocks) & set(found)):
            raise UserError(f"two of the data have sources of one name: {twice}")
        found |= one.blocks
    return found


def identities(data: Data | Path | Sequence[Data | Path], cache: Path | str | None = None) -> dict[str, str]:
    """The identity of every source, by name: what `MixPlan.with_mix(sources=...)` takes for sources that join."""
    folder = default_cache() if cache is None else Path(cache)
    return {name: blocks.identity for name, blocks in available(open_data(data, folder)).items()}
