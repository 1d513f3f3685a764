"""Run an export again and again, killed by SIGKILL at one point of its storage after the other, and finished after it.

    python -m tests.faults.export_crash_points URL FORM FOLDER [STEP]

Points are as in tests.faults.crash_points. The record is written after every shard, so that there are many. Prints one
JSON line: how many points were tried, and where the files were not in the end those of an undisturbed export. STEP
thins them out.
"""

import json
import shutil
import sys
from pathlib import Path

from bamba_data.canonical_json import digest, sha256
from bamba_data.exchange import export as exporting
from bamba_data.format.dataset import open_dataset
from tests.faults.crash_points import Killer, in_child


def files_of(url: str, form: str, out: Path) -> str:
    """The whole export; a digest of every file in the folder."""
    exporting.SYNC_TOKENS = 1
    exporting.export(open_dataset(url), form, str(out), delimiters="eos")
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return digest({path.relative_to(out).as_posix(): sha256(path.read_bytes()) for path in files})


def main(url: str, form: str, folder: Path, step: int) -> None:
    def killed_at(point: int) -> str:
        killer = Killer(point)
        killer.arm()
        return f"{files_of(url, form, folder / 'out')} {killer.seen}"

    quiet = in_child(lambda: killed_at(-1))
    assert quiet is not None
    wanted, points = quiet.split()
    differs: dict[int, str | None] = {}
    tried = range(0, int(points), step)
    for point in tried:
        shutil.rmtree(folder / "out")
        if (survived := in_child(lambda p=point: killed_at(p))) is not None:  # type: ignore[misc]
            differs[point] = f"not killed: {survived}"
        elif (there := in_child(lambda: files_of(url, form, folder / "out"))) != wanted:
            differs[point] = there
    print(json.dumps({"tried": len(tried), "differs": differs}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 1)
