"""Pages of the documents of a source, and a search through their texts and ids, a bounded piece at a time.

A search reads the source in order and stops where it has enough, or has decoded MAX_SEARCHED_TOKENS: the answer says at
which document to go on, so that no question takes long, and the page asks again by itself.
"""

from collections.abc import Mapping
from dataclasses import asdict
from threading import Lock
from typing import Any

from bamba_data.errors import UserError
from bamba_data.format.dataset import Dataset
from bamba_data.tokenization.tokenizer import Tokenizer

from .documents import MAX_TEXT_CHARS, Documents, Found

MAX_DOCUMENTS = 100
MAX_SEARCH_CHARS = 200
MAX_SEARCHED_TOKENS = 500_000
MAX_NUMBER_DIGITS = 18
PARAMETERS = ("source", "from", "limit", "search")


class Browser:
    """Answers questions about the documents of a dataset. Several threads may ask; one is answered at a time."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._tokenizer = Tokenizer(dataset.tokenizer_json())
        self._sources: dict[str, Documents] = {}
        self._lock = Lock()

    def answer(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """The documents that are asked for.

        Args:
            asked: `source`; `from`, the number of the first document that may come; `limit`, how many at most; and
                `search`, what their text or id has, in capital or small letters.

        Returns:
            `documents`, as a page shows them; `looked_at`, how many were gone through; `of` how many; and `next`, from
            which number to go on, None at the end.

        Raises:
            UserError: there is no such source or parameter, or a number is none.
            CorruptShard: a block on the way is damaged.
        """
        if unknown := sorted(set(asked) - set(PARAMETERS)):
            raise UserError(f"no parameter {unknown[0][:40]!r}: there are {', '.join(PARAMETERS)}")
        search = asked.get("search", "").strip().casefold()
        if len(search) > MAX_SEARCH_CHARS:
            raise UserError(f"search has more than {MAX_SEARCH_CHARS} characters")
        first, limit = _number("from", asked.get("from", "0")), _number("limit", asked.get("limit", "20"))
        if not 1 <= limit <= MAX_DOCUMENTS:
            raise UserError(f"limit is {limit}: it can be 1 to {MAX_DOCUMENTS}")
        with self._lock:
            return self._answer(self._documents(asked.get("source", "")), first, limit, search)

    def _answer(self, documents: Documents, first: int, limit: int, search: str) -> dict[str, Any]:
        shown: list[dict[str, Any]] = []
        number, searched_tokens = first, 0
        while number < documents.count and len(shown) < limit and searched_tokens < MAX_SEARCHED_TOKENS:
            block = documents.block_of(number)
            chosen: list[Found] = []
            for found in documents.read(block)[number - documents.first_number(block) :]:
                if len(shown) + len(chosen) >= limit or searched_tokens >= MAX_SEARCHED_TOKENS:
                    break
                number = found.number + 1
                if search:
                    searched_tokens += len(found.ids)
                if not search or _has(documents, found, search):
                    chosen.append(found)
            shown += (asdict(one) for one in documents.shown(block, chosen, MAX_TEXT_CHARS))
        return {
            "documents": shown,
            "looked_at": max(0, min(number, documents.count) - first),
            "of": documents.count,
            "next": number if number < documents.count else None,
        }

    def _documents(self, source: str) -> Documents:
        if self._dataset.manifest.source(source) is None:
            raise UserError(f"no source {source[:80]!r}")
        if source not in self._sources:
            self._sources[source] = Documents(self._dataset, source, self._tokenizer)
        return self._sources[source]


def _has(documents: Documents, found: Found, search: str) -> bool:
    return search in found.document_id.casefold() or search in documents.decode(found, None).text.casefold()


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_NUMBER_DIGITS):
        raise UserError(f"{name} is {text[:40]!r}: it can be a whole number from 0")
    return int(text)
