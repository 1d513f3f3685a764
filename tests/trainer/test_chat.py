"""A conversation with a checkpoint: what is remembered between turns changes no token, and a terminal can use it."""

import json
import os
import pty
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bamba_data import exit_codes
from bamba_data.errors import UserError
from loader.chat.template import ChatTemplate
from tests.chats import CHATML, MARKED
from tests.running import COMMAND
from tests.trainer.small import CONFIG, model, saved
from trainer.chat import Chat, Unsaid, until_for
from trainer.checkpoint.tokenizer import RunTokenizer, of_file
from trainer.cli import app
from trainer.decode.prefix_cache import PrefixCache
from trainer.decode.sampling import Sampling, likeliest
from trainer.decode.writing import written
from trainer.model.bamba import Bamba

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' and not m.content %}{{ raise_exception('empty') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
SHAPES: list[dict[str, object]] = [{}, {"attention_layers": "all"}, {"attention_layers": []}]


def of_letters() -> Tokenizer:
    """A token a byte of ASCII: whatever is written is the same tokens when it is read again."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:94]
    letters += ["\u0120", "\u010a"]  # blank and newline
    made = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<end>", "<user>", "<assistant>", "<system>"])
    return made


LETTERS = of_letters()
WORDS = LETTERS.get_vocab_size()
MODEL = CONFIG.model_copy(update={"vocab_size": WORDS, "layers": 2})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    saved(folder / "run", model(config=MODEL), row_tokens=400)
    LETTERS.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    return folder


def chat(run: Path, sampling: Sampling | None = None, tokens: int = 12) -> Chat:
    return Chat.of(str(run / "run"), run / "tokenizer.json", None, sampling or Sampling(1.0), tokens, 1)


def quiet(piece: str) -> None:
    pass


# ---- the memory of a text


@pytest.mark.parametrize("change", SHAPES)
def test_what_a_text_goes_on_with_is_read_alone_and_changes_no_token(
    change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.decode.prefix_cache.PIECE_TOKENS", 50)
    monkeypatch.setattr("trainer.decode.prefix_cache.FIRST_TOKENS", 8)  # it grows several times
    ours = model(config=CONFIG.model_copy(update=change))
    cache = PrefixCache(ours, 400)
    ids = torch.randint(0, 331, (130,), generator=torch.Generator().manual_seed(2)).tolist()

    def answered(text: list[int], steps: int) -> list[int]:
        logits = cache.read(text)
        assert logits is not None
        found = likeliest(logits)
        while len(found) < steps:
            found += likeliest(cache.step(found[-1]))
        return found

    def anew(text: list[int], steps: int) -> list[int]:
        return [token for (token,) in written(ours, [text], steps, likeliest)]

    first = answered(ids[:60], 7)
    assert first == anew(ids[:60], 7) and cache.read_tokens == 60
    longer = ids[:60] + first + ids[60:100]
    assert answered(longer, 5) == anew(longer, 5)
    assert cache.read_tokens == 41, "the last token of the answer, and what was said since"
    other = [*longer, 5, *ids[100:]]  # not what was answered: the answer is forgotten, all before it is kept
    assert other[len(longer)] != anew(longer, 1)[0]
    assert answered(other, 5) == anew(other, 5) and cache.read_tokens == len(other) - len(longer)
    assert answered(ids, 5) == anew(ids, 5) and cache.read_tokens == len(ids), "another text: from its beginning"
    assert answered(ids, 5) == anew(ids, 5), "the same once more"


def test_a_text_that_is_not_wanted_any_more_is_left_between_pieces_and_gone_on_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.decode.prefix_cache.PIECE_TOKENS", 10)
    ours, ids = model(config=MODEL), list(range(35))
    cache, asked = PrefixCache(ours, 100), iter([True, True, False])
    assert cache.read(ids, lambda: next(asked)) is None
    assert cache.known == ids[:20]
    logits = cache.read(ids)
    assert logits is not None and cache.read_tokens == 15
    assert likeliest(logits) == next(written(ours, [ids], 1, likeliest))


# ---- a conversation


def recomputed(talk: Chat, ours: Bamba, said: str, tokens: int) -> str:
    """The likeliest answer, with nothing remembered."""
    prompt = talk.template.prompt([*talk.messages, {"role": "user", "content": said}])
    ids = LETTERS.encode(prompt, add_special_tokens=False).ids
    new: list[int] = []
    for (token,) in written(ours, [ids], tokens, likeliest):
        if token == LETTERS.token_to_id("<end>"):
            break
        new.append(token)
    return str(LETTERS.decode(new))


def test_each_turn_is_answered_as_if_all_of_the_conversation_were_read_anew(run: Path) -> None:
    talk, ours = chat(run, Sampling()), model(config=MODEL)
    talk.reset("be exact")
    before = 0
    for number, said in enumerate(["Who are you?", "And why?", "a " * 20, "Well."]):
        wanted = recomputed(talk, ours, said, 12)
        pieces: list[str] = []
        answer = talk.ask(said, pieces.append)
        assert "".join(pieces) == answer.text == wanted
        if number:
            assert answer.read_tokens == answer.context_tokens - before < len(said) + 30, "only what is new"
        before = answer.context_tokens + answer.tokens - (answer.why == "tokens")
    assert [message["role"] for message in talk.messages] == ["system", *["user", "assistant"] * 4]
    talk.reset()
    assert [message["content"] for message in talk.messages] == ["be exact"]
    talk.reset("")
    assert talk.messages == []


def test_a_seed_is_a_conversation_and_begins_anew_with_it(run: Path) -> None:
    def answers(talk: Chat) -> list[str]:
        return [talk.ask(said, quiet).text for said in ("one", "two")]

    talk = chat(run)
    first = answers(talk)
    talk.reset()
    assert answers(talk) == first == answers(chat(run)) and first[0] != first[1]


def test_a_context_that_is_full_is_said_and_a_turn_that_cannot_be_is_forgotten(run: Path) -> None:
    talk = chat(run, tokens=1000)
    with pytest.raises(
        Unsaid, match=r"the conversation would have \d+ tokens, and the model knows texts of 400: /reset"
    ):
        talk.ask("x" * 400, quiet)
    with pytest.raises(Unsaid, match="the template refuses it: empty"):
        talk.ask("", quiet)
    with pytest.raises(Unsaid, match="left before it was answered"):
        talk.ask("x", quiet, lambda: False)
    assert talk.messages == []
    answer = talk.ask("x" * 380, quiet)
    assert answer.why in ("tokens", "end") and answer.context_tokens + answer.tokens <= 400


def test_an_answer_that_is_left_stays_in_the_conversation_as_it_is(run: Path) -> None:
    talk, ours = chat(run, Sampling(), tokens=1000), model(config=MODEL)
    wanted = iter([True] * 5 + [False] * 9)
    answer = talk.ask("x", quiet, lambda: next(wanted))
    assert answer.why == "interrupted" and 0 < answer.tokens < 9
    assert talk.messages[-1] == {"role": "assistant", "content": answer.text}
    later = recomputed(talk, ours, "and?", 20)
    talk.until = until_for(talk.tokenizer, talk.template, 20)
    assert talk.ask("and?", quiet).text == later


@pytest.mark.parametrize(
    ("template", "ends", "stops"),
    [
        (TEMPLATE, {"<end>"}, ()),
        (CHATML.replace("<|endoftext|>", "</s>"), set(), ("</s>\n<|im_start|>user",)),
        (MARKED.replace("<|endoftext|>", "<end>"), {"<end>"}, ()),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", set(), ("\nuser:",)),
        ("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", {"<user>"}, ()),
        ("{% for m in messages %}{{ m.content }} {% endfor %}", set(), ()),
    ],
)
def test_an_answer_ends_where_the_template_ends_it(template: str, ends: set[str], stops: tuple[str, ...]) -> None:
    read = RunTokenizer(LETTERS.to_str().encode(), None, None, "here")
    until = until_for(read, ChatTemplate(template, "here"), 9)
    assert {LETTERS.id_to_token(token) for token in until.end_ids} == ends and until.stops == stops


def test_a_run_without_a_template_is_told_what_to_give(run: Path, tmp_path: Path) -> None:
    LETTERS.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="has no chat template"):
        Chat.of(str(run / "run"), tmp_path / "tokenizer.json", None, Sampling(), 9, 1)
    file = tmp_path / "own.jinja"
    file.write_text(TEMPLATE)
    assert Chat.of(str(run / "run"), tmp_path / "tokenizer.json", file, Sampling(), 9, 1).template.where == str(file)
    with pytest.raises(UserError, match="names no dataset to take the tokenizer from"):
        Chat.of(str(run / "run"), None, file, Sampling(), 9, 1)
    assert of_file(run / "tokenizer.json").chat_template is None


# ---- the command


def words(run: Path, *more: object) -> list[str]:
    return ["chat", str(run / "run"), "--tokenizer", str(run / "tokenizer.json"), *map(str, more)]


@pytest.mark.process
def test_without_a_terminal_a_line_is_a_turn(run: Path) -> None:
    said = "Who?\n\n/system be exact\nWho?\n/help\n/reset\nWho?\n//Who?\n"
    command = [*COMMAND, "model", *words(run, "--tokens", 12, "--json")]
    done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    first, exact, again, slash = (json.loads(line) for line in done.stdout.splitlines())
    assert exact["text"] == again["text"] and exact["context_tokens"] > first["context_tokens"]
    assert slash["context_tokens"] > again["context_tokens"] and slash["read_tokens"] < slash["context_tokens"]
    assert "/help is no word of ours: /reset, /system TEXT" in done.stderr


def test_answers_are_lines_of_their_own(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lines").write_text("Who?\n" + "x" * 400 + "\nWhy?\n")
    with (tmp_path / "lines").open() as lines:
        monkeypatch.setattr("sys.stdin", lines)
        assert exit_codes.run(app, words(run, "--tokens", 5)) == 0
    talk = chat(run, Sampling(0.8, 50), tokens=5)
    said = capsys.readouterr()
    assert said.out == "".join(talk.ask(line, quiet).text + "\n" for line in ("Who?", "Why?"))
    assert "note: the conversation would have" in said.err


class Terminal:
    """A command on a terminal of its own, as somebody would use it."""

    def __init__(self, command: list[str]) -> None:
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(theirs)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def until(self, wanted: Any, seconds: float = 120) -> str:
        """What came since the last call, once `wanted` holds for it."""
        end = time.monotonic() + seconds
        os.set_blocking(self.ours, False)
        while not wanted(self.seen):
            assert time.monotonic() < end, self.seen
            try:
                self.seen += os.read(self.ours, 1 << 16).decode(errors="replace").replace("\r\n", "\n")
            except OSError:  # nothing is there, or the other side is gone
                time.sleep(0.02)
        found, self.seen = self.seen, ""
        return found


@pytest.mark.process
@pytest.mark.slow
def test_on_a_terminal_ctrl_c_ends_an_answer_and_ctrl_d_the_conversation(run: Path) -> None:
    terminal = Terminal([*COMMAND, "model", *words(run, "--tokens", 1000, "--temperature", 1)])
    try:
        said = terminal.until(lambda seen: seen.endswith("> "))
        assert "400 tokens of context. /reset, /system TEXT" in said
        terminal.type("Who are you?\n")
        terminal.until(lambda seen: len(seen) > len("Who are you?\n") + 20)
        terminal.type("\x03")
        terminal.until(lambda seen: seen.endswith("\n> "))
        terminal.type("\x03")
        assert "Ctrl-D ends the conversation" in terminal.until(lambda seen: seen.endswith("> "))
        terminal.type("/reset\n")
        terminal.until(lambda seen: seen.endswith("> "))
        terminal.type("x" * 400 + "\n")
        assert "note: the conversation would have 403 tokens" in terminal.until(lambda seen: seen.endswith("\n> "))
        terminal.type("\x04")
        terminal.until(lambda seen: terminal.process.poll() is not None)
        assert terminal.process.returncode == 0
    finally:
        os.close(terminal.ours)  # which hangs up: all on the terminal ends
        terminal.process.wait(60)
