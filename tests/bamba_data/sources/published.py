"""The corpora of Bamba's second version as their publishers lay them out, small: true names of files and fields, in the
folders of the local hub (`datasets/…`) and of the plain host (`files/…`), with what a reader can stumble over.

What lies beside the documents, such as statistics and splits that nobody should train on, says so in its text.
"""

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.corpora import lines, texts, write_jsonl

NOT_TO_BE_READ = "nobody asked for this"
RAW_DCLM = (
    "raw/hero-run-fasttext_for_HF/filtered/OH_eli5_vs_rw_v2_bigram_200k_train/"
    "fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train/processed_data"
)
NEMOTRON = "contrib/Nemotron/Nemotron-CC"
Record = dict[str, Any]


def lay_out(root: Path) -> None:
    """All of them below the root of a `HubServer`."""
    _olmo_mix(root / "datasets/allenai/olmo-mix-1124/data")
    _dolmino_mix(root / "datasets/allenai/dolmino-mix-1124/data")
    _dclm(root / "datasets/mlfoundations/dclm-baseline-1.0")
    _finemath(root / "datasets/HuggingFaceTB/finemath")
    _smollm(root / "datasets/HuggingFaceTB/smollm-corpus")
    _nemotron(root / "files" / NEMOTRON)


def dolma(ident: object, **more: Any) -> Record:
    """As AI2's corpora have them: beside text and id what our reader has no use for, some of it nested."""
    metadata = {"provenance": "x-0000.json.gz:1", "s2fieldsofstudy": ["Medicine"], "sha1": None, "length": 541}
    return {"added": "2023-04-25T09:58:21.172Z", "created": "2023-04-25", "id": ident, "metadata": metadata} | {
        "source": "s2", "text": _text(str(ident)), "version": "v0", **more
    }  # fmt: skip


def page(number: int, **more: Any) -> Record:
    """As DCLM-baseline has them: without an id, but that of the WARC record."""
    warc = {"WARC-Record-ID": f"<urn:uuid:{number}>", "WARC-Date": "2014-03-13T14:49:13Z", "Content-Length": "61769"}
    return {
        "bff_contained_ngram_count_before_dedupe": 20,
        "language_id_whole_page_fasttext": {"en": 0.5 + number / 20},
        "metadata": {**warc, "WARC-Identified-Payload-Type": None},
        "previous_word_count": 30,
        "text": _text(f"page {number}"),
        "url": f"http://example.com/{number}",
        "warcinfo": "robots: classic\r\nhostname: x\r\n",
        "fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train_prob": 0.08,
        **more,
    }


def crawled(ident: str, **more: Any) -> Record:
    """As Nemotron-CC has them."""
    return {
        "text": _text(ident),
        "language": "eng",
        "warc_record_id": ident,
        "url": "https://example.com/a b",
        **more,
    }


def _text(seed: str) -> str:
    return f"{seed}: {texts()[sum(seed.encode()) % 60][:300]}"


def _olmo_mix(data: Path) -> None:
    shard = data / "dclm" / RAW_DCLM / "global-shard_01_of_10/local-shard_0_of_10"
    write_jsonl(shard / "shard_00000000_processed.jsonl.zst", [page(1), page(2)]).rename(
        shard / "shard_00000000_processed.jsonl.zstd"
    )
    (shard / "stats.json").write_bytes(lines([{"text": NOT_TO_BE_READ}]))
    write_jsonl(data / "arxiv/train/arxiv-train-0000.json.gz", [dolma("arxiv-1"), dolma("arxiv-2", created=None)])
    write_jsonl(data / "pes2o/pes2o-0000.json.gz", [dolma("101"), dolma("102")])
    code = data / "starcoder/v1-decon-100_to_20k-2star-top_token_030/documents"
    write_jsonl(code / "ada-0000.json.gz", [dolma("7", text="procedure Nul is -- \0\n")])
    write_jsonl(code / "alloy-0000.json.gz", [dolma("7"), dolma("7", text="the id of another one of the file")])
    write_jsonl(data / "algebraic-stack/train/algebraic-stack-train-0000.json.gz", [dolma("a/b.lean")])
    write_jsonl(data / "open-web-math/train/open-web-math-train-0000.json.gz", [dolma("https://x.org/?q=1&r=2")])
    write_jsonl(data / "wiki/wiki-0000.json.gz", [dolma(5), dolma("6"), dolma("7", text="")])


def _dolmino_mix(data: Path) -> None:
    write_jsonl(data / "dclm/0000/dclm-0000.json.zst", [dolma("<urn:uuid:1>")])
    write_jsonl(data / "dclm/0246/dclm-0007.json.zst", [dolma("<urn:uuid:1>")])
    write_jsonl(data / "flan/tulu_flan-0000.json.gz", [dolma("flan-1", attributes=None)])
    write_jsonl(data / "pes2o/pes2o-0000.json.gz", [dolma("101")])
    write_jsonl(data / "wiki/wiki-0000.json.gz", [dolma("5")])
    write_jsonl(data / "stackexchange/stackexchange-0000.json.gz", [dolma("a-1", metadata={"votes": [{"n": 1}]})])
    math = data / "math"
    student = [{"id": "p-1", "text": "two and two", "prompt": "add"}]
    write_jsonl(math / "tulu_math/personahub_math_v5/train_0000.jsonl", student)
    write_jsonl(math / "tulu_math/personahub_interm_alg/train_0000.jsonl", student)
    write_jsonl(math / "dolmino_math_synth/gsm_mind/debate/concat_train.00.jsonl", [{"text": "a debate of numbers"}])
    write_jsonl(math / "dolmino_math_synth/basic_math/basic_math_mj_add_3shot_TRAIN.jsonl", [{"text": "1 + 1 = 2"}])
    write_jsonl(math / "tinyGSM-MIND/2students/tiny_gsm_inline_part000.000000.jsonl.gz", [{"text": "two students"}])
    book = {"text": "a book", "text_token_length": 2, "__index_level_0__": 4, "openai_response": {"is_math": True}}
    write_jsonl(math / "mathcoder2-synthmath/m-a-p_Matrix/filtered-math/book_math.0000.0000.jsonl", [book])
    write_jsonl(
        math / "metamath-owmfilter/0000.jsonl.gz", [{"text": "x = 1", "meta": {"type": "GSM_Rephrased", "query": "?"}}]
    )
    function = {"text": "def f(): pass", "func_code_tokens": ["def", "f"], "Language=": "python"}
    write_jsonl(math / "codesearchnet-owmfilter/python/0000.jsonl.gz", [function])
    for form in ("main", "socratic"):
        write_jsonl(math / f"gsm8k/{form}/train/0.jsonl.zst", [{"text": f"{form}: 3 apples", "question": "?"}])
        write_jsonl(math / f"gsm8k/{form}/test/0.jsonl.zst", [{"text": NOT_TO_BE_READ}])


def _dclm(repo: Path) -> None:
    for shard, records in {
        "global-shard_01_of_10/local-shard_0_of_10": [page(1), page(2), page(1, text="the same record's id again")],
        "global-shard_03_of_10/local-shard_1_of_10": [page(3), page(4, text=None), page(5, metadata=None)],
        "global-shard_10_of_10/local-shard_9_of_10": [page(9)],
    }.items():
        write_jsonl(repo / shard / "shard_00000000_processed.jsonl.zst", records)
    (repo / "README.md").write_text(NOT_TO_BE_READ)


def _finemath(repo: Path) -> None:
    crawl: Mapping[str, Any] = {
        "fetch_time": 1, "warc_record_offset": 2, "metadata": '{"found_math": true}', "snapshot_type": "latest"
    }  # fmt: skip
    for config, more in {"finemath": {**crawl, "language": "en"}, "infiwebmath": {"metadata": "{}"}}.items():
        scores = {3: 3.2, 4: 4.1}
        rows = [
            {"url": "https://x.org/same", "text": f"{config} {n}", "token_count": 9, "char_count": 20} | dict(more)
            | {"score": score, "int_score": n} for n, score in scores.items()
        ]  # fmt: skip
        for name, kept in (("3plus", rows), ("4plus", rows[1:])):
            path = repo / f"{config}-{name}" / "train-00000-of-00128.parquet"
            path.parent.mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(kept), path)


def _smollm(repo: Path) -> None:
    for subset, of in (("cosmopedia-v2", 104), ("fineweb-edu-dedup", 234)):
        (repo / subset).mkdir(parents=True)
        rows = pa.Table.from_pylist([{"id": "<urn:uuid:1>", "prompt": "Write", "text": f"{subset} text"}])
        pq.write_table(rows, repo / subset / f"train-00000-of-{of:05d}.parquet")


def _nemotron(folder: Path) -> None:
    paths = []
    for quality, kind, kind2 in (
        ("high", "actual", "actual"),
        ("high", "synthetic", "distill"),
        ("high", "synthetic", "diverse_qa_pairs"),
        ("high", "synthetic", "extract_knowledge"),
        ("high", "synthetic", "knowledge_list"),
        ("high", "synthetic", "wrap_medium"),
        ("medium-high", "actual", "actual"),
        ("medium", "actual", "actual"),
        ("medium-low", "actual", "actual"),
        ("low", "actual", "actual"),
        ("low", "synthetic", "wrap_medium"),
    ):
        name = f"data-jsonl/quality={quality}/kind={kind}/kind2={kind2}/CC-MAIN-2013-20-part-00000.jsonl.zstd"
        both = [crawled(f"{quality}/{kind2}/1"), crawled(f"{quality}/{kind2}/2", text="one\u2028two\x85three")]
        write_jsonl((folder / name).with_suffix(".zst"), lines(both[:1]) + b"\n" + lines(both[1:])).rename(
            folder / name
        )
        paths.append(f"{NEMOTRON}/{name}")
    (folder / "data-jsonl.paths.gz").write_bytes(gzip.compress("".join(f"{path}\n" for path in paths).encode()))
