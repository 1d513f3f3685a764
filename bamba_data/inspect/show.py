"""A dataset as a tree for people: sources, shards, tokens, tokenizer, digests, licences. Rendering only."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.tree import Tree

from bamba_data.format.dataset import Dataset
from bamba_data.format.manifest_entries import Account, SourceEntry

if TYPE_CHECKING:
    import polars as pl


def tree(dataset: Dataset, shards: bool = False) -> Tree:
    """Instant at any size, because it reads the manifest alone; with `shards`, their table too."""
    manifest = dataset.manifest
    root = Tree(
        f"[bold]{escape(manifest.name)}[/]  version {dataset.version.number}, "
        f"published {escape(dataset.version.published_at)}\n"
        f"dataset [cyan]{manifest.digest}[/]\n"
        f"identity [cyan]{manifest.identity or 'not stated in this format'}[/]\n{_account(manifest.totals)}"
    )
    if derived := manifest.derived:
        parents = ", ".join(parent.manifest[:16] for parent in derived.parents)
        root.add(f"derived by `{derived.command}` from {parents}; {derived.masks.rows:,} blocks have lost documents")
    tokenizer = manifest.tokenizer
    root.add(
        f"tokenizer {escape(tokenizer.url)}  {tokenizer.vocab_size:,} ids as {tokenizer.token_dtype}\n"
        f"sha256 [cyan]{tokenizer.sha256}[/]"
    )
    for certificate in manifest.backend.certificates:
        root.add(
            f"ids by {escape(certificate.backend)} {escape(certificate.version)}, certified equal to tokenizers "
            f"{escape(certificate.reference_version)} on {certificate.tokens:,} tokens"
        )
    for entry in manifest.software:
        versions = ", ".join(f"{name} {version}" for name, version in entry.versions.items())
        root.add(f"{entry.shards:,} shards written by {escape(versions)}")
    root.add(
        f"while running {manifest.backend.sampled_tokens:,} tokens were compared with the reference, "
        f"{manifest.backend.parts_redone} parts redone"
    )
    for source in manifest.sources:
        branch = root.add(_source(source))
        if shards:
            branch.children = _Shards(dataset.shards.filter(dataset.shards["source"] == source.name))  # type: ignore[assignment]
    return root


class _Shards:
    """A leaf a shard, made when it is drawn: there may be a million."""

    def __init__(self, rows: "pl.DataFrame") -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Tree]:
        for row in self._rows.iter_rows(named=True):
            yield Tree(
                f"{escape(row['path'])}  {row['documents']:,} documents, {row['tokens']:,} tokens, "
                f"{size(row['size_bytes'])}, sha256 [cyan]{row['sha256'][:16]}…[/]"
            )


def _source(source: SourceEntry) -> str:
    revision = escape(f"@{source.revision[:12]}") if source.revision else ""
    lines = [
        f"[bold]{escape(source.name)}[/]  {_account(source.account)}",
        f"{source.shards:,} shards, {source.blocks:,} blocks, {size(source.size_bytes)} "
        f"from {source.files:,} files of {escape(source.base)}{revision}",
        f"{escape(source.license)}: {escape(source.attribution)}",
    ]
    if source.quarantined:
        lines.append(f"[red]{source.quarantined:,} files left out (quarantined)[/]")
    return "\n".join(lines)


def _account(account: Account) -> str:
    text = f"{account.tokens:,} tokens in {account.kept:,} documents"
    lost = [f"{count:,} {reason} dropped" for reason, count in account.dropped.items()]
    lost += [f"{count:,} {reason} dead-lettered" for reason, count in account.dead_lettered.items()]
    lost += [f"{count:,} {note} noted" for note, count in account.notes.items()]
    return f"{text} (of {account.read:,} read: {escape(', '.join(lost))})" if lost else text


def size(count: float) -> str:
    """Bytes for people, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.2f} TB"
