"""The script that asks how training scales finds what was put into its numbers, and its cases run on two processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import scale
from benchmarks.collectives import PASSES, Ring, Taken, fit, step_on_nodes
from benchmarks.scale import cases, report
from benchmarks.scale_resume import compare

RING = Ring(latency=8e-6, bandwidth=400e9)


def taken(ring: Ring) -> list[Taken]:
    sizes = [1 << 16, 1 << 22, 1 << 28]
    return [Taken(kind, n, size, ring.seconds(kind, n, size)) for kind in PASSES for n in (2, 4, 8) for size in sizes]


def test_the_fit_finds_the_latency_and_the_bandwidth_of_a_ring() -> None:
    found = fit(taken(RING))
    assert found.latency == pytest.approx(RING.latency, rel=1e-6)
    assert found.bandwidth == pytest.approx(RING.bandwidth, rel=1e-6)
    assert found.worst < 1e-6


def test_the_fit_says_how_far_the_farthest_time_is_from_a_ring() -> None:
    times = taken(RING)
    times[4] = Taken(times[4].kind, times[4].ranks, times[4].size_bytes, 2 * times[4].seconds)
    assert 0.3 < fit(times).worst < 1.0


def test_one_size_on_one_number_of_ranks_is_no_fit() -> None:
    with pytest.raises(ValueError, match="do not tell latency and bandwidth apart"):
        fit([Taken("all_reduce", 2, 1 << 20, 1e-3)] * 5)


def test_a_step_on_one_node_is_the_measured_one_and_on_more_lies_between_all_hidden_and_none() -> None:
    link = Ring(latency=10e-6, bandwidth=50e9)
    one = step_on_nodes(0.86, 9_780_000_000, 1, link)
    assert (one.hidden, one.bare, one.between_nodes) == (0.86, 0.86, 0.0)
    many = step_on_nodes(0.86, 9_780_000_000, 24, link)
    # 9.78 B float32 gradients over 8 ranks are 4.89 GB; 2 x 23 / 24 of it at 50 GB/s, and 46 hops
    assert many.between_nodes == pytest.approx(2 * 23 / 24 * 4.89 / 50 + 46 * 10e-6, rel=1e-3)
    assert many.hidden == 0.86 and many.bare == pytest.approx(0.86 + many.between_nodes)
    assert step_on_nodes(0.1, 9_780_000_000, 24, link).hidden == many.between_nodes


def test_eight_gpus_are_asked_for_every_layout_and_two_for_what_two_can() -> None:
    names = [case.name for case in cases(8, "data", small=False)]
    for name in ("float8 whole / 8", "bfloat16 sharded / 8", "float8 hybrid 4 / 8", "bfloat16 hybrid 2 / 4"):
        assert f"weak {name}" in names
    assert {"health / 8", "context / 8", "strong / 8", "resume / 8", "collectives / 4"} <= set(names)
    assert len(set(names)) == len(names)
    assert [case.name for case in cases(8, "data", small=False) if case.own_ranks] == ["resume / 8"]
    two = [case.name for case in cases(2, None, small=False)]
    assert "weak float8 sharded / 2" in two and not any("hybrid" in name or "resume" in name for name in two)


def test_the_tables_hold_the_ratio_to_one_gpu_the_fit_and_what_failed() -> None:
    def measured(rate: float) -> dict[str, object]:
        where = {"collectives": 12.5, "gaps": 15.0}
        steps = [50.0, 1.0, *[8192 / rate] * 9]
        found = {"tokens_per_second": rate, "milliseconds": where, "memory_gib": 110.04, "step_seconds": steps}
        return {**found, "parameters": 9_780_000_000}

    rows = [{"kind": t.kind, "bytes": t.size_bytes, "seconds": t.seconds} for t in taken(RING) if t.ranks == 8]
    lines = [
        {"case": "weak bfloat16 whole / 1", "passed": True, "measured": measured(10_000)},
        {"case": "weak bfloat16 sharded / 8", "passed": True, "measured": measured(9_500)},
        {"case": "weak float8 whole / 8", "passed": False, "stderr": ["out of memory"]},
        {"case": "collectives / 8", "passed": True, "measured": {"ranks": 8, "collectives": rows}},
        {"case": "strong / 1", "passed": True, "measured": measured(40_000)},
        {"case": "strong / 8", "passed": True, "measured": measured(20_000)},
    ]
    text = report(lines, node_gbits=400)
    assert "| bfloat16 sharded | 8 | 9,500 | 0.950 | 12.5 | 171.3 | 15.0 | 110.0 |" in text
    assert "| 8 | 160,000 | 0.500 |" in text
    assert "8.0 us a hop, 400.0 GB/s" in text
    assert "| weak bfloat16 sharded / 8 | 24 | 187.8 | 1.000 | 0.821 |" in text
    assert "weak float8 whole / 8 FAILED: out of memory" in text


def test_a_source_that_counted_one_token_more_is_another_ledger() -> None:
    quiet = {1: {"step": 1, "loss": 2.0, "tokens/a": 5}, 2: {"step": 2, "loss": 1.0, "tokens/a": 9}}
    same = {2: quiet[2], 1: {**quiet[1], "loss": 2.02}}
    assert compare(quiet, same) == {"steps": 2, "ledgers_equal": True, "farthest_loss": pytest.approx(0.01)}
    assert not compare(quiet, {**quiet, 2: {**quiet[2], "tokens/a": 10}})["ledgers_equal"]
    assert not compare(quiet, {1: quiet[1]})["ledgers_equal"]


def asked(monkeypatch: pytest.MonkeyPatch, gpus: int, *words: str) -> int | str | None:
    """The exit code of the script where so many GPUs are; none of its cases is run."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(sys, "argv", ["scale", *words])
    monkeypatch.setattr(scale, "run", lambda case: {"case": case.name, "passed": True, "seconds": 0.0})
    try:
        return scale.main()
    except SystemExit as ended:
        return ended.code


@pytest.mark.parametrize(
    ("gpus", "words", "said"),
    [
        (0, [], "there is no GPU here: --small is the dry run"),
        (0, ["--list"], "there is no GPU here: --small is the dry run"),
        (0, ["--ranks", "8", "--out", "lines"], "there is no GPU here: --small is the dry run"),
        (1, ["--ranks", "2", "--out", "lines"], "--ranks 2: there is 1 GPU here"),
        (4, ["--ranks", "8", "--out", "lines"], "--ranks 8: there are 4 GPUs here"),
        (0, ["--report", "missing"], "--report missing: No such file or directory"),
        (0, ["--report", "."], "--report .: Is a directory"),
        (0, ["--report", "text"], "--report text: not what --out wrote: line 1 is no JSON"),
        (0, ["--report", "other"], "--report other: not what --out wrote: line 2 is of no case"),
    ],
)
def test_what_cannot_be_measured_or_read_is_refused_in_one_line(
    gpus: int,
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("| a table |\n")
    Path("other").write_text('{"case": "health / 2", "passed": true}\n{"device": "cpu"}\n')
    assert asked(monkeypatch, gpus, *words) == 2
    heard = capsys.readouterr()
    assert (heard.out, heard.err.count("\n")) == ("", 1) and f": {said}" in heard.err
    assert not Path("lines").exists()


def test_without_out_it_says_that_it_only_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hint = "listed, and none was run: --out FILE runs them\n"
    for gpus, words, said in ((2, [], hint), (0, ["--small"], hint), (0, ["--list", "--ranks", "2"], "")):
        assert asked(monkeypatch, gpus, *words) == 0
        heard = capsys.readouterr()
        assert heard.out.startswith("health / 2: trainer.health") and heard.err == said
    assert asked(monkeypatch, 2, "--out", str(tmp_path / "lines"), "health*") == 0
    heard = capsys.readouterr()
    assert heard.err == "" and "passed  health / 2" in heard.out
    assert scale.read_lines(tmp_path / "lines") == [{"case": "health / 2", "passed": True, "seconds": 0.0}]


@pytest.mark.costly
def test_collectives_and_a_shared_row_run_on_two_processes_of_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "lines.jsonl"
    command = [sys.executable, "-m", "benchmarks.scale", "--small", "--out", str(out), "collectives*", "context*"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + out.read_text()
    collectives, row = (json.loads(line)["measured"] for line in out.read_text().splitlines())
    assert {one["kind"] for one in collectives["collectives"]} == set(PASSES)
    assert row["context"]["losses"][-1] < row["context"]["losses"][0]
