"""No small file makes a reader take much memory, however well its digests fit; and no table, empty or odd, leaves a
traceback. Each command is a process of its own with a limit on its memory."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bamba_data import canonical_json
from bamba_data.errors import CorruptManifest, CorruptShard, IntegrityError
from bamba_data.format.dataset import open_dataset
from bamba_data.format.shard import MAX_BLOCK_DOCUMENTS, Footer, ShardReader, row_group_range, schema
from bamba_data.format.tables import FEW_ROWS, MAX_TEXT_BYTES, SCHEMAS
from loader.sources.shards import open_blocks
from pipelines import cli
from tests.forging import Forger

BOMB_ROWS = 30_000_000
GiB = 1 << 30
TABLES = list(SCHEMAS)


def limited(*arguments: str | Path, gibibytes: float = 1.5) -> subprocess.CompletedProcess[str]:
    """A command of ours that gets no more memory than that, beyond what its libraries map."""

    def limit() -> None:
        size = int((gibibytes + 1.5) * GiB)  # the libraries and their threads' stacks map 1.2 GiB that they do not use
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

    env = {"POLARS_MAX_THREADS": "2", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "MALLOC_ARENA_MAX": "2"}
    env |= {"OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, preexec_fn=limit, timeout=200, check=False)


def parquet(table: pa.Table, times: int = 1) -> bytes:
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(out, table.schema, compression="zstd", version="2.6") as writer:
        for _ in range(times):
            writer.write_table(table)
    return out.getvalue().to_pybytes()


def first_row(root: Path, name: str) -> dict[str, Any]:
    """Of the table of candidates, which is empty here, one that is made up."""
    rows = Forger(root).tables[name]
    return rows[0] if rows else {"source": "lines", "shard": 0, "block": 0, "document": 0, "tokens": 1, "hash": 1}


def repeated(root: Path, name: str, rows: int) -> bytes:
    """The first row of a table, again and again."""
    table = pa.Table.from_pylist([first_row(root, name)], schema=SCHEMAS[name])
    return parquet(table.take(pa.array(np.zeros(rows // 30, np.int64))), 30)


def forged(root: Path, name: str, data: bytes, rows: int, count: str | None = None) -> None:
    """The table signed anew; `count` is the field of the sources that must have its rows, too."""
    forger = Forger(root)
    forger.save_table(name, data, rows)
    if count:
        for source in forger.manifest["sources"]:
            source[count] = 0
        forger.manifest["sources"][0][count] = rows
    forger.save_manifest(canonical_json.dumps(forger.manifest))


@pytest.mark.parametrize(
    ("name", "told"),
    [("files", True), ("blocks", True), ("candidates", True), ("shards", False), ("dead_letters", False)],
)
def test_a_small_table_of_thirty_million_rows_is_refused(name: str, told: bool, tiny_copy: Path) -> None:
    before = Forger(tiny_copy).manifest["tables"][name]["rows"]
    data = repeated(tiny_copy, name, BOMB_ROWS)
    assert len(data) < 4_000_000
    count = name if name in ("files", "shards", "blocks") and told else None
    forged(tiny_copy, name, data, BOMB_ROWS if told else before, count)
    path = f"_bamba/tables/{canonical_json.sha256(data)}.parquet"
    found = limited("verify", tiny_copy)
    said = found.stdout + found.stderr
    assert (found.returncode, "rows" in said) == (IntegrityError.exit_code, True), said
    assert path in said.replace("\n", "") and "Traceback" not in said
    with pytest.raises(CorruptManifest, match=r"30,000,000 rows( in [\d,]+ bytes: it is none|, the manifest says)"):
        getattr(open_dataset(str(tiny_copy)), name)


def test_a_loader_opens_no_such_table(tiny_copy: Path, tmp_path: Path) -> None:
    forged(tiny_copy, "blocks", repeated(tiny_copy, "blocks", BOMB_ROWS), BOMB_ROWS, "blocks")
    with pytest.raises(CorruptManifest, match="it is none"):
        open_blocks(open_dataset(str(tiny_copy)), tmp_path / "cache")


@pytest.mark.parametrize(
    ("text_bytes", "says"),
    [(1 << 20, f"more than {MAX_TEXT_BYTES:,} bytes"), (16_000, "expands to more than")],
)
def test_a_table_whose_texts_expand_is_refused(text_bytes: int, says: str, tiny_copy: Path) -> None:
    """One URL that 50,000 rows say: 50 GB, or 0.8."""
    rows = FEW_ROWS // 2
    zeros = pa.array(np.zeros(rows, np.int32))
    table = pa.Table.from_pylist([first_row(tiny_copy, "files")], schema=SCHEMAS["files"]).take(zeros)
    field = pa.field("url", pa.dictionary(pa.int32(), pa.string()), nullable=False)
    said = pa.DictionaryArray.from_arrays(zeros, pa.array(["x" * text_bytes]))
    table = table.set_column(SCHEMAS["files"].get_field_index("url"), field, said)
    out = pa.BufferOutputStream()
    pq.write_table(table, out, compression="zstd", store_schema=False, dictionary_pagesize_limit=1 << 30)
    data = out.getvalue().to_pybytes()
    assert len(data) < 10_000
    forged(tiny_copy, "files", data, rows, "files")
    found = limited("verify", tiny_copy)
    assert (found.returncode, "Traceback" in found.stderr) == (IntegrityError.exit_code, False), found.stderr
    with pytest.raises(CorruptManifest, match=says):
        _ = open_dataset(str(tiny_copy)).files


def test_a_true_table_of_many_rows_is_read(tiny_copy: Path) -> None:
    """300,000 blocks, each with a digest of its own."""
    rows = 300_000
    plain = {name: np.zeros(rows, np.int64) for name in ("shard", "documents", "tokens", "offset", "size_bytes")}
    dice = np.random.default_rng(1)
    digests = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), rows, [None, pa.py_buffer(dice.bytes(16 * rows))])
    columns = {"source": ["lines"] * rows, **plain, "block": np.arange(rows), "digest": digests, "ids_digest": digests}
    table = pa.table({field.name: pa.array(columns[field.name]) for field in SCHEMAS["blocks"]}).cast(SCHEMAS["blocks"])
    forged(tiny_copy, "blocks", parquet(table), rows, "blocks")
    frame = open_dataset(str(tiny_copy)).blocks
    assert len(frame) == rows
    assert frame["digest"][7] == digests[7].as_py()


# -- shards


def bomb_shard(dtype: str = "<u2") -> bytes:
    """A block of thirty million documents of one token, in little space."""
    step = BOMB_ROWS // 10
    out = pa.BufferOutputStream()
    row = {"tokens": b"\1\0", "token_count": 1, "document_id": "d", "file": 0, "row": 0}
    kind = schema(np.dtype(dtype))
    table = pa.Table.from_pylist([row], schema=kind).take(pa.array(np.zeros(step, np.int64)))
    with pq.ParquetWriter(out, kind, compression="zstd") as writer:
        writer.write_table(pa.concat_tables([table] * 10), row_group_size=BOMB_ROWS)
    return out.getvalue().to_pybytes()


@pytest.mark.parametrize("told", [True, False], ids=["as the manifest says", "other than it says"])
def test_a_small_shard_of_thirty_million_documents_is_refused(told: bool, tiny_copy: Path) -> None:
    data = bomb_shard()
    assert len(data) < 2_000_000
    meta = pq.read_metadata(pa.BufferReader(data))
    forger = Forger(tiny_copy)
    forger.shard_path(0).write_bytes(data)
    row, footer = forger.shards[0], Footer.of(data)
    row |= {"sha256": canonical_json.sha256(data), "size_bytes": len(data)}
    row |= {"footer_bytes": footer.size_bytes, "footer_digest": bytes.fromhex(footer.digest)}
    block = next(block for block in forger.blocks if block["shard"] == 0)
    block["offset"], block["size_bytes"] = row_group_range(meta.row_group(0))
    if told:
        block["documents"] = row["documents"] = BOMB_ROWS
    forger.save()
    for arguments in (["verify", "--full"], ["verify"]):
        found = limited(*arguments, tiny_copy)
        assert found.returncode == IntegrityError.exit_code, found.stderr
        assert "Traceback" not in found.stderr
    with pytest.raises(CorruptShard, match=f"30,000,000 documents, the limit is {MAX_BLOCK_DOCUMENTS:,}"):
        ShardReader(pa.BufferReader(data), "x").tokens(0)
    blocks = open_blocks(open_dataset(str(tiny_copy)), tiny_copy.parent / "cache")
    with pytest.raises(CorruptShard, match="30,000,000 documents"):
        blocks["lines"].read(0)


# -- empty tables


@pytest.fixture(params=TABLES)
def emptied(request: pytest.FixtureRequest, tiny_copy: Path) -> Path:
    """A dataset one of whose tables has no rows, everything signed anew."""
    forger = Forger(tiny_copy)
    forger.tables[request.param] = []
    for source in forger.manifest["sources"]:
        if request.param in source:
            source[request.param] = 0
    forger.save()
    return tiny_copy


COMMANDS: dict[str, Callable[[Path], list[str | Path]]] = {
    "verify": lambda root: ["verify", root],
    "verify in full": lambda root: ["verify", "--full", root],
    "show": lambda root: ["show", root],
    "stats": lambda root: ["stats", root],
    "diff": lambda root: ["diff", root, root],
    "sweep": lambda root: ["sweep", root],
    "trace a row": lambda root: ["trace", root, f"{next(root.glob('dataset=*/*')).relative_to(root)}:0"],
    "trace a document": lambda root: ["trace", root, "--document", "lines:doc-0"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_table_leaves_no_traceback(command: str, emptied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.run(cli.app, [str(part) for part in COMMANDS[command](emptied)])
    assert code in (0, 2, IntegrityError.exit_code)
    assert "Traceback" not in capsys.readouterr().err
