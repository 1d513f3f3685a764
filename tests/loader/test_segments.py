"""The cache of segments is a convenience: damaged, full, shared or missing, every row stays what it was."""

import json
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from loader import Loader, build_loader
from loader.packing.segments import ANONYMOUS_BYTES, SegmentCache
from tests.loader.real import all_rows

BATCHES = 30
MIX: dict[str, Any] = {"row_tokens": 64, "batch_rows": 6, "seed": 4, "prefetch_tokens": 800}


def served(data: Path, cache: Path, **more: Any) -> tuple[dict[int, Any], Loader]:
    loader = build_loader(str(data), **MIX | {"max_steps": BATCHES, "cache": cache} | more)
    return all_rows(loader, list(loader.plan.source_names)), loader


def segments(cache: Path) -> list[Path]:
    return sorted(cache.glob("segments/*/*.arrays"))


def test_a_second_run_makes_no_segment(mixed: Path, cache: Path) -> None:
    first, one = served(mixed, cache)
    again, other = served(mixed, cache)
    assert one.segments.made == len(segments(cache)) > 10
    assert other.segments.made == 0
    assert again == first


@pytest.mark.parametrize("place", ["begin", "middle", "end"])
def test_a_flipped_bit_in_any_segment_is_found_and_healed(mixed: Path, cache: Path, place: str) -> None:
    wanted, _ = served(mixed, cache)
    whole = {path: path.read_bytes() for path in segments(cache)}
    for number, (path, good) in enumerate(whole.items()):
        data = bytearray(good)
        at = {"begin": number % 80, "middle": len(data) // 2, "end": len(data) - 1}[place]
        data[at] ^= 1 << number % 8
        path.unlink()
        path.write_bytes(data)
    found, loader = served(mixed, cache)
    assert found == wanted
    assert loader.segments.damaged == len(whole)
    assert {path: path.read_bytes() for path in segments(cache)} == whole


@pytest.mark.parametrize("length", [0, 7, 90])
def test_a_segment_that_was_cut_off_is_made_anew(mixed: Path, cache: Path, length: int) -> None:
    wanted, _ = served(mixed, cache)
    for path in segments(cache):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data[:length])
    assert served(mixed, cache)[0] == wanted


def test_one_segment_in_the_place_of_another_is_not_taken_for_it(mixed: Path, cache: Path) -> None:
    wanted, _ = served(mixed, cache)
    paths = segments(cache)
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, contents[1:] + contents[:1], strict=True):
        path.unlink()
        path.write_bytes(content)
    found, loader = served(mixed, cache)
    assert found == wanted
    assert loader.segments.damaged == len(paths)


def test_segments_that_vanish_while_they_are_used_stay_readable(mixed: Path, cache: Path) -> None:
    wanted, _ = served(mixed, cache)
    loader = build_loader(str(mixed), **MIX, max_steps=BATCHES, cache=cache)
    names = list(loader.plan.source_names)
    found: dict[int, Any] = {}
    for batch in loader:
        found |= all_rows([batch], names)
        for path in segments(cache):
            path.unlink()
    assert found == wanted


def test_the_folder_stays_below_its_size(demo: Path, cache: Path) -> None:
    limit = 200_000
    wanted, _ = served(demo, cache / "large", row_tokens=512)
    found, _ = served(demo, cache / "small", row_tokens=512, cache_bytes=limit)
    largest = max(path.stat().st_size for path in segments(cache / "large"))
    assert found == wanted
    assert sum(path.stat().st_size for path in segments(cache / "small")) <= limit + 2 * largest
    assert sum(path.stat().st_size for path in segments(cache / "large")) > 2 * limit


def test_without_a_folder_few_segments_lie_in_memory(demo: Path, cache: Path) -> None:
    loader = build_loader(str(demo), **MIX, cache=cache)
    held = loader.order.source("books")
    memory = SegmentCache(None, 0)
    size = 0
    for epoch in range(12):
        for position in range(len(held.blocks.tokens)):
            size += sum(part.nbytes for part in memory.get(held.blocks, held.packing.layout(epoch, position)))
    assert memory.made == 12 * len(held.blocks.tokens)
    assert memory._in_memory_bytes == sum(part.nbytes for one in memory._in_memory.values() for part in one)
    assert memory._in_memory_bytes <= min(size, ANONYMOUS_BYTES)


def test_a_segment_is_made_once_however_many_threads_want_it(demo: Path, cache: Path) -> None:
    loader = build_loader(str(demo), **MIX, cache=cache)
    held, shared = loader.order.source("books"), SegmentCache(cache / "threads", 1 << 30)
    with ThreadPoolExecutor(8) as pool:
        wanted = [held.packing.layout(0, position % 13) for position in range(104)]
        made = list(pool.map(lambda layout: shared.get(held.blocks, layout), wanted))
    assert shared.made == 13
    assert all(one is other for one, other in zip(made[:13], made[13:26], strict=True))


# ---- faults of the disk, in a process of its own

READER = """
    import sys, json, hashlib, resource, os
    from pathlib import Path
    from loader import build_loader
    data, cache, before, *numbers = sys.argv[1:]
    def limit():
        if before == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(numbers[0]), int(numbers[0])))
        if before == "nobody":
            os.setgid(65534), os.setuid(65534)
    if before == "nobody":
        limit()
    loader = build_loader(data, row_tokens=64, batch_rows=6, seed=4, prefetch_tokens=800, max_steps=30, cache=cache)
    limit()
    ids = hashlib.sha256(b"".join(batch["input_ids"].numpy().tobytes() for batch in loader))
    print(json.dumps({"ids": ids.hexdigest(), "unsaved": loader.segments.unsaved, "made": loader.segments.made}))
"""


def read_elsewhere(*arguments: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", textwrap.dedent(READER), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


def test_a_full_disk_costs_time_and_no_row(mixed: Path, cache: Path) -> None:
    """A limit on the size of files is what a process can have of a full disk without being root."""
    good = read_elsewhere(mixed, cache / "good", "")
    full = read_elsewhere(mixed, cache / "full", "full", 100)
    assert good.returncode == full.returncode == 0, full.stderr
    assert said(full.stdout)["ids"] == said(good.stdout)["ids"]
    assert said(full.stdout)["unsaved"] == said(full.stdout)["made"] > 0
    assert said(good.stdout)["unsaved"] == 0 and good.stderr == ""
    assert full.stderr.count("cannot be kept") == 1  # it is said, once
    assert segments(cache / "full") == []


def test_a_folder_that_may_not_be_written_is_named_with_the_way_out(mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    found = read_elsewhere(mixed, tmp_path / "file" / "cache", "")
    assert found.returncode != 0
    assert "UserError: the cache folder" in found.stderr and "$BAMBA_CACHE" in found.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
def test_a_folder_that_is_read_only_is_still_read(mixed: Path, cache: Path) -> None:
    good = read_elsewhere(mixed, cache, "")
    before = segments(cache)
    for folder in [cache, *cache.rglob("*")]:
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    for folder in [*cache.parents, *mixed.parents]:
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    found = read_elsewhere(mixed, cache, "nobody")
    if "Permission denied: '/" in found.stderr and "cache folder" not in found.stderr:
        pytest.skip("nobody may not read this Python")
    assert found.returncode == 0, found.stderr
    assert said(found.stdout) == {**said(good.stdout), "made": 0, "unsaved": 0}
    assert segments(cache) == before


def said(text: str) -> dict[str, Any]:
    return dict(json.loads(text.splitlines()[-1]))


def test_no_limit_of_files_is_met_by_a_window_of_segments(mixed: Path, cache: Path) -> None:
    """Maps hold no descriptor, so that thousands of segments do not need thousands of files to be open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    loader = build_loader(str(mixed), **MIX, max_steps=BATCHES, cache=cache, num_workers=0)
    list(loader)
    assert loader.segments.made > 10
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
