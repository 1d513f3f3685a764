"""A suite beside training: a process of its own at each checkpoint that is due, one at a time; no step waits."""

import json
import logging
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from bamba_data.errors import UserError
from bamba_data.storage.store import LocalStore
from tests.peers import COMMAND, LM_EVAL, environment, run
from tests.running import wait_for
from tests.trainer.running import lines
from tests.trainer.small import model, saved
from trainer.config import Log, load_recipe
from trainer.observe.benchmarks import CheckpointBenchmarks, check_benchmarks

EVERY_3 = Log(benchmark_suite="leaderboard-v1", benchmark_every_steps=3, benchmark_questions=1)


class Kept(list[dict[str, Any]]):
    """Events as they come."""

    def event(self, values: dict[str, Any]) -> None:
        self.append(values)


@pytest.fixture
def beside(tmp_path: Path) -> tuple[CheckpointBenchmarks, Kept]:
    """Of a run with a checkpoint of step 3, that names no tokenizer: what asks it fails."""
    saved(tmp_path / "run", model())
    events, store = Kept(), LocalStore(tmp_path / "run" / "checkpoints")
    return CheckpointBenchmarks(EVERY_3, store, tmp_path / "run", events, logging.getLogger("beside")), events


# ---- what is asked


def test_it_needs_a_suite_and_steps_that_are_those_of_checkpoints() -> None:
    with pytest.raises(ValidationError, match="benchmark_suite and benchmark_every_steps: give both"):
        Log(benchmark_suite="safety")
    asked = ["log.benchmark_suite=safety", "log.benchmark_every_steps=30"]
    with pytest.raises(UserError, match=r"30 is no multiple of checkpoints\.every_steps 20"):
        load_recipe("tiny-cpu", asked)
    assert load_recipe("tiny-cpu", [*asked, "checkpoints.every_steps=15"]).log.benchmark_every_steps == 30
    with pytest.raises(UserError, match="benchmark_device"):
        load_recipe("tiny-cpu", ["log.benchmark_device=cuda"])


def test_a_suite_that_is_not_there_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a file nor one of"):
        check_benchmarks(Log(benchmark_suite="mine.yaml", benchmark_every_steps=1), tmp_path)
    check_benchmarks(Log(), None)


# ---- beside a run


@pytest.mark.slow
def test_one_that_fails_is_told_with_its_last_word_and_may_be_asked_again(
    beside: tuple[CheckpointBenchmarks, Kept], tmp_path: Path
) -> None:
    benchmarks, events = beside
    benchmarks.poll(0)
    benchmarks.poll(2)
    assert not (tmp_path / "run" / "benchmarks").exists(), "neither is due"
    benchmarks.poll(3)
    assert not events, "it is only started"
    wait_for(lambda: benchmarks.poll(3) or bool(events), 120)
    (told,) = events
    assert (told["event"], told["step"]) == ("benchmark failed", 3) and "exit code" in told["why"]
    assert [path.suffix for path in (tmp_path / "run" / "benchmarks").iterdir()] == [".log"], "no half of an answer"


@pytest.mark.slow
def test_the_end_of_a_run_stops_what_is_at_work_and_says_how_to_go_on(
    beside: tuple[CheckpointBenchmarks, Kept], caplog: pytest.LogCaptureFixture
) -> None:
    benchmarks, events = beside
    benchmarks.poll(3)
    (process,) = [child for child in psutil.Process().children() if "bamba.trainer.benchmark" in child.cmdline()]
    benchmarks.poll(6)
    assert [told["event"] for told in events] == ["benchmark left out"]
    benchmarks.end(6)
    benchmarks.close()
    assert not process.is_running()
    assert "bamba-data model benchmark" in caplog.text and "--suite leaderboard-v1" in caplog.text


@pytest.mark.peers
@pytest.mark.timeout(3600)
def test_a_run_has_the_numbers_of_its_checkpoints_in_its_own_metrics(dataset: Path, tmp_path: Path) -> None:
    """Real training on real text; where a checkpoint comes while another is asked, that is told."""
    records = [{"goal": f"What swims, number {n}?", "sol1": "a whale", "sol2": "a stone", "label": 0} for n in range(9)]
    (tmp_path / "piqa.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    files = "{train: piqa.jsonl, validation: piqa.jsonl}"
    (tmp_path / "suite.yaml").write_text(f"tasks:\n- {{task: piqa, metrics: [acc], shots: 0, files: {files}}}\n")
    out, python = tmp_path / "run", environment("lm-eval", LM_EVAL)
    changes = {"schedule.steps": 6, "checkpoints.every_steps": 2, "checkpoints.keep_last": 9, "log.every_steps": 1}
    changes |= {"log.benchmark_every_steps": 2, "log.benchmark_questions": 4, "log.benchmark_wait": "true"}
    words = [word for field, value in changes.items() for word in ("--set", f"{field}={value}")]
    words += ["--set", f"log.benchmark_suite={tmp_path / 'suite.yaml'}"]
    run(
        python, COMMAND, "model", "train", "--recipe", "tiny-cpu", "--data", dataset, "--out", out, *words,
        timeout_seconds=900,
    )  # fmt: skip
    told = {line["step"]: line for line in lines(out) if str(line.get("event", "")).startswith("benchmark")}
    assert sorted(told) == [2, 4, 6] and told[2]["event"] == told[6]["event"] == "benchmark"
    assert (told[4]["event"] == "benchmark") == ("benchmark/piqa" in told[4])
    newest = ["model", "benchmark", out, "--suite", tmp_path / "suite.yaml", "--out", tmp_path / "again"]
    (alone,) = json.loads(run(python, COMMAND, *newest, "--questions", 4, "--json", timeout_seconds=900))
    assert (alone["step"], alone["tasks"]["piqa"]) == (6, told[6]["benchmark/piqa"])
