"""README.md: a dataset card, by whose header `datasets.load_dataset(FOLDER)` finds the shards of the newest version.

The last line of what is ours is a seal, with the sha256 of all before it: so a card is known as ours, unedited, and
what somebody wrote below the seal is carried from card to card.
"""

import hashlib
import html
import re
from collections.abc import Iterator, Sequence
from typing import Any

from bamba_data.format.dataset import Dataset
from bamba_data.format.layout import table_path, tokenizer_path
from bamba_data.format.manifest_entries import SourceEntry
from bamba_data.terminal import printable

from .configs import Config, configs
from .licences import UNKNOWN, hub_licences

#: The path that a card without anything to read names: whoever loads it is told that there is no such file.
NOTHING = "no-version-is-offered.parquet"
_SEAL = re.compile(r"^<!-- bamba-data card, sha256 ([0-9a-f]{64}): .* -->\n", re.MULTILINE)
_SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000, 100_000_000_000)
_SIZE_NAMES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


def readme(dataset: Dataset, tags: Sequence[str] = (), is_whole: bool = True) -> str:
    """The card of a version, to its seal. `tags` are the names of that version, and `is_whole` whether all of its files
    lie where the card does."""
    return _sealed(_header(dataset, is_whole) + "\n".join(_body(dataset, tags, is_whole)) + "\n")


def readme_of_nothing() -> str:
    """The card of a place where versions were published and none is offered: nothing can be loaded by it."""
    head = _yaml({"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": NOTHING}]}]})
    said = "All versions of this dataset are withdrawn or expired. `bamba-data versions` says when and why."
    return _sealed(f"---\n{head}---\n\n{said}\n")


def tail_of(text: str) -> str | None:
    """What stands below our seal; None if the text is not a card of ours, or what is ours of it was edited."""
    seal = _SEAL.search(text)
    if seal is None or _sha256(text[: seal.start()]) != seal[1]:
        return None
    return text[seal.end() :]


def _sealed(text: str) -> str:
    return (
        f"{text}<!-- bamba-data card, sha256 {_sha256(text)}: made from the manifest, and anew when another version is "
        "the newest. What you write below this line stays. -->\n"
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# ---- the header, for programs


def _header(dataset: Dataset, is_whole: bool) -> str:
    manifest = dataset.manifest
    licences = hub_licences(source.license for source in manifest.sources)
    fields: dict[str, Any] = {
        "pretty_name": printable(manifest.name),
        "license": licences[0] if len(licences) == 1 else licences,
        **({"license_name": "by-source"} if licences == [UNKNOWN] else {}),
        "size_categories": [_size_category(manifest.totals.kept)],
        "task_categories": ["text-generation"],
        "tags": ["bamba-data", "tokenized"],
        "configs": [_yaml_config(config) for config in configs(dataset, is_whole)]
        or [_yaml_config(Config("default", None, ()))],
    }
    return f"---\n{_yaml(fields)}---\n\n"


def _yaml_config(config: Config) -> dict[str, Any]:
    return {
        "config_name": config.name,
        **({"default": True} if config.source is None else {}),
        "data_files": [{"split": "train", "path": list(config.paths) or [NOTHING]}],
    }


def _yaml(fields: dict[str, Any]) -> str:
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast, where there are thousands of files
    return str(yaml.dump(fields, Dumper=dumper, sort_keys=False, allow_unicode=True, width=10_000))


def _size_category(documents: int) -> str:
    place = sum(documents >= size for size in _SIZES)
    if place == 0:
        return "n<1K"
    return f"{_SIZE_NAMES[place - 1]}<n<{_SIZE_NAMES[place]}" if place < len(_SIZES) else "n>1T"


# ---- the body, for people


def _body(dataset: Dataset, tags: Sequence[str], is_whole: bool) -> Iterator[str]:
    manifest, totals = dataset.manifest, dataset.manifest.totals
    tokenizer = manifest.tokenizer
    width = "uint16" if tokenizer.token_dtype == "<u2" else "uint32"
    named = f", tagged {', '.join(tags)}" if tags else ""
    yield f"# {_markdown(manifest.name)}\n"
    yield (
        f"{totals.tokens:,} tokens in {totals.kept:,} documents, version {dataset.version.number} (published "
        f"{dataset.version.published_at}{named}). Ids are little-endian {width}, of "
        f"[a tokenizer with {tokenizer.vocab_size:,} ids]({tokenizer_path(tokenizer.sha256)}) "
        f"({_markdown(tokenizer.url)}), without special tokens.\n"
    )
    yield "## Sources\n"
    yield "| config | tokens | documents | shards | licence |\n|---|---:|---:|---:|---|"
    found = configs(dataset, is_whole)
    for config in found[:1]:
        yield f"| `{config.name}` | {totals.tokens:,} | {totals.kept:,} | {len(config.paths):,} | all below |"
    yield from map(_row, manifest.sources)
    yield ""
    yield from map(_attribution, manifest.sources)
    if found:
        yield from _how_to_load(dataset, found)
    elif masked := len(dataset.masks):
        yield (
            f"\nDocuments in {masked:,} blocks of the shards were dropped and lie in the files still, so this card "
            "names none: a reader of the files alone would give them back. Loaders of bamba-data leave them out; "
            "`bamba-data compact` writes the files anew without them.\n"
        )
    elif not is_whole:
        stores = dataset.elsewhere["store"].unique().sort().to_list()
        yield (
            f"\nShards of this version lie in other places ({_markdown(', '.join(stores))}), so this card names none: "
            "loaders of bamba-data read them there, and `bamba-data push` makes a copy that has them all.\n"
        )
    yield "\n## What exactly this is\n"
    yield f"- identity (same documents, same ids): `{dataset.identity}`"
    yield f"- manifest of this version: `{manifest.digest}`"
    yield f"- tokenizer, sha256: `{tokenizer.sha256}`"
    yield (
        "\n`bamba-data verify FOLDER --full` checks every byte against these; `bamba-data trace` leads from a row to "
        "the line of the upstream file. `croissant.json` has the sha256 of every shard.\n"
    )


def _row(source: SourceEntry) -> str:
    name = f"`{source.name}`" if source.shards else f"{source.name} (nothing in it)"
    licence = _markdown(source.license) or "not stated"
    account = source.account
    return f"| {name} | {account.tokens:,} | {account.kept:,} | {source.shards:,} | {licence} |"


def _attribution(source: SourceEntry) -> str:
    revision = f" at `{source.revision}`" if source.revision else ""
    said = [text for text in (_markdown(source.attribution), _markdown(source.homepage)) if text]
    return f"- **{source.name}**: {'; '.join([*said, f'read from {_markdown(source.base)}{revision}'])}"


def _how_to_load(dataset: Dataset, found: Sequence[Config]) -> Iterator[str]:
    whole, first = found[0], found[1]
    dtype = dataset.manifest.tokenizer.token_dtype
    named = "" if whole.name == "default" else f'"{whole.name}", '
    yield "\n## Load\n"
    yield (
        "`folder` is where this file lies (`datasets` takes the hub's name of it, too). A row is a document: `tokens` "
        "(its ids, as bytes), `token_count`, `document_id`, and `file` and `row`, where it came from.\n"
    )
    yield f"""```python
import numpy as np
from datasets import load_dataset

rows = load_dataset(folder, {named}split="train")  # one source: load_dataset(folder, "{first.name}", split="train")
ids = np.frombuffer(rows[0]["tokens"], "{dtype}")
```
"""
    tables = [f'f"{{folder}}/{table_path(table.sha256)}"' for table in dataset.manifest.table_parts("shards")]
    listed = tables[0] if len(tables) == 1 else f"[{', '.join(tables)}]"
    yield f"""```python
import duckdb

shards = {listed}
duckdb.execute("set variable files = (select list(? || '/' || path) from read_parquet(?))", [folder, shards])
duckdb.sql("select count(*), sum(token_count) from read_parquet(getvariable('files'))").show()
```
"""
    yield """```python
from bamba.loader import build_loader  # pip install bamba-data[torch]

loader = build_loader(folder, row_tokens=4096, batch_rows=8, seed=0)  # the same rows for any number of ranks
```
"""
    yield (
        "Do not read `dataset=*/*.parquet`: beside these shards may lie those of other versions, and what an "
        "unfinished build left."
    )


def _markdown(text: str) -> str:
    """Words of other people as text: one line, no markup, no HTML, no hidden control."""
    line = " ".join(printable(text).split())
    return re.sub(r"([\\`*_{}\[\]|])", r"\\\1", html.escape(line, quote=False))
