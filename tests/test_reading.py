"""docs/reading.md: every example, run as it stands there, gives the ids that are stored."""

import os
import subprocess
import sys
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "reading.md"

RUN = """
import os, re, sys
from bamba_data.format.dataset import open_dataset
from bamba_data.format.shard import ShardReader

dataset = open_dataset(sys.argv[1])
want = []
for path in dataset.shards["path"]:
    with dataset.store.open(path) as file:
        shard = ShardReader(file, path)
        want += [ids.tolist() for block in range(shard.blocks) for ids in shard.tokens(block).documents()]
names, checked = {"URL": sys.argv[1]}, 0
for block in re.findall(r"```python\\n(.*?)```", open(sys.argv[2]).read(), re.DOTALL):
    exec(block, names)
    if "text" in names:
        assert names["text"].startswith("CHAPTER 1. Loomings"), names["text"][:80]
    elif "ids" in names:
        found = [list(map(int, ids)) for ids in names["ids"]]
        assert sorted(found) == sorted(want), block
        checked += 1
        kept = names["ids"]
        del names["ids"]
        names["ids" if "pyarrow" in block else "_"] = kept
print(checked, len(want), flush=True)
os._exit(0)  # threads that pyarrow leaves behind in some of them abort a process that ends by itself
"""


def test_every_example_of_the_guide_gives_the_ids_that_are_stored(tiny: Path, tmp_path: Path) -> None:
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", RUN, str(tiny), str(DOCUMENT)]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-2:] == ["8", "62"]
