"""The corpora of Bamba's second version, built from a hub and a plain host that have them as their publishers do."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tokenizers

from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.format.manifest_entries import Account
from bamba_data.inspect.verify import verify
from bamba_data.sources.dclm_baseline import COMMIT as DCLM
from bamba_data.sources.dolmino_mix import COMMIT as DOLMINO
from bamba_data.sources.finemath import COMMIT as FINEMATH
from bamba_data.sources.olmo_mix import COMMIT as OLMO
from bamba_data.tokenization.conformance import Certificate
from tests.corpora import TOKENIZER
from tests.derive.content import stored
from tests.servers.hub import HubServer

from .published import NEMOTRON, NOT_TO_BE_READ, RAW_DCLM, lay_out

ROOT = Path(__file__).parents[3]
#: Their `main` moved on: what is built is what lies at the commits that the corpora name.
PINNED = {
    "allenai/olmo-mix-1124": OLMO,
    "allenai/dolmino-mix-1124": DOLMINO,
    "mlfoundations/dclm-baseline-1.0": DCLM,
    "HuggingFaceTB/finemath": FINEMATH,
}
WELL_READ = '"language_id_whole_page_fasttext.en" > 0.7'
BUILD = """
import json, sys
from pathlib import Path
from bamba_data.tokenization.conformance import Certificate
from tests.building import build
out, recipe, certificate = sys.argv[1:]
build(out, Certificate(**json.loads(Path(certificate).read_text())), recipe)
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    root = tmp_path_factory.mktemp("publishers")
    lay_out(root)
    with HubServer(root, page_size=3) as server:
        for repo, commit in PINNED.items():
            assert server.repos("datasets").tag(repo, commit, server.commit(repo))
            (root / "datasets" / repo / "later.json.gz").write_bytes(b"")
            server.push(repo)
        yield server


def built(hub: HubServer, folder: Path, certificate: Certificate, *corpora: dict[str, Any]) -> Dataset:
    """As a user does it, but for Ray: the hub's real client, in a process of its own, which reads HF_ENDPOINT first."""
    recipe = folder / "all.yaml"
    bad_input = {"max_bad_rate": 0.5, "policy": {"nul": "keep", "duplicate_id": "keep"}}
    tokenizer = {"url": f"package:{TOKENIZER.name}"}
    whole = {"name": "all", "tokenizer": tokenizer, "corpora": list(corpora), "bad_input": bad_input}
    recipe.write_text(json.dumps(whole))
    (folder / "certificate.json").write_text(json.dumps(asdict(certificate)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    words = [sys.executable, "-c", BUILD, str(folder / "out"), str(recipe), str(folder / "certificate.json")]
    env = {**environment, **hub.env(folder / "home"), "HF_TOKEN": "hf_secret"}
    run = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr[-3000:]
    return open_dataset(folder / "out")


@pytest.fixture(scope="module")
def dataset(hub: HubServer, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return built(
        hub,
        tmp_path_factory.mktemp("all"),
        certificate,
        {"corpus": "olmo-mix-1124"},
        {"corpus": "dolmino-mix-1124"},
        {"corpus": "nemotron-cc", "base": f"{hub.url}/files/{NEMOTRON}/data-jsonl"},
        {"corpus": "finemath", "configs": ["finemath-3plus", "finemath-4plus", "infiwebmath-3plus"]},
        {"corpus": "dclm-baseline"},
    )


@pytest.fixture(scope="module")
def ids(dataset: Dataset) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for (source, ident, _), count in stored(dataset).items():
        found.setdefault(source, []).extend([ident] * count)
    return {source: sorted(of_one) for source, of_one in found.items()}


def account(dataset: Dataset, name: str) -> Account:
    return next(source.account for source in dataset.manifest.sources if source.name == name)


def test_every_part_of_olmo_mix_is_found_in_its_folders_whatever_their_depth(ids: dict[str, list[str]]) -> None:
    assert {source: of_one for source, of_one in ids.items() if source.startswith("olmo-")} == {
        "olmo-dclm": ["<urn:uuid:1>", "<urn:uuid:2>"],
        "olmo-arxiv": ["arxiv-1", "arxiv-2"],
        "olmo-pes2o": ["101", "102"],
        "olmo-starcoder": ["7", "7", "7"],
        "olmo-algebraic-stack": ["a/b.lean"],
        "olmo-open-web-math": ["https://x.org/?q=1&r=2"],
        "olmo-wiki": ["5", "6"],
    }


def test_dolmino_has_a_source_for_each_of_its_sets(ids: dict[str, list[str]]) -> None:
    assert {source.removeprefix("dolmino-"): len(of_one) for source, of_one in ids.items() if "dolmino" in source} == {
        **{"dclm": 2, "flan": 1, "pes2o": 1, "wiki": 1, "stackexchange": 1, "tulu_math": 2, "dolmino_math_synth": 2},
        **{"tinyGSM-MIND": 1, "mathcoder2-synthmath": 1, "metamath-owmfilter": 1, "codesearchnet-owmfilter": 1},
        "gsm8k": 2,
    }


def test_splits_to_test_by_and_files_beside_the_documents_are_not_read(dataset: Dataset) -> None:
    read = set(dataset.files.get_column("path"))
    assert "data/math/gsm8k/main/train/0.jsonl.zst" in read
    assert not any("/test/" in path or path.endswith(("stats.json", ".md", "later.json.gz")) for path in read)
    tokens = {document[2] for document in stored(dataset)}
    unwanted = tokenizers.Tokenizer.from_file(str(TOKENIZER)).encode(NOT_TO_BE_READ, add_special_tokens=False).ids
    assert tuple(unwanted) not in tokens


def test_all_eleven_parts_of_nemotron_cc_come_by_the_list_of_paths(ids: dict[str, list[str]]) -> None:
    nemotron = {source: of_one for source, of_one in ids.items() if source.startswith("nemotron-")}
    assert len(nemotron) == 11
    assert nemotron["nemotron-high-diverse_qa_pairs"] == ["high/diverse_qa_pairs/1", "high/diverse_qa_pairs/2"]
    assert nemotron["nemotron-low-wrap_medium"] == ["low/wrap_medium/1", "low/wrap_medium/2"]


def test_finemath_has_ids_of_file_and_row_since_urls_come_again(ids: dict[str, list[str]]) -> None:
    assert {source: of_one for source, of_one in ids.items() if "math-" in source and "/train-" in of_one[0]} == {
        "finemath-3plus": [f"finemath-3plus/train-00000-of-00128.parquet#{row}" for row in (0, 1)],
        "finemath-4plus": ["finemath-4plus/train-00000-of-00128.parquet#0"],
        "infiwebmath-3plus": [f"infiwebmath-3plus/train-00000-of-00128.parquet#{row}" for row in (0, 1)],
    }


def test_dclm_takes_the_id_of_the_warc_record_and_where_there_is_none_file_and_line(ids: dict[str, list[str]]) -> None:
    made = "global-shard_03_of_10/local-shard_1_of_10/shard_00000000_processed.jsonl.zst#2"
    assert ids["dclm-baseline"] == sorted([*(f"<urn:uuid:{n}>" for n in (1, 1, 2, 3, 9)), made])


def test_what_readers_stumble_over_is_counted_and_nothing_is_lost(dataset: Dataset) -> None:
    assert account(dataset, "dclm-baseline").dead_lettered == {"missing_text": 1}
    assert account(dataset, "dclm-baseline").notes == {"duplicate_id": 1, "id_made": 1}
    assert account(dataset, "olmo-starcoder").notes == {"nul": 1, "duplicate_id": 1}
    assert account(dataset, "olmo-wiki").dropped == {"empty_text": 1}
    assert account(dataset, "olmo-wiki").notes == {"id_not_string": 1}
    nemotron = account(dataset, "nemotron-high-actual")
    assert (nemotron.read, nemotron.kept) == (2, 2)  # a blank line is no record, U+2028 and U+0085 end none
    assert all(source.account.balanced for source in dataset.manifest.sources)


def test_the_dataset_is_sound_and_a_document_leads_to_the_line_it_came_from(dataset: Dataset) -> None:
    assert verify(dataset.store.url, full=True).faults == []
    of_file = dataset.files.filter(pl.col("source") == "olmo-dclm").get_column("path").to_list()
    assert of_file == [
        f"data/dclm/{RAW_DCLM}/global-shard_01_of_10/local-shard_0_of_10/shard_00000000_processed.jsonl.zstd"
    ]


def test_each_repository_is_read_at_its_commit_and_no_token_goes_to_where_the_files_lie(
    dataset: Dataset, hub: HubServer
) -> None:
    revisions = json.loads(dataset.lock_json())["revisions"]
    at = {repo: hub.repos("datasets").at(repo, commit)[0] for repo, commit in PINNED.items()}
    assert set(revisions.values()) == set(at.values())
    assert set(revisions.values()).isdisjoint({hub.commit(repo) for repo in PINNED})
    assert hub.leaks == []


LOCK = """
import json, sys
from bamba_data.locking.lock import resolve
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.rate_limit import LocalBudget
from pipelines.cli.options import load_recipe
base, *names = sys.argv[1:]
counts = {}
for name in names:
    recipe, folder = load_recipe(name, [])
    at = [n for n, corpus in enumerate(recipe.corpora) if corpus.corpus == "nemotron-cc"]
    recipe, folder = load_recipe(name, [f"corpora.{n}.base={base}" for n in at])
    lock = resolve(recipe, folder, Fetcher(LocalBudget(1000, 1000), 1))
    counts[name] = {source: len(files) for source, files in lock.by_source.items()}
print(json.dumps(counts))
"""
RECIPES = [
    *("olmo-mix-1124", "dolmino-mix-1124", "nemotron-cc", "finemath", "dclm-baseline"),
    *("bamba-v2-3t", "bamba-v2-anneal"),
]


def test_every_recipe_that_ships_finds_all_its_sources(hub: HubServer, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    words = [sys.executable, "-c", LOCK, f"{hub.url}/files/{NEMOTRON}/data-jsonl", *RECIPES]
    env = environment | hub.env(tmp_path)
    run = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr[-3000:]
    counts = json.loads(run.stdout)
    assert {name: len(sources) for name, sources in counts.items()} == {
        **{"olmo-mix-1124": 7, "dolmino-mix-1124": 12, "nemotron-cc": 6, "finemath": 2, "dclm-baseline": 1},
        **{"bamba-v2-3t": 14, "bamba-v2-anneal": 12},
    }
    assert all(count > 0 for sources in counts.values() for count in sources.values())


def test_scores_and_fields_within_fields_choose_documents(
    hub: HubServer, certificate: Certificate, tmp_path: Path
) -> None:
    found = built(
        hub,
        tmp_path,
        certificate,
        {"corpus": "finemath", "where": "int_score >= 4"},
        {"corpus": "dclm-baseline", "where": WELL_READ, "global_shards": [3], "local_shards": [1]},
        {"corpus": "dolmino-mix-1124", "parts": ["flan"], "where": '"metadata.length" < 600'},
    )
    kept = {source.name: (source.account.kept, source.account.dropped) for source in found.manifest.sources}
    assert kept == {
        "finemath-3plus": (1, {"where_false": 1}),
        "infiwebmath-3plus": (1, {"where_false": 1}),
        "dclm-baseline": (1, {"where_false": 1}),
        "dolmino-flan": (1, {}),
    }
