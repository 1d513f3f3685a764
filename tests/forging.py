"""A dataset rewritten by somebody who knows how: whatever is changed, all digests are made right again."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from bamba_data import canonical_json
from bamba_data.format.identity import ids_digest, of_dataset, of_tables
from bamba_data.format.layout import manifest_path, table_path, version_path
from bamba_data.format.shard import Footer, block_digest, row_group_range
from bamba_data.format.tables import SCHEMAS, row_digest
from bamba_data.format.versions import Version


class Forger:
    """`manifest` is its JSON and `tables` have their rows: change them, then `save`."""

    def __init__(self, root: Path, number: int = 1) -> None:
        self.root = root
        self._version_path = root / version_path(number)
        self.version: dict[str, Any] = json.loads(self._version_path.read_bytes())
        self.manifest: dict[str, Any] = json.loads((root / manifest_path(self.version["manifest"])).read_bytes())
        self.tables: dict[str, list[dict[str, Any]]] = {
            name: pq.read_table(root / table_path(entry["sha256"])).to_pylist()
            for name, entry in self.manifest["tables"].items()
        }

    @property
    def shards(self) -> list[dict[str, Any]]:
        return self.tables["shards"]

    @property
    def blocks(self) -> list[dict[str, Any]]:
        return self.tables["blocks"]

    def shard_path(self, number: int) -> Path:
        return self.root / str(self.shards[number]["path"])

    def save(self) -> None:
        for name, rows in self.tables.items():
            out, table = pa.BufferOutputStream(), pa.Table.from_pylist(rows, schema=SCHEMAS[name])
            pq.write_table(table, out)
            content = sha256(b"".join(map(row_digest, table.to_pylist()))).hexdigest()
            self.save_table(name, out.getvalue().to_pybytes(), len(rows), content)
        self._identify()
        self.save_manifest(canonical_json.dumps(self.manifest))

    def save_table(self, name: str, data: bytes, rows: int, content: str = "0" * 64) -> None:
        digest = canonical_json.sha256(data)
        (self.root / table_path(digest)).write_bytes(data)
        self.manifest["tables"][name] = {"sha256": digest, "size_bytes": len(data), "rows": rows, "content": content}

    def _identify(self) -> None:
        """State what the tables have now."""
        blocks, candidates = (
            pl.from_arrow(pa.Table.from_pylist(self.tables[name], schema=SCHEMAS[name]))
            for name in ("blocks", "candidates")
        )
        names = [source["name"] for source in self.manifest["sources"]]
        found = of_tables(names, blocks, candidates)
        for source in self.manifest["sources"]:
            source["identity"] = asdict(found[source["name"]])
        tokenizer = self.manifest["tokenizer"]
        self.manifest["identity"] = of_dataset(tokenizer["sha256"], tokenizer["token_dtype"], found)
        others = sum(one["shards"] for one in self.manifest["software"][1:])
        self.manifest["software"][0]["shards"] = len(self.shards) - others

    def save_manifest(self, data: bytes) -> None:
        digest = canonical_json.sha256(data)
        (self.root / manifest_path(digest)).write_bytes(data)
        one = self.version
        forged = Version(one["version"], digest, one["build"], one["lock"], one["published_at"])
        self._version_path.write_bytes(forged.sealed())

    def rewrite_shard(self, number: int, edit: Callable[[pa.Table], pa.Table]) -> None:
        """Shard `number` with other rows: its bytes, its entry and those of its blocks, and the sums over them."""
        path, row = self.shard_path(number), self.shards[number]
        table = edit(pq.read_table(path, partitioning=None))
        mine = [block for block in self.blocks if block["shard"] == number]
        out, done = pa.BufferOutputStream(), 0
        with pq.ParquetWriter(out, table.schema, compression="zstd", write_page_checksum=True) as writer:
            for block in mine:
                writer.write_table(table.slice(done, block["documents"]))
                done += block["documents"]
        data = out.getvalue().to_pybytes()
        path.write_bytes(data)
        meta, done = pq.read_metadata(path), 0
        for group, block in enumerate(mine):
            part = table.slice(done, block["documents"])
            done += block["documents"]
            block["offset"], block["size_bytes"] = row_group_range(meta.row_group(group))
            tokens, counts = b"".join(part["tokens"].to_pylist()), part["token_count"].to_numpy()
            block["digest"] = bytes.fromhex(block_digest(tokens, counts))
            block["ids_digest"] = ids_digest(part["document_id"].to_pylist())
        source = next(one for one in self.manifest["sources"] if one["name"] == row["source"])
        source["size_bytes"] += len(data) - row["size_bytes"]
        footer = Footer.of(data)
        row |= {"sha256": canonical_json.sha256(data), "size_bytes": len(data)}
        row |= {"footer_bytes": footer.size_bytes, "footer_digest": bytes.fromhex(footer.digest)}


def many_shards(root: Path, count: int, copy: Callable[[Path, Path], object] = os.link) -> None:
    """The tiny dataset with one of its shards `count` times, and nothing else."""
    forger = Forger(root)
    shard, path = forger.shards[0], forger.shard_path(0)
    mine = [block for block in forger.blocks if block["shard"] == 0]
    source = forger.manifest["sources"][0]
    forger.tables["shards"], forger.tables["blocks"] = [], []
    for number in range(count):
        name = f"dataset=lines/{number:05d}-000-{shard['sha256'][:16]}.parquet"
        if root / name != path:
            copy(path, root / name)
        forger.shards.append({**shard, "path": name, "unit": number})
        forger.blocks.extend({**block, "shard": number} for block in mine)
    forger.tables["files"] = forger.tables["files"][:1]
    forger.tables["dead_letters"] = []
    documents, tokens = count * shard["documents"], count * shard["tokens"]
    account = {"read": documents, "kept": documents, "tokens": tokens, "text_bytes": 4 * tokens}
    account |= {"dropped": {}, "dead_lettered": {}, "notes": {}}
    forger.tables["files"][0] |= {**account, "dropped": 0, "dead_lettered": 0, "reasons": []}
    size, blocks = count * shard["size_bytes"], count * len(mine)
    source |= {"account": account, "files": 1, "shards": count, "blocks": blocks, "size_bytes": size}
    forger.manifest["sources"], forger.manifest["totals"] = [source], account
    forger.save()
