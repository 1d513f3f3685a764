"""Conversations as a source: rendered as transformers renders them, what an assistant says learned and nothing else."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers

from bamba_data.errors import UserError
from loader import ConversationSource, build_loader
from loader.chat.blocks import ConversationBlocks, check_alone, open_conversations
from loader.chat.files import BadConversation
from loader.chat.template import ChatTemplate
from loader.packing.document_transforms import IDS, NO_TARGET
from tests.chats import CHATML, MARKED, conversation, folder, turn, write
from tests.corpora import TOKENIZER

HF = tokenizers.Tokenizer.from_file(str(TOKENIZER))


def opened(
    tmp_path: Path, conversations: Sequence[Any], template: str | None = CHATML, **rules: Any
) -> ConversationBlocks:
    """A source of these conversations, in a cache of its own."""
    file = write(tmp_path / "chat.jsonl", conversations)
    tokenizer = folder(tmp_path / "tokenizer", template)
    source = ConversationSource("chat", str(file), str(tokenizer), **rules)
    return open_conversations(source, tmp_path / "cache")


def text(ids: Any) -> str:
    return str(HF.decode([int(one) & int(IDS) for one in ids], skip_special_tokens=False))


def learned(blocks: ConversationBlocks) -> list[str]:
    """Runs of tokens that are learned, as text."""
    is_learned = blocks.ids < NO_TARGET
    edges = np.flatnonzero(np.diff(is_learned.astype(int), prepend=0, append=0))
    return [text(blocks.ids[begin:end]) for begin, end in edges.reshape(-1, 2)]


# ---- what is learned


@pytest.mark.parametrize(("template", "end"), [(CHATML, "<|endoftext|>\n"), (MARKED, "<|endoftext|>")])
def test_what_the_assistant_says_is_learned_with_the_end_of_its_turn(tmp_path: Path, template: str, end: str) -> None:
    talk = [turn("user", "Hi"), turn("assistant", " Hello,\n\nyou "), turn("user", "Ünï 🎈"), turn("assistant", "Bye")]
    blocks = opened(tmp_path, [talk], template)
    assert learned(blocks) == [f" Hello,\n\nyou {end}", f"Bye{end}"]
    assert text(blocks.ids) == "".join(f"<|im_start|>{m['role']}\n{m['content']}<|endoftext|>\n" for m in talk)


@pytest.mark.slow
def test_ids_and_masks_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    talks = [conversation(number, turns=1 + number % 3) for number in range(12)]
    blocks = opened(tmp_path, talks, MARKED)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for ids, talk in zip(np.split(blocks.ids, np.cumsum(blocks.lengths)[:-1]), talks, strict=True):
        said = theirs.apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)
        assert (ids & IDS).tolist() == said["input_ids"]
        assert (ids < NO_TARGET).astype(int).tolist() == said["assistant_masks"]


def test_a_template_sees_the_special_tokens_and_the_tools_of_a_row(tmp_path: Path) -> None:
    template = "{{ eos_token }}{% for t in tools or [] %}[{{ t | tojson }}]{% endfor %}" + CHATML
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps({"messages": conversation(1, 1), "tools": [{"name": "clock <é>"}]}))
    source = ConversationSource("chat", str(file), str(folder(tmp_path / "tokenizer", template)))
    said = text(open_conversations(source, tmp_path / "cache").ids)
    assert said.startswith('<|endoftext|>[{"name": "clock <é>"}]<|im_start|>user')


def test_the_loss_of_a_row_is_on_the_assistants_tokens_alone(tmp_path: Path) -> None:
    blocks = opened(tmp_path, [conversation(number) for number in range(30)])
    options = {"row_tokens": 256, "packing": "best-fit", "holdout": 0.0, "num_workers": 0, "max_epochs": 1}
    loader = build_loader(blocks.source, cache=tmp_path / "cache", at_end="all", **options)
    targets = 0
    for batch in loader:
        ids, labels, documents = (batch[name].numpy() for name in ("input_ids", "labels", "seq_idx"))
        assert ids.max() < HF.get_vocab_size()
        here = labels >= 0
        targets += int(here.sum())
        shifted = np.roll(ids, -1, axis=1)
        assert (labels[here][:-1] == shifted[here][:-1]).all()
        assert all(len(set(documents[row].tolist())) > 1 for row in range(len(ids)))
    assert targets == int((blocks.ids < NO_TARGET).sum())
    assert loader.plan.header.before == loader.plan.header.after == []


def test_conversations_can_be_held_out_and_keep_their_masks(tmp_path: Path) -> None:
    blocks = opened(tmp_path, [conversation(number, 1) for number in range(1500)])
    loader = build_loader(
        blocks.source,
        cache=tmp_path / "cache",
        row_tokens=512,
        packing="best-fit",
        holdout=0.005,
        num_workers=0,
        split="holdout",
    )
    labels = np.concatenate([batch["labels"].numpy().ravel() for batch in loader])
    said = text(labels[labels >= 0])
    assert said.count("It is") == len(blocks.candidates.tokens) > 0
    assert "What is" not in said


# ---- files


def test_parquet_and_lines_are_the_same_source(tmp_path: Path) -> None:
    talks = [conversation(number) for number in range(7)]
    lines = opened(tmp_path, talks)
    pq.write_table(pa.table({"messages": talks, "id": list(range(7))}), tmp_path / "chat.parquet")
    rows = ConversationSource("chat", [str(tmp_path / "*.parquet")], str(tmp_path / "tokenizer"))
    assert open_conversations(rows, tmp_path / "cache").identity == lines.identity


def test_the_other_form_is_mapped_by_name_and_else_refused_with_the_name(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    file = write(tmp_path / "chat.jsonl", [talk], "conversations")
    tokenizer = str(folder(tmp_path / "tokenizer"))
    mapped = ConversationSource("chat", str(file), tokenizer, column="conversations", form="from-value")
    assert learned(open_conversations(mapped, tmp_path / "cache")) == ["Hello<|endoftext|>\n"]
    for rules, says in (
        ({}, "has no 'messages', it has conversations: say `column`"),
        ({"column": "conversations"}, "its messages are written as from, value: say `form: from-value`"),
    ):
        with pytest.raises(UserError, match=says):
            open_conversations(ConversationSource("chat", str(file), tokenizer, **rules), tmp_path / "cache")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.jsonl", None, "cannot be read"),
        ("*.jsonl", None, "no file is there"),
        ("chat.json", b"[]", "are read from .jsonl and .parquet files"),
        ("chat.parquet", b"PAR1 and no more", "no parquet file"),
        ("chat.jsonl", b"", "none can be learned: 0 conversations"),
    ],
)
def test_a_file_that_holds_no_conversations_is_named(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    source = ConversationSource("chat", str(tmp_path / name), str(folder(tmp_path / "tokenizer")))
    with pytest.raises(UserError, match=says):
        open_conversations(source, tmp_path / "cache")


GOOD = [turn("user", "Hi"), turn("assistant", "Hello")]
BAD: list[tuple[Any, str]] = [
    ([], "is empty: it has no message"),
    ([turn("user", "Hi")], "has nothing that an assistant says"),
    ([turn("robot", "Hi"), *GOOD], "message 0 has the unknown role 'robot'; known are system"),
    ([*GOOD, turn("user", "  ")], "message 2 is empty"),
    ([turn("user", [{"type": "image"}]), GOOD[1]], "message 0 has no text in 'content'"),
    ([{**GOOD[0], "weight": 0}, GOOD[1]], "message 0 has 'weight', which is not known here"),
    ([turn("user", "a <|endoftext|> b"), GOOD[1]], "message 0 has the text of the special token <|endoftext|>"),
    (["Hi", "Hello"], "message 0 is no object"),
]


@pytest.mark.parametrize(("bad", "says"), BAD, ids=[says[:30] for _, says in BAD])
def test_what_is_no_conversation_is_refused_with_its_place_or_counted(tmp_path: Path, bad: Any, says: str) -> None:
    with pytest.raises(UserError) as refused:
        opened(tmp_path, [GOOD, bad])
    assert "chat.jsonl: line 2: " in str(refused.value) and says in str(refused.value)
    blocks = opened(tmp_path, [GOOD, bad, GOOD], bad="leave_out")
    assert len(blocks.lengths) == 2
    assert blocks.account.startswith("2 conversations; 1 left out: ")


def test_a_line_that_is_no_json_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": GOOD}) + "\n\n{oops\n")
    source = ConversationSource("chat", str(tmp_path / "chat.jsonl"), str(folder(tmp_path / "tokenizer")))
    with pytest.raises(UserError, match=r"chat\.jsonl: line 2: is no JSON"):
        open_conversations(source, tmp_path / "cache")


# ---- longer than a row


def test_a_conversation_longer_than_a_row_is_left_out_cut_or_refused_as_it_was_asked(tmp_path: Path) -> None:
    talks = [conversation(1, 1), conversation(2, 20)]
    short, long = opened(tmp_path, talks).lengths.tolist()
    limit = long - 30
    out = opened(tmp_path, talks, max_tokens=limit)
    assert out.lengths.tolist() == [short] and "1 longer than a row left out" in out.account
    cut = opened(tmp_path, talks, max_tokens=limit, too_long="cut")
    assert cut.lengths.tolist() == [short, limit] and "1 longer than a row cut" in cut.account
    with pytest.raises(UserError, match=rf"line 2: {long} tokens, longer than a row of {limit}: make rows longer"):
        opened(tmp_path, talks, max_tokens=limit, too_long="refuse")
    asks = [turn("user", "why? " * 300), turn("assistant", "So.")]
    assert "1 longer than a row left out" in opened(tmp_path, [talks[0], asks], max_tokens=100, too_long="cut").account


# ---- templates


def test_a_tokenizer_without_a_template_says_where_one_may_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the tokenizer has no chat template .*: say `template`"):
        opened(tmp_path, [GOOD], template=None)


def test_a_template_in_the_tokenizers_config_or_in_a_file_counts(tmp_path: Path) -> None:
    file = write(tmp_path / "chat.jsonl", [GOOD])
    named = [{"name": "rag", "template": "x"}, {"name": "default", "template": CHATML}]
    (tmp_path / "own.jinja").write_text(MARKED)
    for stated in (CHATML, named):
        tokenizer = str(folder(tmp_path / "tokenizer", None, chat_template=stated))
        source = ConversationSource("chat", str(file), tokenizer)
        assert learned(open_conversations(source, tmp_path / "cache")) == ["Hello<|endoftext|>\n"]
    own = ConversationSource("chat", str(file), tokenizer, template=str(tmp_path / "own.jinja"))
    assert learned(open_conversations(own, tmp_path / "cache")) == ["Hello<|endoftext|>"]


def test_a_template_that_leaves_a_role_out_is_no_silent_loss(tmp_path: Path) -> None:
    silent = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    with pytest.raises(UserError, match=r"leaves out or changes message 0 \(system\)"):
        opened(tmp_path, [[turn("system", "Be exact."), *GOOD]], silent)


def test_a_template_that_refuses_says_why_and_one_that_asks_for_the_date_cannot_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the template refuses it: roles must alternate"):
        opened(tmp_path, [GOOD], "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(UserError, match="'strftime_now' is undefined"):
        opened(tmp_path, [GOOD], "{{ strftime_now('%d') }}" + CHATML)
    with pytest.raises(UserError, match=r"chat_template\.jinja: no chat template"):
        opened(tmp_path, [GOOD], "{% for %}")


def test_a_template_whose_past_changes_needs_marks_and_is_right_with_them() -> None:
    """As templates do that take the thoughts out of all answers but the last."""
    forgetful = "{% for m in messages %}{{ '~' if not loop.last else '' }}{{ m.role }}:{{ m.content }};{% endfor %}"
    talk = [*GOOD, turn("user", "More"), turn("assistant", "No")]
    with pytest.raises(UserError, match=r"put \{% generation %\}"):
        ChatTemplate(forgetful, "t").render(talk)
    said = "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}"
    marked = forgetful.replace("{{ m.content }}", said + "{% endif %}")
    text_of_all, spans = ChatTemplate(marked, "t").render(talk)
    assert [text_of_all[begin:end] for begin, end in spans] == ["Hello", "No"]


def test_a_template_cannot_reach_into_python() -> None:
    with pytest.raises(Exception, match=r"refuses it: .*unsafe"):
        ChatTemplate("{{ messages.__class__.__mro__ }}", "t").render(GOOD)


@pytest.mark.parametrize(
    "says",
    [
        "{{ 1 / 0 }}",
        "{{ 2.0 ** 100000 }}",
        "{{ range(1000000) | list }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'a'.encode('none') }}",
        r"{{ '\ud800' }}{{ messages[0].content }}",
    ],
)
def test_whatever_fails_in_a_template_is_its_refusal(says: str) -> None:
    with pytest.raises(BadConversation, match="the template refuses it: "):
        ChatTemplate(says, "a file").prompt([turn("user", "Hi")])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{% for a in [1] %}" * 30 + "{% endfor %}" * 30, "no chat template .too many statically nested"),
        ("{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}", "no chat template .maximum recursion depth"),
        ("\ud800", "half of a surrogate pair"),
        ("x" * (1 << 20) + "yz", "1,048,578 characters, the limit is 1,048,576"),
    ],
)
def test_a_text_that_can_be_no_template_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(UserError, match=f"a file: .*{says}"):
        ChatTemplate(text, "a file").prompt([turn("user", "Hi")])


# ---- as a source of an order


def test_ids_are_made_once_and_other_files_are_another_source(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = opened(tmp_path, [conversation(number) for number in range(20)])
    again = open_conversations(first.source, tmp_path / "cache")
    assert len(caplog.records) == 1, "the second time it comes from the cache"
    assert again.identity == first.identity and (again.ids == first.ids).all()
    assert again.account == first.account
    other = opened(tmp_path, [conversation(number) for number in range(19)])
    assert other.identity != first.identity
    for kept in (tmp_path / "cache" / "conversations").glob("*.arrays"):
        kept.chmod(0o600)
        kept.write_bytes(kept.read_bytes()[:-1])
    assert opened(tmp_path, [conversation(number) for number in range(20)]).identity == first.identity


def test_blocks_travel_to_another_process_and_hold_every_conversation_once(tmp_path: Path) -> None:
    blocks = opened(tmp_path, [conversation(number, 6) for number in range(1200)])
    there = pickle.loads(pickle.dumps(blocks))
    assert len(blocks.tokens) > 1
    parts = [there.read(block) for block in range(len(there.tokens))]
    assert (np.concatenate([part.ids for part in parts]) == blocks.ids).all()
    assert (np.concatenate([part.counts for part in parts]) == blocks.lengths).all()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"delimiters": "eos"}, "conversations begin and end as their template says"),
        ({"document_transform": "half-fim"}, "conversations cannot be transformed"),
    ],
)
def test_an_order_adds_nothing_to_conversations(tmp_path: Path, asked: dict[str, Any], says: str) -> None:
    source = opened(tmp_path, [GOOD]).source
    with pytest.raises(UserError, match=says):
        build_loader(source, cache=tmp_path / "cache", row_tokens=64, **asked)


def test_conversations_beside_other_data_are_refused() -> None:
    check_alone([])
    with pytest.raises(UserError, match=r"conversations beside other data \(web\)"):
        check_alone(["web"])


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ({"form": "xml"}, "form is 'xml'"),
        ({"too_long": "shrink"}, "too_long is 'shrink'"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"files": []}, "files are"),
    ],
)
def test_an_argument_that_cannot_be_is_named(argument: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {"name": "chat", "files": "x.jsonl", "tokenizer": "t", **argument}
    with pytest.raises(UserError, match=says):
        ConversationSource(**given)
