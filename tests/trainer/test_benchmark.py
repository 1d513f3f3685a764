"""Stock tasks of lm-evaluation-harness on local files: our checkpoint and the harness's own backend on our export."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from bamba_data.clean.evaluation_texts import read_texts
from tests.peers import COMMAND, LM_EVAL, environment, run
from tests.trainer.small import CONFIG, model, saved
from tests.trainer.vocabularies import a_tokenizer
from trainer.gguf import pretokenizers
from trainer.hf.export import export
from trainer.model.config import ModelConfig

pytestmark = [pytest.mark.peers, pytest.mark.timeout(3600)]

CONFIG_512 = ModelConfig.model_validate({**CONFIG.model_dump(), "vocab_size": 512})

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


def lines(path: Path, records: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def a_run(tmp_path: Path) -> tuple[Path, int]:
    tokenizer = a_tokenizer(next(iter(pretokenizers.NAMES.values())))
    kept = saved(tmp_path / "run", model(config=CONFIG_512), row_tokens=512)
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


@pytest.fixture
def suite(a_run: tuple[Path, int]) -> Path:
    """The folder of a run with a suite of four stock tasks, and their data as the hub has it."""
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
    return folder


def test_a_suite_of_local_files_runs_offline_and_goes_on_where_it_was(suite: Path) -> None:
    folder = suite
    command = ["model", "benchmark", folder / "run", "--suite", folder / "suite.yaml", "--out", folder / "results"]
    command += ["--tokenizer", folder / "tokenizer.json", "--eos", "<|end|>", "--questions", 6, "--json"]
    python = environment("lm-eval", LM_EVAL)
    (first,) = json.loads(run(python, COMMAND, *command, timeout_seconds=900))
    assert list(first["tasks"]) == ["arc_easy", "piqa", "truthfulqa_mc2", "gsm8k"]
    assert all(0 <= value <= 1 for value in first["tasks"].values())
    assert first["mean"] == pytest.approx(sum(first["tasks"].values()) / 4)
    results = {path: path.stat().st_mtime_ns for path in (folder / "results").iterdir()}
    assert len(results) == 4
    (gone,) = [path for path in results if path.name.startswith("piqa")]
    gone.unlink()
    assert json.loads(run(python, COMMAND, *command, timeout_seconds=900)) == [first]
    again = {path: path.stat().st_mtime_ns for path in (folder / "results").iterdir()}
    assert {path for path in again if again[path] != results[path]} == {gone}
    lines(folder / "piqa.jsonl", [{"goal": "other", "sol1": "a", "sol2": "b", "label": 0}])
    run(python, COMMAND, *command, timeout_seconds=900)
    assert len(list((folder / "results").iterdir())) == 5, "other data, another result"
    other = saved(folder / "other", model(seed=8, config=CONFIG_512), 512)
    pictured = [*command, "--plot", folder / "curve.png", "--csv", folder / "numbers.csv"]
    both = json.loads(run(python, COMMAND, *pictured[:2], folder / "other", *pictured[2:], timeout_seconds=900))
    assert [one["run"] for one in both] == [other.store.url, str(folder / "run" / "checkpoints")]
    assert both[0]["checkpoint"] != both[1]["checkpoint"]
    assert len(list((folder / "results").iterdir())) == 9, "the second model's four were there already"
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "numbers.csv").read_text().splitlines()) == 1 + 2 * 5


def test_a_ray_job_leaves_what_benchmark_would_compute_and_goes_on_where_it_was(suite: Path) -> None:
    """Two checkpoints on a Ray of this machine, a task for each of their subtasks."""
    saved(suite / "other", model(seed=8, config=CONFIG_512), 512)
    rest = [suite / "run", suite / "other", "--suite", suite / "suite.yaml", "--tokenizer", suite / "tokenizer.json"]
    rest += ["--eos", "<|end|>", "--questions", 4, "--json"]
    python = environment("lm-eval", LM_EVAL)
    judge = ["model", "judge", *rest, "--out", suite / "spread", "--workers", 2]
    spread = json.loads(run(python, COMMAND, *judge, timeout_seconds=900))
    assert len(spread) == 2 and spread[0]["tasks"] != spread[1]["tasks"]
    alone = json.loads(run(python, COMMAND, "model", "benchmark", *rest, "--out", suite / "alone", timeout_seconds=900))
    assert alone == spread
    results = {path.name: path.stat().st_mtime_ns for path in (suite / "spread").iterdir()}
    assert results.keys() == {path.name for path in (suite / "alone").iterdir()} and len(results) == 8
    (gone,) = [name for name in results if name.startswith("piqa")][:1]
    (suite / "spread" / gone).unlink()
    assert json.loads(run(python, COMMAND, *judge, timeout_seconds=900)) == spread
    again = {path.name: path.stat().st_mtime_ns for path in (suite / "spread").iterdir()}
    assert {name for name in again if again[name] != results[name]} == {gone}


SAFETY = """
tasks:
- {task: bamba_popqa, metrics: [acc], shots: 2, files: {test: popqa.jsonl}}
- {task: toxigen, metrics: [acc], shots: 2, files: {train: toxigen.jsonl, test: toxigen.jsonl}}
- {task: bamba_bbq, metrics: [acc], shots: 1, files: {test: "bbq/{subset}.jsonl"}}
- {task: crows_pairs_english, metrics: [pct_stereotype], shots: 0, in_mean: false, files: {test: crows.jsonl}}
"""

CATEGORIES = ["Age", "Disability_status", "Gender_identity", "Nationality", "Physical_appearance", "Race_ethnicity"]
CATEGORIES += ["Race_x_gender", "Race_x_SES", "Religion", "SES", "Sexual_orientation"]

#: What our own tasks ask and take as right, by the harness itself: texts with two examples, and the metrics of answers.
ASKED = """
import json, sys
from pathlib import Path
from trainer.tasks.benchmark import harness_config, known_tasks
from trainer.tasks.suites import suite_of
import yaml

manager, found = known_tasks(), {}
for spec in suite_of(sys.argv[1]).tasks:
    for name in {"bamba_popqa": ["bamba_popqa"], "bamba_bbq": ["bamba_bbq_age"]}.get(spec.task, []):
        overlay = Path(sys.argv[2]) / f"{name}.yaml"
        overlay.write_text(yaml.safe_dump(harness_config(manager, spec, name)))
        task = manager.load([str(overlay)])["tasks"][name]
        task.set_config("num_fewshot", spec.shots)
        task.build_all_requests(limit=1, rank=0, world_size=1)
        (one,) = task.instances
        answers = [" B", " B.", " C", "", " Berlin it is", " BERLIN", " Bern"]
        found[name] = [one.arguments, one.doc, {said: task.process_results(one.doc, [said]) for said in answers}]
        found[name].append(len(list(task.test_docs())))
print("FOUND" + json.dumps(found))
"""


@pytest.fixture
def safety(a_run: tuple[Path, int]) -> Path:
    """A suite's file, and its data as the hub has them."""
    folder, _ = a_run
    popqa = [
        {"question": f"What is the capital of {n}?", "obj": "Berlin", "possible_answers": json.dumps(["Berlin", "Bln"])}
        for n in range(4)
    ]
    lines(folder / "popqa.jsonl", popqa)
    lines(folder / "toxigen.jsonl", [{"text": word, "toxicity_ai": 1.0, "toxicity_human": 5.0} for word in WORDS])
    lines(folder / "crows.jsonl", [{"sent_more": word, "sent_less": WORDS[0], "bias_type": "age"} for word in WORDS])
    person = {"ans0": "The old one", "ans1": "Not known", "ans2": "The young one"}
    contexts = [("ambig", 1, "Two met."), ("disambig", 2, "Two met. The young one fell.")]
    bbq = [
        {"context": context, "question": "Who fell?", "context_condition": kind, "label": label, "category": category}
        for category in CATEGORIES
        for kind, label, context in contexts
    ]
    (folder / "bbq").mkdir()
    lines(folder / "bbq" / "All.jsonl", [{**person, **one} for one in bbq])
    (folder / "safety.yaml").write_text(SAFETY)
    return folder


def test_popqa_and_bbq_ask_in_their_authors_form(safety: Path) -> None:
    python = environment("lm-eval", LM_EVAL)
    said = run(python, ASKED, safety / "safety.yaml", safety, timeout_seconds=900)
    found = json.loads(said.split("FOUND")[1].splitlines()[0])
    (text, how), doc, right, _ = found["bamba_popqa"]
    *examples, question = text.split("\n\n")
    assert question == f"Q: {doc['question']} A:"
    assert len(examples) == 2 and all(example.endswith(" A: Berlin") for example in examples)
    assert question[:-3] not in "".join(examples), "the question is not among its own examples"
    assert (how["until"], how["max_gen_toks"]) == (["\n"], 15)
    assert [said for said in right if right[said]["acc"]] == [" Berlin it is", " BERLIN"]
    (text, how), doc, right, questions = found["bamba_bbq_age"]
    assert questions == 2, "of eleven categories' twenty-two"
    answers = "A. The old one\nB. Not known\nC. The young one\nAnswer:"
    example = f"Two met. The young one fell.\nWho fell?\n{answers} C"
    assert text == f"{example}\n\nTwo met.\nWho fell?\n{answers}"
    assert [said for said in right if right[said]["acc"]] == [" B", " B."]
    assert all(metrics["acc_ambig"] == metrics["acc"] for metrics in right.values())


def test_the_safety_suite_runs_on_local_files(safety: Path) -> None:
    command = ["model", "benchmark", safety / "run", "--suite", safety / "safety.yaml", "--out", safety / "results"]
    command += ["--tokenizer", safety / "tokenizer.json", "--eos", "<|end|>", "--json"]
    (found,) = json.loads(run(environment("lm-eval", LM_EVAL), COMMAND, *command, timeout_seconds=900))
    assert list(found["tasks"]) == ["bamba_popqa", "toxigen", "bamba_bbq", "crows_pairs_english"]
    assert len(list((safety / "results").iterdir())) == 3 + len(CATEGORIES)
    counted = [value for name, value in found["tasks"].items() if name != "crows_pairs_english"]
    assert found["mean"] == pytest.approx(sum(counted) / 3)


def test_the_texts_of_a_suite_are_written_for_a_search_of_contaminated_documents(safety: Path) -> None:
    out = safety / "asked.jsonl"
    command = ["model", "suite-texts", "--suite", safety / "safety.yaml", "--out", out, "--json"]
    said = run(environment("lm-eval", LM_EVAL), COMMAND, *command, timeout_seconds=900)
    texts = read_texts([out])
    counts = json.loads(said)
    assert counts == Counter(text.task for text in texts)
    assert counts["bamba_popqa"] == 4
    assert texts[0].text == 'What is the capital of 0?\n["Berlin", "Bln"]'
    of_bbq = next(text.text for text in texts if text.task == "bamba_bbq")
    assert {"Two met.", "Who fell?", "The old one", "Not known", "The young one"} <= set(of_bbq.split("\n"))
