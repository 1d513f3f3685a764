"""A reader that was written from the page of formats alone reads a dataset whole, and finds every digest as stated.

Nothing of ours is imported here: what this file does in Python can be done in any language.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import xxhash

HIDDEN = (".withdrawn.json", ".expired.json")


def canonical(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode() + b"\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def unsealed(data: bytes) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(data)
    seal = record.pop("sha256")
    assert sha256(canonical(record)) == seal and canonical({**record, "sha256": seal}) == data
    return record


def manifest_of(dataset: Path) -> dict[str, Any]:
    """Of the newest version."""
    folder = dataset / "_bamba" / "versions"
    hidden = {path.name.partition(".")[0] for path in folder.iterdir() if path.name.endswith(HIDDEN)}
    number = max(
        path.name.partition(".")[0] for path in folder.glob("*.json") if path.name.partition(".")[0] not in hidden
    )
    version = unsealed((folder / f"{number}.json").read_bytes())
    data = (dataset / "_bamba" / "manifests" / f"{version['manifest']}.json").read_bytes()
    assert sha256(data) == version["manifest"]
    manifest: dict[str, Any] = json.loads(data)
    return manifest


def table(dataset: Path, manifest: dict[str, Any], name: str) -> list[dict[str, Any]]:
    entry = manifest["tables"][name]
    path = dataset / "_bamba" / "tables" / f"{entry['sha256']}.parquet"
    assert sha256(path.read_bytes()) == entry["sha256"] and path.stat().st_size == entry["size_bytes"]
    rows: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    digests = b"".join(
        hashlib.sha256(canonical([v.hex() if isinstance(v, bytes) else v for _, v in sorted(row.items())])).digest()
        for row in rows
    )
    assert len(rows) == entry["rows"] and sha256(digests) == entry["content"]
    return rows


def test_a_reader_of_the_page_alone_reads_every_token_and_finds_every_digest(tiny: Path) -> None:
    manifest = manifest_of(tiny)
    shards, blocks, files = (table(tiny, manifest, name) for name in ("shards", "blocks", "files"))
    dtype, tokens = np.dtype(manifest["tokenizer"]["token_dtype"]), 0
    for number, shard in enumerate(shards):
        data = (tiny / shard["path"]).read_bytes()
        assert sha256(data) == shard["sha256"] and len(data) == shard["size_bytes"]
        footer = data[-shard["footer_bytes"] :]
        assert xxhash.xxh3_128_digest(footer) == shard["footer_digest"]
        parquet = pq.ParquetFile(tiny / shard["path"])
        assert parquet.schema_arrow.metadata[b"bamba_format"] == b"bamba-shard/2"
        for block in (one for one in blocks if one["shard"] == number):
            group = parquet.read_row_group(block["block"])
            body = b"".join(group["tokens"].to_pylist())
            counts = group["token_count"].to_numpy().astype("<u4")
            assert xxhash.xxh3_128_digest(body + counts.tobytes()) == block["digest"]
            ids = b"".join(
                len(name).to_bytes(4, "little") + name for name in map(str.encode, group["document_id"].to_pylist())
            )
            assert xxhash.xxh3_128_digest(ids) == block["ids_digest"]
            assert len(np.frombuffer(body, dtype)) == counts.sum() == block["tokens"]
            tokens += int(counts.sum())
            for place in group["file"].to_pylist():
                number_of_file = shard["first_file"] + place
                assert any(f["source"] == shard["source"] and f["file"] == number_of_file for f in files)
    assert tokens == manifest["totals"]["tokens"] > 0


def test_accounts_and_reasons_of_files_are_those_that_the_page_describes(tiny: Path) -> None:
    manifest = manifest_of(tiny)
    totals = manifest["totals"]
    assert totals["read"] == totals["kept"] + sum(totals["dropped"].values()) + sum(totals["dead_lettered"].values())
    counted: dict[str, int] = {}
    for file in table(tiny, manifest, "files"):
        for reason in file["reasons"]:
            counted[reason["action"]] = counted.get(reason["action"], 0) + reason["count"]
    assert counted.get("dead_lettered", 0) == sum(totals["dead_lettered"].values()) > 0
    assert set(counted) <= {"dropped", "dead_lettered", "noted"}
    letters = table(tiny, manifest, "dead_letters")
    assert sum(file["records"] for file in letters) == sum(totals["dead_lettered"].values())


def test_candidates_are_those_whose_hash_of_the_id_is_below_the_bound(tiny: Path) -> None:
    manifest = manifest_of(tiny)
    shards, listed = table(tiny, manifest, "shards"), table(tiny, manifest, "candidates")
    found = [
        (number, block, document, xxhash.xxh3_64_intdigest(name.encode()))
        for number, shard in enumerate(shards)
        for block in range(pq.ParquetFile(tiny / shard["path"]).num_row_groups)
        for document, name in enumerate(
            pq.ParquetFile(tiny / shard["path"]).read_row_group(block)["document_id"].to_pylist()
        )
        if xxhash.xxh3_64_intdigest(name.encode()) < 2**64 // 200
    ]
    assert [(c["shard"], c["block"], c["document"], c["hash"]) for c in listed] == found
