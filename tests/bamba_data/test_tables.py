"""Tables in bytes are read whole, and without harm to the process that reads them."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bamba_data.format.tables import read_table

READ = """
import sys
from pathlib import Path
from bamba_data.format.tables import read_table
read_table(Path(sys.argv[1]).read_bytes())
"""


def test_a_process_that_ends_right_after_it_read_a_table_ends_well(tmp_path: Path) -> None:
    """By pyarrow's own `read_table` one of two of them is aborted."""
    path = tmp_path / "t.parquet"
    table = pa.table({"text": [str(n) * 300 for n in range(30_000)], "number": range(30_000)})
    pq.write_table(table, path, row_group_size=1000)
    for _ in range(8):
        run = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=False)
        assert (run.returncode, run.stderr) == (0, "")
    assert read_table(path.read_bytes()) == table
    assert read_table(path.read_bytes(), ["number"]) == table.select(["number"])
