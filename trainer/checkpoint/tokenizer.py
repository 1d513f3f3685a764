"""The tokenizer of a checkpoint: out of the dataset that it was trained on, or from the folder that was imported.

    tokenizer = of_checkpoint(saved)            # what the commit's datasets carry
    tokenizer = of_file(Path("tokenizer.json"))

It knows which tokens begin and end a document, since the plan of the run says what the loader put there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bamba.loader.chat.template import template_of, tokenizer_file
from bamba_data import canonical_json
from bamba_data.errors import BambaError, CorruptCheckpoint, UserError
from bamba_data.format.dataset import open_dataset

from .reader import SavedCheckpoint

FILE = "tokenizer.json"


@dataclass(frozen=True)
class RunTokenizer:
    """`data` is a tokenizer.json; `bos` and `eos` are the ids that begin and end a document, `where` its origin;
    `chat_template` is how conversations were written in training, here or before an import, with the names of
    `special_tokens` that it uses."""

    data: bytes
    bos: int | None
    eos: int | None
    where: str
    chat_template: str | None = None
    special_tokens: tuple[tuple[str, str], ...] = ()

    @property
    def tokenizer(self) -> Tokenizer:
        return parsed(self.data, self.where)

    def with_tokens(self, bos: str | None, eos: str | None) -> "RunTokenizer":
        """The same with the tokens of these names, where they are given; `UserError` for one that it has not."""
        return replace(self, bos=self._id(bos, self.bos), eos=self._id(eos, self.eos))

    def _id(self, token: str | None, otherwise: int | None) -> int | None:
        if token is None:
            return otherwise
        number: int | None = self.tokenizer.token_to_id(token)
        if number is None:
            raise UserError(f"{self.where} has no token {token!r}")
        return number


def parsed(data: bytes, where: str) -> Tokenizer:
    """The tokenizer in a tokenizer.json; `UserError` names the file where it is none."""
    try:
        return Tokenizer.from_buffer(data)
    except Exception as error:  # noqa: BLE001  (the library raises plain Exception, and ValueError)
        raise UserError(f"{where} is no tokenizer.json: {str(error)[:120]}") from None


def of_file(path: Path) -> RunTokenizer:
    """One that somebody names."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    parsed(data, str(path))
    return RunTokenizer(data, None, None, str(path))


def of_checkpoint(saved: SavedCheckpoint, given: Path | None = None) -> RunTokenizer:
    """`given`, or the tokenizer of the checkpoint's own data; its tokens must fit into the model's vocabulary.

    Raises UserError where there is none to be had (the dataset is elsewhere now), and names the way out.
    """
    chosen = of_file(given) if given else _of_import(saved) or _of_conversations(saved) or _of_datasets(saved)
    if (count := chosen.tokenizer.get_vocab_size(with_added_tokens=True)) > saved.config.vocab_size:
        raise UserError(
            f"{chosen.where} has {count:,} tokens, the model {saved.config.vocab_size:,}: "
            "it is not the model's tokenizer"
        )
    begin, end = _delimiters(saved.commit)
    bos, eos = chosen.bos, chosen.eos
    return replace(chosen, bos=begin if bos is None else bos, eos=end if eos is None else eos)


def _of_import(saved: SavedCheckpoint) -> RunTokenizer | None:
    about = saved.commit.get("hf") or {}
    digest = about.get("tokenizer_sha256")
    if not digest:
        return None
    path = f"{saved.name}/{FILE}"
    data = saved.store.read(path)
    if canonical_json.sha256(data) != digest:
        raise CorruptCheckpoint(f"{saved.store.url}/{path}", "is not the tokenizer that was imported with the model")
    return RunTokenizer(
        data,
        about.get("bos_token_id"),
        about.get("eos_token_id"),
        f"{saved.store.url}/{path}",
        about.get("chat_template"),
        tuple((about.get("special_tokens") or {}).items()),
    )


def _of_conversations(saved: SavedCheckpoint) -> RunTokenizer | None:
    """The one that made the conversations into ids, and its chat template, which an export hands on."""
    data = saved.commit["recipe"].get("data") or {}
    asked = data.get("conversations") or {}
    if not asked.get("files"):
        return None
    template = template_of(asked["tokenizer"], asked["template"])
    chosen = of_file(tokenizer_file(asked["tokenizer"]))
    ids = {name: chosen.tokenizer.token_to_id(text) for name, text in template.special_tokens}
    return replace(
        chosen,
        bos=ids.get("bos_token"),
        eos=ids.get("eos_token"),
        chat_template=template.text,
        special_tokens=template.special_tokens,
    )


def _of_datasets(saved: SavedCheckpoint) -> RunTokenizer:
    urls: Sequence[str] = (saved.commit["recipe"].get("data") or {}).get("urls") or []
    if not urls:
        raise UserError(
            f"{saved.store.url}/{saved.name} names no dataset to take the tokenizer from: give --tokenizer FILE"
        )
    try:
        data = open_dataset(urls[0]).tokenizer_json()
    except (BambaError, OSError) as error:
        raise UserError(
            f"the tokenizer lies in the dataset, which cannot be opened ({error}): give --tokenizer FILE"
        ) from None
    return RunTokenizer(data, None, None, f"the tokenizer of {urls[0]}")


def _delimiters(commit: dict[str, Any]) -> tuple[int | None, int | None]:
    """The ids that the loader put before and after each document, where it is a single one."""
    feed = commit.get("feed") or {}
    header = (feed.get("plan") or {}).get("header") or feed.get("delimiters") or {}  # an average may have no plan
    before, after = header.get("before") or [], header.get("after") or []
    return (before[0] if len(before) == 1 else None), (after[0] if len(after) == 1 else None)
