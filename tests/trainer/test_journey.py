"""From a published dataset to a model that others open, by the commands that a user types."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, BambaForCausalLM

from bamba_data.storage.store import LocalStore
from bamba_data.tokenization.conformance import Certificate
from tests.corpora import TOKENIZER
from tests.forking import typed
from tests.loader.real import documents, publish
from tests.trainer.running import lines, losses, newest


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 steps on one process, and 4 more on two ranks."""
    out = tmp_path_factory.mktemp("journey") / "run"
    command = ["trainer", "--recipe", "tiny-cpu", "--data", dataset, "--out", out, "--set", "log.every_steps=1"]
    rest = ["--set", "checkpoints.every_steps=2", "--set", "log.evaluate_every_steps=4"]
    first = typed(*command, *rest, "--set", "schedule.steps=4")
    assert first.returncode == 0, first.stderr
    second = typed(*command, *rest, "--set", "schedule.steps=8", "--accept-changes", ranks=2)
    assert second.returncode == 0, second.stderr
    return out


def test_training_learns_the_dataset_and_counts_its_sources(trained: Path) -> None:
    found = losses(trained)
    assert list(found) == list(range(1, 9))
    assert found[8] < found[1]
    last = [line for line in lines(trained) if "loss" in line][-1]
    assert last["tokens"] == sum(last[key] for key in last if key.startswith("tokens/"))
    assert all(last[f"epochs/{name}"] > 0 for name in ("prose", "short"))
    assert {"loss", "lr", "grad_norm", "tokens_per_second", "loader_wait", "bad_steps"} <= last.keys()
    assert list((trained / "tensorboard").iterdir())


def test_a_row_of_a_run_is_traced_to_its_documents_with_the_plan_in_its_checkpoint(
    dataset: Path, trained: Path, tmp_path: Path
) -> None:
    _, commit = newest(LocalStore(trained / "checkpoints"))
    (tmp_path / "plan.json").write_text(json.dumps(commit["feed"]["plan"]))
    done = typed("pipelines.cli", "trace", dataset, "--global-row", "24", "--plan", tmp_path / "plan.json")
    assert done.returncode == 0, done.stderr
    assert "of row 24: epoch 0 of " in done.stdout and "same ids  yes" in done.stdout


def test_a_trained_model_is_exported_with_its_tokenizer_and_writes_in_transformers(
    trained: Path, tmp_path: Path
) -> None:
    done = typed("trainer.export_hf", trained, tmp_path / "hf")
    assert done.returncode == 0, done.stderr
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert (tmp_path / "hf" / "tokenizer.json").read_bytes() == TOKENIZER.read_bytes()
    assert tokenizer.eos_token == "<|endoftext|>"  # which the loader put after every document
    theirs = BambaForCausalLM.from_pretrained(tmp_path / "hf")
    ids = tokenizer("Call me", return_tensors="pt")["input_ids"]
    assert len(tokenizer.decode(theirs.generate(ids, max_new_tokens=4, do_sample=False)[0])) > len("Call me")


def test_held_out_documents_are_evaluated_alike_in_the_run_and_after_it_on_one_rank_or_two(
    dataset: Path, trained: Path
) -> None:
    within = [line for line in lines(trained) if line.get("event") == "held out"][-1]
    for ranks in (1, 2):
        done = typed("trainer.evaluate", trained, "--data", dataset, "--json", ranks=ranks)
        assert done.returncode == 0, done.stderr
        after = json.loads(done.stdout)
        assert after["step"] == within["step"] == 8
        assert after["losses"]
        for name, one in after["losses"].items():
            assert one["loss"] == pytest.approx(within[f"held_out/{name}"], rel=1e-4)


def test_ranks_that_share_each_row_evaluate_what_one_rank_does(dataset: Path, trained: Path, tmp_path: Path) -> None:
    """By source and by position, of documents and of a text: rows of 128 tokens, cut after 64, most of them inside a
    document."""
    text = tmp_path / "text.txt"
    text.write_text("It is a truth universally acknowledged, that a reader of tests is in want of sentences. " * 20)
    of_text = ["--text", text, "--tokenizer", TOKENIZER]
    for asked in (["--data", dataset], ["--data", dataset, "--by-position"], [*of_text, "--by-position"]):
        found = []
        for ranks, more in ((1, []), (2, ["--context-ranks", "2"])):
            done = typed("trainer.evaluate", trained, *asked, *more, "--json", ranks=ranks)
            assert done.returncode == 0, done.stderr
            told = json.loads(done.stdout)
            found.append(told["losses"].values() if "losses" in told else told["bands"])
        alone, shared = found
        assert len(alone) == len(shared) > 1
        for ours, wanted in zip(shared, alone, strict=True):
            assert ours == pytest.approx(wanted, rel=1e-5)


def test_rows_that_ranks_cannot_share_are_refused_by_evaluate_with_both_numbers(
    dataset: Path, trained: Path, tmp_path: Path
) -> None:
    done = typed("trainer.evaluate", trained, "--data", dataset, "--context-ranks", "2")
    assert done.returncode == 2
    assert "--context-ranks: 1 rank is no whole number of groups of 2: start a multiple of 2" in done.stderr
    done = typed("trainer.evaluate", trained, "--data", dataset, "--context-ranks", "3", ranks=3)
    assert done.returncode != 0
    assert "--context-ranks: 3 ranks cannot share rows of row_tokens 128 in equal parts" in done.stderr
    (tmp_path / "text").write_text("Call me Ishmael. " * 9)
    odd = ["--text", tmp_path / "text", "--tokenizer", TOKENIZER, "--row-tokens", "4"]
    done = typed("trainer.evaluate", trained, *odd, "--context-ranks", "2", ranks=2)
    assert done.returncode != 0
    assert "2 ranks share rows of row_tokens 4, 2 tokens each: the convolution reaches back over 3" in done.stderr


def test_a_text_is_evaluated_and_continued(trained: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("It is a truth universally acknowledged, that a reader of tests is in want of sentences. " * 9)
    done = typed("trainer.evaluate", trained, "--text", text, "--tokenizer", TOKENIZER, "--json")
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["losses"].values()
    assert 5 < one["loss"] < 12 and one["targets"] > 128
    done = typed("trainer.generate", trained, "--tokenizer", TOKENIZER, "--prompt", "Call me", "--tokens", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Call me")


def test_texts_are_written_by_one_process_and_several_are_refused(trained: Path) -> None:
    done = typed("trainer.generate", trained, "--tokenizer", TOKENIZER, "--prompt", "Call me", ranks=2)
    assert done.returncode != 0 and not done.stdout
    assert "one process reads and writes texts, and 2 ranks were started: leave torchrun out" in done.stderr


def test_another_order_of_the_data_is_refused_by_name(dataset: Path, trained: Path) -> None:
    command = ["trainer", "--recipe", "tiny-cpu", "--data", dataset, "--out", trained, "--accept-changes"]
    done = typed(*command, "--set", "data.seed=5", "--set", "schedule.steps=9")
    assert done.returncode == 2
    assert "data: seed was 2023 when this run began, is 5" in done.stderr


@pytest.mark.costly
def test_ranks_that_read_different_datasets_refuse_to_start_and_say_which_source_differs(
    dataset: Path, certificate: Certificate, tmp_path: Path
) -> None:
    other = publish(tmp_path / "other", certificate, {"prose": documents(20, 300), "short": documents(20, 300)})
    (tmp_path / "data-0").symlink_to(dataset)
    (tmp_path / "data-1").symlink_to(other)
    each = 'exec "$0" -m trainer --recipe tiny-cpu --data "$1/data-$RANK" --out "$1/run" --set data.weights="$2"'
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    done = subprocess.run(
        [*torchrun, "bash", "-c", each, sys.executable, str(tmp_path), "{prose: 1, short: 1}"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode != 0
    assert re.search(r"error: rank 1 differs from rank 0: .*data\.plan\.sources\.(prose|short) is ", done.stderr)
    assert "UserError: rank 1 differs from rank 0" in done.stderr.partition("Root Cause")[2]  # the launcher's report
    assert not lines(tmp_path / "run")


def test_without_a_dataset_the_way_out_is_said(tmp_path: Path) -> None:
    done = typed("trainer", "--recipe", "tiny-cpu", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "error: no dataset: give one with --data, or as data.urls in the recipe; or conversations" in done.stderr


def test_every_rank_says_how_well_it_is() -> None:
    done = typed("trainer.health", ranks=2)
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        said = rf"rank {rank}  cpu  [\d.]+ TFLOP/s  memory [\d,]+ GB/s  all-reduce [\d.]+ GB/s  well; no GPU: NVML"
        assert re.search(said, done.stderr)
