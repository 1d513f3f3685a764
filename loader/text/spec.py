"""What a user says of text that is to be tokenized on the fly: which parquet files, which tokenizer, which columns.

    TextSource("web", "hf://datasets/HuggingFaceFW/fineweb-edu@COMMIT/sample/10BT/*.parquet", "tokenizer.json")

It becomes a recipe of one corpus, so files are found, locked and refused exactly as a build of shards does it.
"""

import json
import posixpath
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bamba_data import canonical_json, recipe
from bamba_data.cached_property import cached_property
from bamba_data.errors import UserError
from bamba_data.recipe import BadInput, Recipe
from bamba_data.storage.transport import hub_place, is_glob

BLOCK_TOKENS = 1 << 18
NO_RULES = BadInput()


@dataclass(frozen=True)
class TextSource:
    """Text columns of parquet files, local (path), on S3 or any fsspec store, on the hub (hf://) or plain https.

    Attributes:
        name: What the source is called in a mix.
        files: Paths or URLs, literal or with `*`, `**`, `?`; on the hub all of one repository, pinned with @COMMIT.
        tokenizer: A Hugging Face `tokenizer.json`: package:<name> (ships with us), a path or a URL.
        text: The column of the text; several are joined by `join`.
        id: The column of a document's id. None makes one of the file and the row.
        index: Where its index lies: a folder or s3:// URL that all hosts see. None is this host's cache.
        join: What stands between several texts.
        backend: "auto", or a backend of the tokenizer by name.
        block_tokens: Tokens of a block, at least.
        rules: Which texts are left out, as in a recipe (`bad_input`).
        text_field: Instead of `text`: columns of which the first that a row has is its text; `a.b` is a field of a
            struct.
    """

    name: str
    files: str | Sequence[str]
    tokenizer: str
    text: str | Sequence[str] = "text"
    id: str | None = "id"
    index: str | None = None
    join: str = "\n\n"
    backend: str = "auto"
    block_tokens: int = BLOCK_TOKENS
    rules: BadInput = NO_RULES
    text_field: str | Sequence[str] | None = None

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that would build it. Raises RecipeError, which names the field."""
        base, files, revision = _location([self.files] if isinstance(self.files, str) else list(self.files))
        text = {"fields": _listed(self.text), "join": self.join, "id_field": self.id}
        text |= {"text_field": _listed(self.text_field)} if self.text_field is not None else {}
        corpus = {"corpus": "folder", "name": self.name, "base": base, "form": "parquet", "files": files, "text": text}
        raw = {
            "name": self.name,
            "tokenizer": {"url": self.tokenizer, "backend": self.backend},
            "corpora": [corpus | ({"revision": revision} if revision else {})],
            "shards": {"block_tokens": self.block_tokens},
            "bad_input": self.rules.model_dump(mode="json"),
        }
        return recipe.load(json.dumps(raw), f"text source {self.name!r}")

    def key(self, commit: str | None, tokenizer_sha256: str) -> str:
        """The name of its index: of all that was asked for, but what this source is called."""
        asked = self.recipe.model_dump(mode="json")
        (corpus,) = asked["corpora"]
        rules = {name: rule for name, rule in asked["bad_input"].items() if name not in BadInput.verdict_only}
        parts = [corpus["base"], commit, corpus["files"], corpus["text"], self.block_tokens, rules]
        return f"{canonical_json.digest(parts)[:32]}-{tokenizer_sha256[:16]}"

    def command(self, at: str) -> str:
        """The command that makes its index in `at`."""
        words = ["bamba-data", "index", "--name", self.name, "--tokenizer", self.tokenizer]
        words += [word for url in _listed(self.files) for word in ("--files", url)]
        words += [word for column in _listed(self.text) for word in ("--text", column) if self.text != "text"]
        words += [word for column in _listed(self.text_field or []) for word in ("--text-field", column)]
        words += ["--no-id"] if self.id is None else ["--id", self.id] if self.id != "id" else []
        words += ["--join", self.join] if self.join != "\n\n" else []
        words += ["--backend", self.backend] if self.backend != "auto" else []
        words += ["--block-tokens", str(self.block_tokens)] if self.block_tokens != BLOCK_TOKENS else []
        words += ["--rules", self.rules.model_dump_json(exclude_defaults=True)] if self.rules != NO_RULES else []
        return shlex.join([*words, "--out", at])


def text_sources(path: Path | str, index: str | None = None) -> list[TextSource]:
    """The sources of a recipe file, to be tokenized on the fly instead of built. Parquet only, and whole files."""
    path = Path(path)
    loaded = recipe.load_file(path)
    if loaded.limits.files or loaded.limits.documents:
        raise UserError(f"{path}: limits: a text source is read whole; name the files to have")
    sources: list[TextSource] = []
    for source in loaded.sources():
        if source.form != "parquet":
            raise UserError(
                f"{path}: source {source.name} is {source.form}: only parquet can be read at random; build it"
            )
        for name in ("where", "transform"):
            if getattr(source, name) is not None:
                raise UserError(f"{path}: source {source.name}: {name}: a text source is read as it is; build it")
        place = source.location
        base = place.base.rstrip("/") if "://" in place.base else str((path.parent / place.base).absolute())
        at = f"{base}@{place.revision}" if place.revision else base
        sources.append(
            TextSource(
                name=source.name,
                files=[f"{at}/{name}" for name in place.files],
                tokenizer=_beside(loaded.tokenizer.url, path.parent),
                text=source.text.fields,
                id=source.text.id_field,
                index=index,
                join=source.text.join,
                backend=loaded.tokenizer.backend,
                block_tokens=loaded.shards.block_tokens,
                rules=loaded.bad_input,
                text_field=source.text.text_field,
            )
        )
    return sources


def _beside(url: str, folder: Path) -> str:
    return url if ":" in url else str((folder / url).absolute())


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _location(urls: Sequence[str]) -> tuple[str, list[str], str | None]:
    """(base, names below it, revision). On the hub the base is the repository, elsewhere the folder that all share."""
    if not urls:
        raise UserError("a text source needs files")
    schemes = {url.partition("://")[0] if "://" in url else "" for url in urls}
    if len(schemes) > 1:
        raise UserError(f"files of one text source lie in one place, not on {sorted(schemes)}: make it several sources")
    (scheme,) = schemes
    if scheme == "hf":
        places = [hub_place(url) for url in urls]
        repos = {(place.type, place.id, place.revision) for place in places}
        if len(repos) > 1:
            raise UserError(
                f"files of one text source lie in one repository at one commit, not in {sorted(repos, key=str)}"
            )
        ((kind, name, revision),) = repos
        folder = {"dataset": "datasets/", "space": "spaces/", "model": ""}[kind]
        return f"hf://{folder}{name}", [place.path for place in places], revision
    prefix = f"{scheme}://" if scheme else ""
    paths = [url.removeprefix(prefix) if scheme else str(Path(url).absolute()) for url in urls]
    base = posixpath.commonpath([_folder(path) for path in paths])
    if not base:
        raise UserError(f"files of one text source lie below one folder, these do not: {', '.join(urls)}")
    return f"{prefix}{base}", [path[len(base) :].lstrip("/") for path in paths], None


def _folder(path: str) -> str:
    """The folders before the name, or before the first that has a pattern."""
    parts = path.split("/")[:-1]
    plain = next((number for number, part in enumerate(parts) if is_glob(part)), len(parts))
    return "/".join(parts[:plain]) or "/"
