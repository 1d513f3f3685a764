"""A dataset of any number of shards with all that its build leaves beside it, though few of its documents are encoded.

One input is built in earnest. All inputs, and the shards of them, are further names of its files; the records of their
units are its own with other names in them, and from these the build itself assembles, verifies and publishes. An input
is a unit of three shards, with two blocks of two documents each, and one candidate for holding out.
"""

import dataclasses
import os
import shutil
from pathlib import Path

from bamba_data.document import Ledger
from bamba_data.format.holdout_candidates import LIMIT, id_hash
from bamba_data.format.layout import part_path, shard_folder
from bamba_data.format.unit_records import Part, UnitRecord
from bamba_data.storage.fetch import Fetcher
from bamba_data.tokenization.conformance import choose
from bamba_data.tokenization.tokenizer import Tokenizer
from pipelines.dataset_build import reuse
from pipelines.dataset_build.driver import Prepared, finish, run_here
from pipelines.dataset_build.plan import Unit
from pipelines.dataset_build.staged_records import Staging
from tests.building import prepared
from tests.corpora import TOKENIZER, texts, write_jsonl

SHARDS_AN_INPUT = 3
DOCUMENTS_AN_INPUT = 12
TEXT_CHARS = 280  # some 65 tokens: two of them fill a block
NAMES_A_FILE = 60_000  # ext4 takes 65,000
RECIPE = """
name: many
tokenizer: {url: package:TOKENIZER, backend: tokenizers}
corpora:
  - {corpus: folder, name: lines, base: BASE, form: jsonl, files: ["*.json.gz"], license: CC0-1.0}
shards: {block_tokens: 100, blocks_per_shard: 2}
unit_bytes: 1
"""


class Names:
    """Gives a file further names; and copies of it, where it has as many as a disk takes."""

    def __init__(self, file: Path) -> None:
        self._file, self._given = file, 0

    def give(self, path: Path) -> None:
        self._given += 1
        if self._given % NAMES_A_FILE:
            os.link(self._file, path)
        else:
            shutil.copyfile(self._file, path)
            self._file = path


def make(folder: Path, shards: int) -> None:
    """A dataset of at least so many shards at `folder`/dataset, by `folder`/recipe.yaml from `folder`/inputs."""
    one = _recipe(folder / "one")
    write_jsonl(folder / "one" / "inputs" / "0.json.gz", _documents())
    _, certificate, _ = choose(Tokenizer(TOKENIZER.read_bytes()), "tokenizers")
    template = prepared(folder / "one" / "dataset", certificate, str(one))
    if faults := run_here(template, Fetcher()):
        raise faults[0]
    recipe = _recipe(folder)
    names = Names(folder / "one" / "inputs" / "0.json.gz")
    for number in range(-(-shards // SHARDS_AN_INPUT)):
        names.give(folder / "inputs" / f"{number:07d}.json.gz")
    ready = prepared(folder / "dataset", certificate, str(recipe))
    _stage(folder / "one" / "dataset", template, ready)
    finish(ready)


def _recipe(folder: Path) -> Path:
    (folder / "inputs").mkdir(parents=True)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.replace("TOKENIZER", TOKENIZER.name).replace("BASE", str(folder / "inputs")))
    return path


def _documents() -> list[dict[str, str]]:
    ids = [f"doc-{number}" for number in range(10_000)]
    chosen = sorted(ids, key=lambda name: id_hash(name) >= LIMIT)
    candidate, rest = chosen[0], [name for name in ids if id_hash(name) >= LIMIT]
    names = [*rest[: DOCUMENTS_AN_INPUT // 2], candidate, *rest[DOCUMENTS_AN_INPUT // 2 : DOCUMENTS_AN_INPUT - 1]]
    return [{"id": name, "text": texts()[0][:TEXT_CHARS]} for name in names]


def _stage(root: Path, template: Prepared, ready: Prepared) -> None:
    """What running the units would have left: shards, records of parts and units, notes of what they met."""
    (unit,) = template.plan.units
    record = Staging(template.store).unit(unit.source, unit.key)
    assert record is not None
    shards = {part.number: Names(root / part.shard.path) for part in record.parts if part.shard}
    assert len(shards) == SHARDS_AN_INPUT
    parts = {part.number: Names(root / part_path(unit.source, unit.key, part.number)) for part in record.parts}
    out = Path(ready.store.url)
    (out / shard_folder(unit.source)).mkdir()
    for like in ready.plan.units:
        moved = UnitRecord(like.source, like.key, [_moved(part, like) for part in record.parts])
        path = out / part_path(like.source, like.key, 0)
        path.parent.mkdir(parents=True)
        for part in moved.parts:
            parts[part.number].give(path.with_name(f"part-{part.number:05d}.json"))
            if part.shard:
                shards[part.number].give(out / part.shard.path)
        path.with_name("unit.json").write_bytes(moved.sealed())
        met = reuse.Met.of(ready.plan.recipe.bad_input, Ledger())
        path.with_name(f"met-{like.base}.{met}.json").touch()


def _moved(part: Part, unit: Unit) -> Part:
    """The same part as one of another unit."""
    if part.shard is None:
        return part
    _, number, digest = part.shard.path.rsplit("-", 2)
    path = f"{shard_folder(unit.source)}/{unit.label}-{number}-{digest}"
    return dataclasses.replace(part, shard=dataclasses.replace(part.shard, path=path))
