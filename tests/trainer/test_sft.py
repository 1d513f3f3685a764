"""Fine-tuning on conversations: rows hold several, each learns as if it were alone, and nothing else is learned."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from bamba_data import exit_codes
from bamba_data.errors import UserError
from loader.chat.blocks import ConversationBlocks
from loader.packing.document_transforms import IDS, NO_TARGET
from tests.chats import CHATML, conversation, folder, turn, write
from tests.forking import typed
from tests.trainer.small import CONFIG, model, saved
from trainer.__main__ import app
from trainer.chat import Chat
from trainer.config import Data, load_recipe
from trainer.data.batch import Batch
from trainer.data.feed import LoaderFeed
from trainer.decode.sampling import Sampling
from trainer.distributed.fsdp import World
from trainer.model.bamba import Bamba

CPU = World(0, 1, torch.device("cpu"), None)  # type: ignore[arg-type]
WIDE = CONFIG.model_copy(update={"vocab_size": 50280, "layers": 2})


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Conversations and their tokenizer, as a recipe names them."""
    at = tmp_path_factory.mktemp("chat")
    file = write(at / "chat.jsonl", [conversation(number, 1 + number % 4) for number in range(10)])
    return {"files": [str(file)], "tokenizer": str(folder(at / "tokenizer"))}


def feed(chat: dict[str, Any], **more: Any) -> LoaderFeed:
    given = {"row_tokens": 256, "batch_rows": 2, "packing": "best-fit", "holdout": 0.0, "workers": 0, **more}
    return LoaderFeed(Data(conversations=chat, **given), CPU)


def epoch(one: LoaderFeed) -> list[Batch]:
    """The rows of one epoch, as batches of one row."""
    rows = one.loader.order.source("conversations").stream.first_row(1)
    return [Batch.of(one.loader.rows[row : row + 1]) for row in range(rows)]


def mean_loss(ours: Bamba, rows: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> tuple[float, dict[str, Tensor]]:
    """Of all targets together, and the gradients."""
    ours.zero_grad()
    targets = sum(int((labels >= 0).sum()) for *_, labels in rows)
    loss = 0.0
    for ids, documents, positions, labels in rows:
        total, _ = ours.losses(ids, documents, positions, labels, torch.tensor(1.0 / targets))
        torch.autograd.backward(total)
        loss += float(total.detach())
    return loss, {name: value.grad.clone() for name, value in ours.named_parameters() if value.grad is not None}


def test_packed_conversations_have_the_loss_and_the_gradients_of_each_alone(chat: dict[str, Any]) -> None:
    one = feed(chat)
    blocks = one.loader.order.source("conversations").blocks
    assert isinstance(blocks, ConversationBlocks)
    packed = [(batch.input_ids, batch.documents, batch.positions, batch.labels) for batch in epoch(one)]
    alone = []
    for begin, end in pairwise([0, *blocks.lengths.cumsum().tolist()]):
        marked = torch.from_numpy(blocks.ids[begin:end].astype("int64"))
        labels = torch.where(marked[1:] >= int(NO_TARGET), -100, marked[1:])[None]
        ids = (marked & int(IDS))[None, :-1]
        alone.append((ids, torch.zeros_like(ids).int(), torch.arange(ids.shape[1])[None], labels))
    assert len(packed) < len(alone)
    ours = model(config=WIDE)
    loss_packed, packed_gradients = mean_loss(ours, packed)
    loss_alone, alone_gradients = mean_loss(ours, alone)
    assert loss_packed == pytest.approx(loss_alone, abs=1e-5)
    for name, gradient in alone_gradients.items():
        assert torch.allclose(packed_gradients[name], gradient, rtol=1e-3, atol=1e-6), name


def test_what_is_no_target_has_no_gradient(chat: dict[str, Any]) -> None:
    batch = epoch(feed(chat))[0]
    ours = model(config=WIDE)
    kept: list[Tensor] = []

    def keep(_: Any, __: Any, hidden: Tensor) -> None:
        hidden.retain_grad()
        kept.append(hidden)

    ours.head.norm.register_forward_hook(keep)
    total, each = ours.losses(batch.input_ids, batch.documents, batch.positions, batch.labels)
    torch.autograd.backward(total)
    (hidden,) = kept
    assert hidden.grad is not None
    has_gradient = hidden.grad.abs().sum(-1) > 0
    assert (has_gradient == (batch.labels >= 0)).all() and has_gradient.any() and not has_gradient.all()
    assert (each[batch.labels < 0] == 0).all()


def test_a_feed_of_conversations_goes_on_where_it_was_and_not_with_others(chat: dict[str, Any], tmp_path: Path) -> None:
    first = feed(chat)
    served = iter(first)
    next(served)
    state = first.state_dict()
    second = feed(chat)
    second.load_state_dict(state)
    assert next(iter(second))["row"].tolist() == next(served)["row"].tolist()
    other = write(tmp_path / "other.jsonl", [conversation(number) for number in range(9)])
    with pytest.raises(UserError, match="source 'conversations' is other data"):
        feed({**chat, "files": [str(other)]}).load_state_dict(state)


def test_the_note_says_how_many_steps_an_epoch_has(chat: dict[str, Any]) -> None:
    note = feed(chat).epoch_note()
    assert note is not None and note.startswith("10 conversations; ") and "one epoch is" in note


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["data.conversations.files=[a.jsonl]"], "conversations.tokenizer: needed"),
        (["data.conversations={files: [a.jsonl], tokenizer: t}", "data.urls=[b]"], "give one of them"),
        (["data.conversations.mask=all"], "mask"),
    ],
)
def test_conversations_that_cannot_be_are_refused_with_the_recipe(changes: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_recipe("sft", changes)


def test_a_recipe_with_neither_datasets_nor_conversations_says_how_to_give_them() -> None:
    with pytest.raises(UserError, match=r"no dataset: give one with --data.*data\.conversations\.files"):
        LoaderFeed(load_recipe("sft").data, CPU)


def test_to_start_from_a_run_takes_its_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "base", model())
    run = str(tmp_path / "base")
    assert exit_codes.run(app, ["--recipe", "sft", "--start-from", run, "--print"]) == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert resolved["model"] == CONFIG.model_dump(mode="json") and resolved["start_from"] == run
    for twice in ("model.layers=2", "start_from=elsewhere"):
        assert exit_codes.run(app, ["--recipe", "sft", "--start-from", run, "--set", twice, "--print"]) == 2
        assert "both say with which model it begins" in capsys.readouterr().err


@pytest.mark.costly
def test_a_stranger_tunes_an_imported_model_and_exports_it_with_its_template(
    chat: dict[str, Any], tmp_path: Path
) -> None:
    saved(tmp_path / "base", model(config=WIDE))
    tokenizer = f"{chat['tokenizer']}/tokenizer.json"
    assert typed("trainer.export_hf", tmp_path / "base", tmp_path / "hf", "--tokenizer", tokenizer).returncode == 0
    assert typed("trainer.import_hf", tmp_path / "hf", tmp_path / "imported").returncode == 0
    changes = [
        f"data.conversations={json.dumps(chat)}",
        *("data.row_tokens=256", "data.batch_rows=2", "compute={dtype: float32, compile: false}"),
        *("schedule={steps: 8, peak_lr: 1.0e-2, end_lr: 0.0}", "log.every_steps=1", "checkpoints.every_steps=8"),
    ]
    command = ["trainer", "--recipe", "sft", "--start-from", tmp_path / "imported", "--out", tmp_path / "tuned"]
    done = typed(*command, *(word for change in changes for word in ("--set", change)), ranks=2)
    assert done.returncode == 0, done.stderr
    assert "10 conversations; " in done.stderr + done.stdout
    lines = [json.loads(line) for line in (tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line.get("loss") is not None]
    assert losses[-1] < losses[0] - 1
    done = typed("trainer.export_hf", tmp_path / "tuned", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == CHATML
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["eos_token"] == "<|endoftext|>"
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == Path(tokenizer).read_bytes()
    talk = Chat.of(str(tmp_path / "tuned"), None, None, Sampling(), 9, 1)
    assert talk.template.text == CHATML and talk.limit_tokens == 256
    first, second = (talk.ask(said, lambda new: None) for said in ("What is 3 plus 0?", "What is 3 plus 1?"))
    assert first.read_tokens == first.context_tokens and second.read_tokens < second.context_tokens


def test_a_bad_conversation_ends_the_run_before_it_begins(chat: dict[str, Any], tmp_path: Path) -> None:
    file = write(tmp_path / "bad.jsonl", [conversation(1), [turn("user", "Hi")]])
    with pytest.raises(UserError, match=r"bad\.jsonl: line 2: has nothing that an assistant says"):
        feed({**chat, "files": [str(file)]})
