"""Launches are a matter of speed alone; those measured on a device are kept, and never believed when damaged."""

import itertools
import json
import logging
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from bamba_data.errors import UserError
from tests.trainer.kernels.cases import TILES, draw, on, results, rows_of_documents

pytest.importorskip("triton")
from benchmarks.kernels import CANDIDATES
from benchmarks.kernels import main as benchmark
from trainer.kernels import ssd_decay, ssd_forward, tuned_launches
from trainer.kernels.launch import Launch, TunableLaunch
from trainer.kernels.shapes import ScanInputs
from trainer.kernels.supported import PART_WIDTHS


@pytest.fixture
def launches() -> Iterator[dict[str, Launch]]:
    """Those of the kernels' files, which come back afterwards."""
    before = tuned_launches.current()
    yield before
    tuned_launches.apply(before)


def test_other_launches_compute_the_same(triton_kernels: torch.device, launches: dict[str, Launch]) -> None:
    case = on(draw(rows_of_documents(1, 40, [[17]]), heads=2, **TILES).to(torch.float32), triton_kernels)
    wanted = results(case)
    one_head = (
        "decay.DECAYS",
        "scan_chunks.CHUNKS",
        "scan_backward.FINISH",
    )
    others = {name: Launch(4, 1, 1) for name in one_head}
    tuned_launches.apply({**others, "conv.FORWARD": Launch(2, 1, 64), "conv.BACKWARD": Launch(2, 1, 64)})
    got = results(case)
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-3 * value.abs().max().item())


def test_what_was_measured_on_a_device_is_kept_by_its_name_and_taken(
    launches: dict[str, Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tuned_launches.file_of("NVIDIA A100-SXM4-80GB")
    assert file.is_relative_to(tmp_path) and "A100-SXM4-80GB" in file.name
    assert tuned_launches.read(file) is None
    tuned_launches.write(file, {**launches, "conv.FORWARD": Launch(2, 1, 64)})
    kept = tuned_launches.read(file)
    assert kept is not None
    tuned_launches.apply(kept)
    assert tuned_launches.current() == {**launches, "conv.FORWARD": Launch(2, 1, 64)}
    assert tuned_launches.file_of("NVIDIA H200") != file


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"conv.FORWARD": {"warps": 4}}'])
def test_a_damaged_file_is_said_and_left_out(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "launches.json"
    file.write_text(damage)
    with caplog.at_level(logging.WARNING):
        assert tuned_launches.read(file) is None
    assert "is left out" in caplog.text


def test_numbers_of_another_kind_are_no_launches(launches: dict[str, Launch], tmp_path: Path) -> None:
    file = tmp_path / "launches.json"
    tuned_launches.write(file, launches)
    plain = json.loads(file.read_text())
    plain["norm.FORWARD"]["warps"] = "8"
    file.write_text(json.dumps(plain))
    assert tuned_launches.read(file) is None


def test_shared_memory_and_capability_say_whose_launches_a_device_takes(launches: dict[str, Launch]) -> None:
    assert tuned_launches.shipped("one of a later kind", 232_448, 11) == launches
    for device, shared_bytes, capability, its in (
        ("NVIDIA A100-SXM4-80GB", 166_912, 8, tuned_launches.A100),
        ("NVIDIA B200", 232_448, 10, tuned_launches.B200),
    ):
        others = tuned_launches.shipped(device, shared_bytes, capability)
        assert {name for name in launches if others[name] != launches[name]} == set(its)
    with pytest.raises(UserError, match="NVIDIA L4 gives a program 99 KiB of shared memory"):
        tuned_launches.shipped("NVIDIA L4", 101_376, 8)


def test_no_launch_of_the_scan_has_a_form_that_triton_compiles_wrongly(launches: dict[str, Launch]) -> None:
    """Whatever a table ships, or `--tune` may keep, and whatever part of a head it is for."""
    name, (kernel, *ranges) = "scan_forward.FORWARD", CANDIDATES["scan_forward.FORWARD"]
    shipped = [table[name] for table in (launches, tuned_launches.A100, tuned_launches.B200) if name in table]
    assert kernel == "_scan" and len(shipped) >= 2
    for launch in (*shipped, *(Launch(*numbers) for numbers in itertools.product(*ranges))):
        tuned_launches.apply({name: launch})
        for dtype in (torch.bfloat16, torch.float32):
            for width in PART_WIDTHS if dtype == torch.bfloat16 else PART_WIDTHS[1:]:  # 16: backends.backend
                block, options = ssd_forward.launch_of(torch.empty(1, 1, 1, width, dtype=dtype))
                assert width % block == 0 and (block, options["num_stages"]) != (32, 1)
                assert dtype == torch.bfloat16 or block >= 32


def test_a_launch_of_one_stage_keeps_it_where_few_programs_could_have_more() -> None:
    data = torch.zeros(1, dtype=torch.bfloat16)
    two, one = (TunableLaunch("test", Launch(warps=4, stages=stages), few_stages=3) for stages in (2, 1))
    assert [launch.options(data, 1)["num_stages"] for launch in (two, one)] == [3, 1]


def test_a_triton_whose_gluon_is_another_is_told_of_and_the_scan_for_all_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "triton.experimental.gluon", None)
    monkeypatch.delitem(sys.modules, f"{ssd_forward.__package__}.ssd_forward_hopper", raising=False)
    monkeypatch.setattr(ssd_forward, "is_hopper", lambda _: True)
    ssd_forward._of_hopper.cache_clear()
    data = torch.empty(1, 1, 1, 64, dtype=torch.bfloat16)
    with caplog.at_level(logging.WARNING):
        assert ssd_forward._in_gluon(data, 128) is None and ssd_forward._in_gluon(data, 128) is None
    ssd_forward._of_hopper.cache_clear()
    (told,) = caplog.messages
    assert "does not know this Triton" in told and "gluon" in told


def test_only_a_hopper_takes_the_scan_that_is_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def takes(width: int, state: int, dtype: torch.dtype) -> bool:
        return ssd_forward._in_gluon(torch.empty(1, 1, 1, width, dtype=dtype), state) is not None

    monkeypatch.setattr(ssd_forward, "_of_hopper", lambda: ssd_forward)  # beside the interpreter Gluon is not imported
    assert not takes(64, 128, torch.bfloat16)  # a CPU
    monkeypatch.setattr(ssd_forward, "is_hopper", lambda _: True)
    assert takes(64, 128, torch.bfloat16) and takes(128, 64, torch.bfloat16)
    others = [(32, 128, torch.bfloat16), (64, 256, torch.bfloat16), (64, 32, torch.bfloat16), (64, 128, torch.float32)]
    assert not any(takes(*other) for other in others)


def test_the_four_numbers_of_a_token_lie_one_behind_the_other(triton_kernels: torch.device) -> None:
    """The scan for Hopper GPUs is given the first of these tables, and how long one is."""
    zeros = partial(torch.zeros, device=triton_kernels)
    case = [
        zeros(1, 70, 2, 64),
        zeros(1, 70, 2),
        zeros(1, 70, 1, 64),
        zeros(1, 70, 1, 64),
        zeros(2),
        zeros(2),
        zeros(2),
    ]
    made = ssd_decay.decays(ScanInputs(*case, zeros(1, 70, dtype=torch.int32)), 64)
    tables = made.steps, made.sums, made.enter, made.kept
    assert [table.data_ptr() - made.steps.data_ptr() for table in tables] == [
        4 * made.steps.numel() * k for k in range(4)
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--only", "time,tme"], "there is no tme; there are check, causes, time"), (["--shapes", "2y4096"], "as 2x4096")],
)
def test_the_benchmark_refuses_what_it_does_not_know_before_it_looks_for_a_gpu(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kernels", *arguments])
    with pytest.raises(SystemExit) as ended:
        benchmark()
    assert ended.value.code == 2 and told in capsys.readouterr().err
