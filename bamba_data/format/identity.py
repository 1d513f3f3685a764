"""What a dataset is, apart from who wrote it, when and with which libraries: its identity.

Of a source, in the order of its blocks:

    content        documents, tokens and digest of every block (the digest is over token ids and where documents end),
                   and the documents that may be held out: block, place in it, tokens, hash of the id
    document_ids   the digest of every block's document ids

Of a dataset: the sha256 of the tokenizer, the width of ids, and name, content and document ids of every source, in
order. Groups of blocks follow from the blocks' counts. Paths, shards, sizes, offsets, compression, inputs, licences
and software are no part of it: they are a publication's, and the digest of a manifest names one of those.

The first format of the manifest has no digests of document ids: there they are None, unknown.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bamba_data import canonical_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = Sequence[int] | NDArray[Any]


@dataclass(frozen=True)
class SourceIdentity:
    """sha256s in hex; `document_ids` is None where nothing that is written down tells them."""

    content: str
    document_ids: str | None


class IdsDigest:
    """16 bytes that change with any document id of a block, or their order: xxh3-128 over the ids in UTF-8, each after
    its length in bytes (uint32, little-endian)."""

    def __init__(self) -> None:
        import xxhash

        self._hashed = xxhash.xxh3_128()

    def update(self, document_ids: Iterable[str]) -> None:
        """The next ids of the block."""
        self.update_encoded(document_id.encode("utf-8", "surrogatepass") for document_id in document_ids)

    def update_encoded(self, document_ids: Iterable[bytes]) -> None:
        """The same of ids in UTF-8."""
        self._hashed.update(b"".join([len(data).to_bytes(4, "little") + data for data in document_ids]))

    def digest(self) -> bytes:
        return self._hashed.digest()


def ids_digest(document_ids: Iterable[str]) -> bytes:
    """The same of all ids at once."""
    digest = IdsDigest()
    digest.update(document_ids)
    return digest.digest()


def of_dataset(tokenizer: str, token_dtype: str, sources: Mapping[str, SourceIdentity]) -> str:
    """The identity of a dataset: sha256 in hex. `tokenizer` is the sha256 of its file."""
    rows = [[name, identity.content, identity.document_ids] for name, identity in sources.items()]
    return canonical_json.digest({"tokenizer": tokenizer, "token_dtype": token_dtype, "sources": rows})


class Identifying:
    """The identity of a source, from what the tables of blocks and candidates say of it, a few rows at a time."""

    def __init__(self) -> None:
        self.blocks = 0
        self._columns = {name: hashlib.sha256() for name in _CONTENT}
        self._ids: Any = hashlib.sha256()

    def add_blocks(
        self, documents: "Numbers", tokens: "Numbers", digests: Sequence[bytes], ids: Sequence[bytes] | None
    ) -> None:
        """The next blocks; `digests` may be joined. Without `ids` (digests of document ids) those are unknown."""
        self._update(documents=documents, tokens=tokens)
        self._columns["digest"].update(b"".join(digests))
        if ids is None:
            self._ids = None
        elif self._ids is not None:
            self._ids.update(b"".join(ids))
        self.blocks += len(documents)

    def add_candidates(self, blocks: "Numbers", documents: "Numbers", tokens: "Numbers", hashes: "Numbers") -> None:
        """The next documents that may be held out; `blocks` counts within the source."""
        self._update(
            candidate_block=blocks, candidate_document=documents, candidate_tokens=tokens, candidate_hash=hashes
        )

    def done(self) -> SourceIdentity:
        content = canonical_json.digest({name: column.hexdigest() for name, column in self._columns.items()})
        return SourceIdentity(content, self._ids.hexdigest() if self._ids is not None else None)

    def _update(self, **columns: "Numbers") -> None:
        # Column by column, eight bytes a value: then it does not matter in how many steps they come.
        import numpy as np  # here: who only shows a manifest does not wait for it

        for name, values in columns.items():
            self._columns[name].update(np.asarray(values, "<u8").tobytes())


_CONTENT = (
    "documents",
    "tokens",
    "digest",
    "candidate_block",
    "candidate_document",
    "candidate_tokens",
    "candidate_hash",
)


ROWS_AT_ONCE = 1 << 16


def of_tables(names: Sequence[str], blocks: Any, candidates: Any) -> dict[str, SourceIdentity]:
    """The identities of sources, from the tables of a dataset (Polars frames, in the order of shards and blocks)."""
    import numpy as np
    import polars as pl

    identities: dict[str, SourceIdentity] = {}
    for name in names:
        is_mine, identifying, keys = pl.col("source") == name, Identifying(), []
        for part in (blocks.head(0), *blocks.iter_slices(ROWS_AT_ONCE)):
            mine = part.filter(is_mine)
            ids = mine["ids_digest"].to_list() if "ids_digest" in mine.columns else None
            identifying.add_blocks(
                mine["documents"].to_numpy(), mine["tokens"].to_numpy(), mine["digest"].to_list(), ids
            )
            keys.append(_keys(mine))
        held_out = candidates.filter(is_mine)
        places = _places(np.concatenate(keys), _keys(held_out))
        if places is None:  # of damaged tables: what they say all the same
            numbered = blocks.filter(is_mine).select("shard", "block").with_row_index("place")
            held_out = held_out.join(numbered, on=["shard", "block"], maintain_order="left")
            places = held_out["place"].to_numpy()
        identifying.add_candidates(places, *(held_out[column].to_numpy() for column in ("document", "tokens", "hash")))
        identities[name] = identifying.done()
    return identities


def _keys(rows: Any) -> "NDArray[Any]":
    """Numbers that are ordered as the blocks of these rows are."""
    import numpy as np

    shards, blocks = (np.asarray(rows[name].to_numpy(), np.uint64) for name in ("shard", "block"))
    return shards << np.uint64(32) | blocks


def _places(blocks: "NDArray[Any]", wanted: "NDArray[Any]") -> "NDArray[Any] | None":
    """Where the wanted ones stand among the blocks, both by their keys; None if blocks are not in order, or not all are
    there. Of millions of blocks a join takes some 200 bytes each."""
    import numpy as np

    if not (blocks[1:] > blocks[:-1]).all():
        return None
    places = np.searchsorted(blocks, wanted)
    there = places < len(blocks)
    return places if there.all() and (blocks[places] == wanted).all() else None
