"""Conversations as blocks of the order. Their ids are made once a host and kept in its cache, by what they are made of.

The key is a digest of the files' bytes, the tokenizer, the template and the rules, so nothing in the cache can be out
of date, and files that change are another source: a run does not go on with them by accident.
"""

import fcntl
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import xxhash
from numpy.typing import NDArray

from bamba_data.canonical_json import dumps, sha256
from bamba_data.errors import UserError
from bamba_data.format.manifest_entries import TokenizerEntry
from bamba_data.format.shard import Tokens, block_digest
from bamba_data.tokenization.tokenizer import Tokenizer

from ..cache.array_file import read_arrays, write_arrays
from ..sources.base import Indexed
from .files import ConversationFile, read_files
from .spec import ConversationSource
from .template import ChatTemplate, template_of, tokenizer_file
from .tokens import tokenized

LOG = logging.getLogger(__name__)

FORMAT = "bamba-conversations/1"  # of the cache; another one is made anew
BLOCK_TOKENS = 1 << 16
CANDIDATES_SHARE = 0.005  # as a dataset has them
DTYPES = ("<u4", "<u4", "u1")  # ids, counts, the account as JSON


@dataclass(frozen=True)
class ConversationBlocks(Indexed):
    """See `loader.sources.base.Blocks`. Ids carry the mark NO_TARGET, as of transformed documents.

    Attributes:
        source: What was asked for.
        tokenizer: What the ids mean.
        arrays: As `_arrays` makes them.
        ids: Of all conversations end to end, uint32.
        lengths: Tokens of each conversation.
        account: What was kept and what was not, in words.
        cache: The folder that it was opened with.
    """

    source: ConversationSource
    tokenizer: Tokenizer
    arrays: Mapping[str, NDArray[Any]]
    ids: NDArray[np.uint32] = field(repr=False)
    lengths: NDArray[np.uint32] = field(repr=False)
    account: str
    cache: Path

    has_marks = True

    def __reduce__(self) -> Any:
        """In another process it is opened anew: maps of files do not travel."""
        return open_conversations, (self.source, self.cache)

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def identity(self) -> str:
        content = sha256(b"".join(self.arrays[name].tobytes() for name in ("documents", "tokens", "digest")))
        return f"conversations:{content[:32]}/{self.tokenizer.sha256[:16]}"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("<u4")

    @property
    def entry(self) -> TokenizerEntry:
        """The tokenizer as a dataset states one."""
        return TokenizerEntry(
            url=str(tokenizer_file(self.source.tokenizer)),
            sha256=self.tokenizer.sha256,
            vocab_size=self.tokenizer.vocab_size,
            token_dtype="<u4",
        )

    def read(self, block: int) -> Tokens:
        """From memory: what the cache gave was verified when it was opened."""
        begin = int(self.arrays["begin"][block])
        return Tokens(self.ids[begin : begin + int(self.tokens[block])], self.counts(block))

    def counts(self, block: int) -> NDArray[np.uint32]:
        """Tokens of each conversation of a block."""
        first = int(self.arrays["first"][block])
        return self.lengths[first : first + int(self.documents[block])]


def open_conversations(source: ConversationSource, cache: Path) -> ConversationBlocks:
    """Tokenized by the first process of a host, while the others wait; found in `cache` afterwards.

    Raises:
        UserError: What `files`, `template` and `tokens` refuse, with its place and the way out.
    """
    files = read_files(source)
    tokenizer = Tokenizer(tokenizer_file(source.tokenizer).read_bytes())
    template = template_of(source.tokenizer, source.template)
    key = _key(source, files, tokenizer, template)
    folder = cache / "conversations"
    path = folder / f"{key.hex()}.arrays"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{key.hex()}.lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        found = read_arrays(path, key, DTYPES) if path.exists() else None
        if found is None or len(found) != len(DTYPES):
            path.unlink(missing_ok=True)
            made = tokenized(files, source, tokenizer, template)
            words = f"{made.account.words}; {len(made.ids):,} tokens, {int((made.ids < 1 << 31).sum()):,} to be learned"
            found = [made.ids, made.counts, np.frombuffer(words.encode(), np.uint8)]
            write_arrays(path, key, found)
            LOG.warning("conversations %r: %s", source.name, words)
    ids, counts, words_bytes = found
    return ConversationBlocks(
        source, tokenizer, _arrays(ids, counts), ids, counts, words_bytes.tobytes().decode(), cache
    )


def _key(
    source: ConversationSource, files: list[ConversationFile], tokenizer: Tokenizer, template: ChatTemplate
) -> bytes:
    """16 bytes of all that decides the ids; the name of the source and where files lie do not."""
    rules = {
        "format": FORMAT,
        "tokenizers": tokenizers.__version__,
        "tokenizer": tokenizer.sha256,
        "template": template.text,
        "special_tokens": dict(template.special_tokens),
        "rules": [source.column, source.form, source.max_tokens, source.too_long, source.bad],
        "files": [[file.url.rpartition(".")[2], sha256(file.data)] for file in files],
    }
    return xxhash.xxh3_128_digest(dumps(rules))


def _arrays(ids: NDArray[np.uint32], counts: NDArray[np.uint32]) -> dict[str, NDArray[Any]]:
    """What `Indexed` asks, and of each block its `first` document and the `begin` of its ids."""
    ends = np.cumsum(counts, dtype=np.int64)
    begins = ends - counts
    first = np.unique(begins // BLOCK_TOKENS, return_index=True)[1].astype(np.int64)
    documents = np.diff(first, append=len(counts))
    begin = begins[first]
    tokens = np.diff(begin, append=len(ids))
    digests = [
        bytes.fromhex(block_digest(ids[at : at + size].data, counts[number : number + many]))
        for at, size, number, many in zip(begin, tokens, first, documents, strict=True)
    ]
    hashes = np.array([xxhash.xxh3_64_intdigest(one.tobytes()) for one in np.split(ids, ends[:-1])], np.uint64)
    chosen = np.flatnonzero(hashes < np.uint64(2**64 * CANDIDATES_SHARE))
    block = first.searchsorted(chosen, side="right") - 1
    return {
        "documents": documents,
        "tokens": tokens,
        "digest": np.frombuffer(b"".join(digests), "<u8"),
        "first": first,
        "begin": begin,
        "candidate_block": block,
        "candidate_document": chosen - first[block],
        "candidate_tokens": counts[chosen].astype(np.int64),
        "candidate_hash": hashes[chosen],
    }


def check_alone(names: list[str]) -> None:
    """Conversations end as their template says, other documents by an id of the loader's: one order has one way."""
    if names:
        raise UserError(
            f"conversations beside other data ({', '.join(names)}): a template writes where a conversation ends, the "
            "loader where other documents do, so they cannot share an order; train on one after the other (start_from)"
        )
