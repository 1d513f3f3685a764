"""Stock tasks of lm-evaluation-harness on local files: our checkpoint and the harness's own backend on our export."""

import json
from pathlib import Path

import pytest
import torch

from tests.peers import environment, run
from tests.trainer.small import CONFIG, model, saved
from tests.trainer.vocabularies import a_tokenizer
from trainer.gguf import pretokenizers
from trainer.hf.export import export
from trainer.model.config import ModelConfig

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3600)]

#: What it needs of transformers, datasets and torch is among what the tests need.
LM_EVAL = ["lm-eval==0.4.13"]

WORDS = [
    "whale",
    "sea",
    "12 sailors",
    "Call me Ishmael",
    "don't",
    "of the deep",
    "a\n\nline",
    "    return x",
    "Ünïcödé",
]

SUITE = """
tasks:
- {task: arc_easy, metrics: [acc_norm], shots: 1, files: {train: arc.jsonl, test: arc.jsonl, validation: arc.jsonl}}
- {task: piqa, metrics: [acc], shots: 0, files: {train: piqa.jsonl, validation: piqa.jsonl}}
- {task: truthfulqa_mc2, metrics: [acc], files: {validation: truthful.jsonl}}
- {task: gsm8k, metrics: ["exact_match,strict-match"], shots: 0, files: {train: gsm.jsonl, test: gsm.jsonl}}
"""

BOTH = """
import json, sys
import lm_eval, torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from trainer.checkpoint.reader import SavedCheckpoint
from trainer.checkpoint.tokenizer import of_file
from trainer.tasks.harness_model import CheckpointModel
from dataclasses import replace
from pathlib import Path

run, folder, tokenizer, eos, pairs = sys.argv[1:]
pairs = json.loads(pairs)
ours = CheckpointModel(SavedCheckpoint(run), replace(of_file(Path(tokenizer)), eos=int(eos)), 8, torch.device("cpu"))

def asked(kind, arguments):
    return [Instance(kind, {}, pair, at) for at, pair in enumerate(arguments)]

likelihoods = asked("loglikelihood", [tuple(pair) for pair in pairs])
texts = asked("loglikelihood_rolling", [(a + b + a + b,) for a, b in pairs])
found, rolling = [], []
for batch in (1, 8, 32):
    theirs = HFLM(pretrained=folder, dtype="float32", device="cpu", batch_size=batch)
    ours.batch = batch
    assert theirs.max_length == ours.max_tokens and theirs.prefix_token_id == ours.prefix_token_id
    for mine, other in zip(ours.loglikelihood(likelihoods), theirs.loglikelihood(likelihoods), strict=True):
        assert mine[1] == other[1]
        found.append(abs(mine[0] - other[0]))
    for mine, other in zip(ours.loglikelihood_rolling(texts), theirs.loglikelihood_rolling(texts), strict=True):
        rolling.append(abs(mine - other) / abs(other))
until = {"until": ["\\n\\n", "Question:"], "max_gen_toks": 12, "do_sample": False}
generations = asked("generate_until", [(context, until) for context, _ in pairs if context])
one = HFLM(pretrained=folder, dtype="float32", device="cpu", batch_size=1)
assert ours.generate_until(generations) == one.generate_until(generations)
print("FOUND" + json.dumps([len(found), max(found), len(rolling), max(rolling)]))
"""

COMMAND = """
import sys
from bamba.pipelines.cli import main
sys.argv = ["bamba-data", *sys.argv[1:]]
main()
"""


def lines(path: Path, records: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def a_run(tmp_path: Path) -> tuple[Path, int]:
    tokenizer = a_tokenizer(next(iter(pretokenizers.NAMES.values())))
    config = ModelConfig.model_validate({**CONFIG.model_dump(), "vocab_size": 512})
    kept = saved(tmp_path / "run", model(config=config), row_tokens=512)
    export(kept, tmp_path / "hf", torch.float32, tokenizer)
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.data)
    assert tokenizer.eos is not None
    return tmp_path, tokenizer.eos


def test_likelihoods_and_texts_are_those_of_the_backend_for_transformers(a_run: tuple[Path, int]) -> None:
    folder, eos = a_run
    contexts = ["", *WORDS, " ".join(WORDS * 6), "trailing blank "]
    pairs = json.dumps([(a, f" {b}") for a in contexts for b in WORDS[:4]])
    python = environment("lm-eval", LM_EVAL)
    said = run(python, BOTH, folder / "run", folder / "hf", folder / "tokenizer.json", eos, pairs, timeout_seconds=900)
    count, largest, texts, largest_of_texts = json.loads(said.split("FOUND")[1].splitlines()[0])
    assert count == texts == 3 * len(json.loads(pairs))
    assert largest < 1e-4, "nats, of a continuation"
    assert largest_of_texts < 1e-6, "of a whole text's sum, which the other backend makes in float32"
    print(largest, largest_of_texts)


def test_a_suite_of_local_files_runs_offline_and_goes_on_where_it_was(a_run: tuple[Path, int]) -> None:
    folder, _ = a_run
    texts = {"label": ["A", "B", "C"], "text": WORDS[:3]}
    arc = {"id": "1", "question": "Which swims?", "choices": texts, "answerKey": "B"}
    lines(folder / "arc.jsonl", [{**arc, "question": f"Which of {word}?"} for word in WORDS])
    lines(folder / "piqa.jsonl", [{"goal": word, "sol1": "swim", "sol2": "sink", "label": 1} for word in WORDS])
    choices = {"choices": WORDS[:3], "labels": [1, 0, 0]}
    truthful = {"mc1_targets": choices, "mc2_targets": choices}
    lines(folder / "truthful.jsonl", [{"question": word, **truthful} for word in WORDS])
    lines(folder / "gsm.jsonl", [{"question": f"{n} and 1?", "answer": f"so\n#### {n + 1}"} for n in range(2)])
    (folder / "suite.yaml").write_text(SUITE)
    command = ["model", "benchmark", folder / "run", "--suite", folder / "suite.yaml", "--out", folder / "results"]
    command += ["--tokenizer", folder / "tokenizer.json", "--eos", "<|end|>", "--questions", 6, "--json"]
    python = environment("lm-eval", LM_EVAL)
    first = json.loads(run(python, COMMAND, *command, timeout_seconds=900))
    assert list(first["tasks"]) == ["arc_easy", "piqa", "truthfulqa_mc2", "gsm8k"]
    assert all(0 <= value <= 1 for value in first["tasks"].values())
    assert first["mean"] == pytest.approx(sum(first["tasks"].values()) / 4)
    results = {path: path.stat().st_mtime_ns for path in (folder / "results").iterdir()}
    assert len(results) == 4
    (gone,) = [path for path in results if path.name.startswith("piqa")]
    gone.unlink()
    assert json.loads(run(python, COMMAND, *command, timeout_seconds=900)) == first
    again = {path: path.stat().st_mtime_ns for path in (folder / "results").iterdir()}
    assert {path for path in again if again[path] != results[path]} == {gone}
    lines(folder / "piqa.jsonl", [{"goal": "other", "sol1": "a", "sol2": "b", "label": 0}])
    run(python, COMMAND, *command, timeout_seconds=900)
    assert len(list((folder / "results").iterdir())) == 5, "other data, another result"
