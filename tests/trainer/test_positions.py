"""Loss by position: each target counts once, in the band of the tokens that it was predicted from."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch

from bamba.pipelines.cli import app
from bamba_data import exit_codes
from tests.trainer.small import CONFIG, model, packed, saved
from tests.trainer.synthetic import Synthetic
from tests.trainer.vocabularies import a_tokenizer
from trainer.evaluation import losses_by_source
from trainer.gguf import pretokenizers
from trainer.model.config import ModelConfig
from trainer.positions import Band, contexts, losses_by_position

CPU = torch.device("cpu")


def test_a_context_is_the_tokens_of_the_same_document_that_came_before() -> None:
    documents = torch.tensor([[0, 0, 0, 4, 4, 5], [2, 3, 3, 3, 3, 3]])
    assert contexts(documents).tolist() == [[1, 2, 3, 1, 2, 1], [1, 1, 2, 3, 4, 5]]


def test_bands_are_the_means_over_the_targets_that_see_so_many_tokens() -> None:
    ours = model()
    ids, documents, positions, labels = packed([5, 11, 8])
    batch = {"input_ids": ids, "seq_idx": documents, "position_ids": positions, "labels": labels}
    batch |= {"row": torch.tensor([0]), "source": torch.tensor([0])}
    _, losses = ours.losses(ids, documents, positions, labels)
    wanted: dict[int, list[float]] = {}
    for length, start in [(5, 0), (11, 5), (8, 16)]:
        for place in range(length - 1):  # a document's last token has no label
            first = 2 ** int(math.log2(place + 1))
            wanted.setdefault(first, []).append(losses[0, start + place].item())
    found = losses_by_position(ours, [batch], 24, CPU, micro_rows=2)
    assert [(band.first, band.last) for band in found] == [(1, 1), (2, 3), (4, 7), (8, 15)]
    assert [band.targets for band in found] == [len(values) for values in wanted.values()]
    for band, values in zip(found, wanted.values(), strict=True):
        assert band.loss == pytest.approx(sum(values) / len(values), rel=1e-6)


def test_the_bands_together_are_the_loss_by_source() -> None:
    ours, feed = model(), Synthetic(24, 5, 0, 1, 64)
    batch = next(iter(feed))
    bands = losses_by_position(ours, [batch], 64, CPU, micro_rows=2)
    sources = losses_by_source(ours, [batch], feed.sources, CPU, micro_rows=2).values()
    assert sum(band.targets for band in bands) == sum(count for _, count in sources)
    total = sum(loss * count for loss, count in sources)
    assert sum(band.loss * band.targets for band in bands) == pytest.approx(total, rel=1e-6)
    assert bands[-1].last <= 64


def test_the_command_takes_a_longer_row_than_training_and_writes_a_table_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = a_tokenizer(next(iter(pretokenizers.NAMES.values())))
    config = ModelConfig.model_validate({**CONFIG.model_dump(), "vocab_size": 512})
    saved(tmp_path / "run", model(config=config), row_tokens=64)
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.data)
    (tmp_path / "text").write_text("Call me Ishmael. " * 40)
    common = f"model evaluate {tmp_path}/run --tokenizer {tmp_path}/tokenizer.json --text {tmp_path}/text --by-position"
    assert exit_codes.run(app, [*common.split(), "--json"]) == 0
    short = [Band(**band) for band in json.loads(capsys.readouterr().out)["bands"]]
    assert short[-1].last == 64
    more = f"--row-tokens 200 --plot {tmp_path}/curve.png --csv {tmp_path}/curve.csv"
    assert exit_codes.run(app, [*common.split(), *more.split()]) == 0
    assert "128-200" in capsys.readouterr().out
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["targets"]) for row in rows) == sum(band.targets for band in short)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--text x --plot x.png", "--plot shows the loss by position: add --by-position"),
        ("--text x --csv x", "--csv shows the loss by position: add --by-position"),
        ("--text x --by-position --plot x.gif", "must end in .png"),
        ("--text x --rows 3", "--rows is of the held-out part"),
        ("--data x --row-tokens 9", "--row-tokens is of --text"),
    ],
)
def test_options_that_contradict_are_refused(options: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_codes.run(app, ["model", "evaluate", "run", *options.split()]) == 2
    assert said in capsys.readouterr().err
