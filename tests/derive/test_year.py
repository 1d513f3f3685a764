"""A year in the life of a dataset: at every point it holds exactly the documents that it should, and no shard is made
without need; a run that began with the first version ends with the last, on the machine that pulled it from a hub. A
part of it was sieved and changed by a recipe, lies at another place, and is only referred to."""

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bamba_data.catalog import expire, offer_again, withdraw
from bamba_data.derive.compacting import compact
from bamba_data.derive.merging import merge
from bamba_data.derive.subsetting import subset
from bamba_data.format.dataset import open_dataset
from bamba_data.format.lineage import ancestors
from bamba_data.inspect import garbage
from bamba_data.inspect.verify import verify
from bamba_data.storage.store import open_store
from bamba_data.tokenization.conformance import Certificate
from loader import Loader, OrderSpec, Reading, build_loader
from tests.building import build
from tests.corpora import TOKENIZER, records, write_jsonl
from tests.derive.appended import append
from tests.derive.content import Contents, dropped, objects, read, stored, tokens_of, without
from tests.pushing import TOKEN, command, environment
from tests.servers.hub import HubServer

Documents = Counter[tuple[str, tuple[int, ...]]]


class Year:
    """What the dataset should hold, and all shards that were ever there."""

    def __init__(self, url: Path, cache: Path) -> None:
        self.url, self.cache = url, cache
        self.contents: Contents = stored(url)
        self.shards = objects(url)

    def of(self, source: str | None = None) -> Documents:
        """What it should hold, of one source or of all, as readers of files see it: (id, tokens)."""
        found: Documents = Counter()
        for (name, document, ids), count in self.contents.items():
            found[document, ids] += count if source in (None, name) else 0
        return +found

    def check(self, new_shards: int) -> None:
        assert read(self.url, self.cache) == tokens_of(self.contents)
        assert verify(str(self.url), full=True).faults == []
        manifest = open_dataset(self.url).manifest
        assert manifest.totals.kept == self.contents.total() and manifest.totals.balanced
        now = objects(self.url)
        assert all(now[name] == data for name, data in self.shards.items() if name in now)
        assert len(set(now) - set(self.shards)) == new_shards
        self.shards |= now


REPO = "acme/year"
DATED = """
def dated(text, columns):
    return None if columns["year"] == 1805 else f"In {columns['year']}: {text}"
"""
ELSEWHERE = """
import datasets, huggingface_hub, sys
repo, revision, folder = sys.argv[1:]
huggingface_hub.snapshot_download(repo, repo_type="dataset", revision=revision, local_dir=folder)
for name in datasets.get_dataset_config_names(repo, revision=revision):
    datasets.load_dataset(repo, name, revision=revision)["train"].to_parquet(f"{folder}/../{name}.parquet")
"""


def opened_there(hub: HubServer, home: Path, folder: Path, revision: str) -> dict[str, Documents]:
    """Pull a revision into `folder` by the hub's own client, and what `datasets` loads from the hub, by config."""
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, REPO, revision, str(folder)], env=environment(hub, home, None), check=True
    )
    dtype = open_dataset(folder).manifest.tokenizer.token_dtype
    found: dict[str, Documents] = {}
    for file in home.glob("*.parquet"):
        rows = pq.read_table(file).select(["document_id", "tokens"]).to_pylist()
        found[file.stem] = Counter(
            (row["document_id"], tuple(np.frombuffer(row["tokens"], dtype).tolist())) for row in rows
        )
    return found


@pytest.mark.costly
def test_a_year(tiny_copy: Path, tmp_path: Path, certificate: Certificate) -> None:
    url, inputs, recipe = tiny_copy, tiny_copy.parent / "inputs", tiny_copy.parent / "tiny.yaml"
    year = Year(url, tmp_path / "cache")
    year.check(0)
    spec, reading = OrderSpec(row_tokens=48, batch_rows=6, seed=9, holdout=0), Reading(cache=year.cache, num_workers=0)
    loader: Loader = build_loader(str(url), spec, reading)
    ledger = [next(loader)["input_ids"].tolist() for _ in range(3)]

    # February: a month of new text.
    write_jsonl(inputs / "+february.json.gz", records(9, 200, text_chars=500))
    append(url, recipe)
    year.contents = stored(url)
    year.check(len(objects(url)) - len(year.shards))
    assert {f"doc-{n}" for n in range(200, 209)} <= {name for _, name, _ in year.contents}
    loader = loader.with_dataset(str(url))
    ledger += [next(loader)["input_ids"].tolist() for _ in range(3)]

    # March: somebody asks for documents to be taken out.
    gone = {"doc-1", "doc-104", "doc-203", *(f"doc-{n}" for n in range(28, 42))}
    dropped(url, gone)
    year.contents = without(year.contents, gone)
    year.check(0)
    loader = loader.with_dataset(str(url))
    ledger += [next(loader)["input_ids"].tolist() for _ in range(3)]
    state = loader.state_dict()

    # May: another team's dataset joins.
    write_jsonl(tmp_path / "team" / "inputs" / "code.jsonl", records(11, 700, text_chars=400))
    other = tmp_path / "team" / "recipe.yaml"
    other.write_text(
        f"name: team\ntokenizer: {{url: package:{TOKENIZER.name}}}\ncorpora:\n"
        '  - {corpus: folder, name: code, base: inputs, form: jsonl, files: ["*.jsonl"]}\n'
    )
    theirs = Path(shutil.copytree(url, tmp_path / "theirs"))
    append(theirs, other)
    subset(str(theirs), ["code"], None)
    coded = stored(theirs)
    merge([str(url), str(theirs)], str(url), copy=True)
    year.contents = year.contents + coded
    year.check(1)

    # April had a recipe that keeps some records and changes their texts; it lies at another place and stays there.
    dates = [{**row, "year": 1800 + n} for n, row in enumerate(records(8, 900, text_chars=300))]
    write_jsonl(tmp_path / "april" / "inputs" / "dated.jsonl", dates)
    (tmp_path / "april" / "dated.py").write_text(DATED)
    path = tmp_path / "april" / "recipe.yaml"
    path.write_text(
        f"name: april\ntokenizer: {{url: package:{TOKENIZER.name}}}\ncorpora:\n"
        '  - {corpus: folder, name: dated, base: inputs, form: jsonl, files: ["*.jsonl"], where: year > 1801,\n'
        "     transform: {function: 'dated:dated', columns: [year]}}\n"
    )
    april = tmp_path / "april" / "out"
    build(april, certificate, str(path))
    assert open_dataset(april).manifest.totals.dropped == {"where_false": 2, "transform_none": 1}
    changed, theirs_before = stored(april), objects(april)
    merge([str(url), str(april)], str(url), refer=True)
    year.contents = year.contents + changed
    year.check(0)
    assert not open_dataset(url).is_whole and objects(april) == theirs_before

    # June: a version that should not be, taken back.
    dropped(url, {name for source, name, _ in year.contents if source == "code" and name != "doc-700"})
    withdraw(open_store(str(url)), open_dataset(url).version.number, "a mistake")
    year.check(0)
    assert not offer_again(open_store(str(url)), 1)

    # September: the shards that lost much are written anew, old versions go.
    identity = open_dataset(url).identity
    lost = len(open_dataset(url).masks.unique("shard"))
    whole = len(open_dataset(url).shards)
    compact(str(url), 0)
    assert open_dataset(url).identity == identity
    emptied = whole - len(open_dataset(url).shards)
    year.check(lost - emptied)
    assert objects(april) == theirs_before
    newest = open_dataset(url).version.number
    expire(open_store(str(url)), list(range(3, newest)), "")  # the run reads the first two
    garbage.remove(str(url), garbage.find(str(url), 0))
    year.check(0)

    # December: it is pushed. On another machine `datasets` opens it, and the run goes on to the last version.
    (tmp_path / "hub").mkdir()
    with HubServer(tmp_path / "hub", writer=TOKEN) as hub:
        for version in ("1", "2", str(newest)):
            pushed = command(hub, tmp_path / "home", "push", f"{url}@{version}", f"hf://datasets/{REPO}")
            assert pushed.returncode == 0, pushed.stderr
        moved = tmp_path / "elsewhere" / "copy"
        loaded = opened_there(hub, tmp_path / "elsewhere", moved, f"v{newest}")
    shutil.rmtree(url)
    shutil.rmtree(april)
    assert loaded == {"default": year.of()} | {name: year.of(name) for name in ("lines", "rows", "code", "dated")}
    assert verify(str(moved), full=True).faults == []
    assert read(moved, tmp_path / "cache2") == tokens_of(year.contents)
    assert len(list(ancestors(open_dataset(moved)))) >= 4
    again = build_loader(str(moved), None, Reading(cache=tmp_path / "cache2", num_workers=0), plan=state["plan"])
    again.load_state_dict(state)
    assert [again.rows[g]["input_ids"].tolist() for g in range(len(ledger) * 6)] == [r for b in ledger for r in b]
    after = again.with_dataset(str(moved))
    assert len(after.plan.quarantines) == len(again.plan.quarantines)  # nothing more left of what it reads
    served: Counter[str] = Counter()
    for _ in range(3):
        batch = next(after)
        served.update(map(str, batch["row"].tolist()))
    assert set(served.values()) == {1}
