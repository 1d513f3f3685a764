"""How the files beside this were made, by the code of commit 3b49549 and never again:

git worktree add OLD 3b49549
cp -r tests/golden OLD/tests
PYTHONPATH=OLD python tests/golden/make.py /tmp/bamba-golden
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bamba_data.format.dataset import open_dataset
from bamba_data.storage.fetch import Fetcher
from loader.dataset import build_loader
from loader.sources.shards import open_blocks
from loader.text.index_build import in_processes, make_index
from loader.text.spec import TextSource
from pipelines.cli import load_recipe
from pipelines.dataset_build.driver import finish, prepare, run_here
from tests.golden.digests import of_batches, of_first_batches, of_ids

RECIPE = """
name: golden
tokenizer: {url: tokenizer.json, backend: tokenizers}
corpora:
  - {corpus: folder, name: lines, base: inputs, form: jsonl, files: ["*.json.gz"], license: CC0-1.0}
  - {corpus: folder, name: rows, base: inputs, form: parquet, files: ["*.parquet"]}
shards: {block_tokens: 400, blocks_per_shard: 2}
bad_input: {max_bad_rate: 0.5}
unit_bytes: 2000
"""
PACKINGS = {"chunk": 64, "best-fit": 256}  # row_tokens
#: Ids whose hash is small enough for their documents to be held out.
HELD = {5: "-95", 26: "-553", 47: "-892", 104: "-60", 117: "-338"}
WORDS = ("whale sea ship captain harpoon storm mast rope sail wind island crew deck oar lamp night").split()  # noqa: SIM905


def text_of(number: int) -> str:
    """Plain words in an order of the number's own, and a few of many scripts."""
    digest = hashlib.sha256(str(number).encode()).digest()
    words = [WORDS[byte % len(WORDS)] for byte in digest * (1 + number % 4)]
    return " ".join(words).capitalize() + (" — é 猫 🐋" if number % 5 == 0 else ".")


def record(number: int) -> dict[str, Any]:
    return {"id": f"doc-{number}" + HELD.get(number, ""), "text": text_of(number)}


def write_inputs(folder: Path) -> None:
    import gzip

    (folder / "inputs").mkdir(parents=True)
    for number in range(3):
        lines = [json.dumps(record(n), ensure_ascii=False) for n in range(20 * number, 20 * number + 20)]
        if number == 1:
            lines.insert(7, "this is no JSON")
        data = gzip.compress("".join(line + "\n" for line in lines).encode(), mtime=0)
        (folder / "inputs" / f"{number}.json.gz").write_bytes(data)
    rows = [record(n) for n in range(100, 140)]
    table = pa.table({"id": [row["id"] for row in rows], "text": [row["text"] for row in rows]})
    pq.write_table(table, folder / "inputs" / "more.parquet", row_group_size=10)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text_of(n) for n in range(60)), trainer)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "golden.yaml").write_text(RECIPE)


def demo(out: Path) -> dict[str, Any]:
    """What the demo's ids and rows are."""
    recipe, beside = load_recipe("demo", [])
    ready = prepare(recipe, beside, str(out), Fetcher())
    assert not run_here(ready, Fetcher())
    finish(ready)
    blocks = open_blocks(open_dataset(str(out)), out / "cache")
    return {
        "ids": {name: of_ids(each) for name, each in blocks.items()},
        "rows": {name: of_first_batches(str(out), name, out / "cache") for name in PACKINGS},
    }


def main(folder: Path) -> None:
    write_inputs(folder)
    recipe, beside = load_recipe(str(folder / "golden.yaml"), [])
    ready = prepare(recipe, beside, str(folder / "dataset"), Fetcher())
    assert not run_here(ready, Fetcher())
    _, manifest = finish(ready)
    about: dict[str, Any] = {"manifest": manifest.digest, "packings": {}}
    for packing, row_tokens in PACKINGS.items():
        asked = {"row_tokens": row_tokens, "batch_rows": 6, "seed": 7, "holdout": 0.005, "num_workers": 0}
        weights = {"lines": 2, "rows": 1}
        cache = folder / "cache"
        loader = build_loader(str(folder / "dataset"), weights, packing=packing, cache=cache, **asked)
        first = [next(loader) for _ in range(5)]
        state = loader.state_dict()
        after = of_batches([next(loader) for _ in range(20)])
        plan = loader.plan.with_mix(row=60, weights={"lines": 1, "rows": 3}).with_skip(row=72, rows=6, why="golden")
        plan = plan.with_quarantine(row=90, source="rows", block=1, document=2, why="golden")
        changed = build_loader(str(folder / "dataset"), plan=plan, cache=cache, num_workers=0)
        changed.load_state_dict(state)
        (folder / f"plan-{packing}.json").write_bytes(plan.dumps())
        (folder / f"state-{packing}.json").write_text(json.dumps(state) + "\n")
        about["packings"][packing] = {
            "asked": asked,
            "first_5": of_batches(first),
            "next_20": after,
            "next_20_of_the_plan": of_batches([next(changed) for _ in range(20)]),
        }
    source = TextSource("web", str(folder / "inputs/*.parquet"), str(folder / "tokenizer.json"), block_tokens=400)
    fetcher = Fetcher()
    index = make_index(source, str(folder / "index"), fetcher, in_processes(1, folder / "scratch", fetcher))
    about["text_index"] = {"key": next((folder / "index").iterdir()).name, "content": index.content}
    about["demo"] = demo(folder / "demo")
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
