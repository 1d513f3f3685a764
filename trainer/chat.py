"""A conversation with a checkpoint: what is said goes through the chat template, and only what is new is read.

    chat = Chat.of("runs/sft", None, None, Sampling(temperature=0.8), new_tokens=512, seed=1)
    answer = chat.ask("What is a bamba?", show=print)

Each turn the whole conversation is written by the template and becomes tokens, as in training. What the layers remember
is kept where these tokens begin with those that were read and written before (decode/prefix_cache.py), and otherwise
read again: an answer is that of the whole conversation read at once, always.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bamba.loader.chat.files import BadConversation, Message
from bamba.loader.chat.template import ChatTemplate, template_of, tokenizer_file
from bamba_data.errors import UserError

from .checkpoint.reader import SavedCheckpoint
from .checkpoint.tokenizer import RunTokenizer, of_checkpoint
from .decode.prefix_cache import PrefixCache
from .decode.sampling import Choose, Sampling, choosing
from .decode.text import Text, Until
from .hf.export import max_position_of


class Unsaid(UserError):
    """A turn that cannot be answered; the conversation is as it was before it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`why` it ended: see decode/text.py. `context_tokens` are those of the conversation when it began, of which
    `read_tokens` had to be read for it."""

    text: str
    why: str
    tokens: int
    context_tokens: int
    read_tokens: int


@dataclass
class Chat:
    """The state of a conversation.

    Attributes:
        limit_tokens: The longest text that the model was trained on.
        messages: What was said, in the form of chat templates.
    """

    tokenizer: RunTokenizer
    template: ChatTemplate
    cache: PrefixCache
    until: Until
    sampling: Sampling
    seed: int
    messages: list[Message] = field(default_factory=list)
    _choose: Choose | None = None

    @classmethod
    def of(
        cls,
        checkpoint: str,
        tokenizer: Path | None,
        template: Path | None,
        sampling: Sampling,
        new_tokens: int,
        seed: int,
    ) -> "Chat":
        """On a GPU if there is one, there in bfloat16, on a CPU in float32. Raises UserError for no chat template."""
        saved = SavedCheckpoint(checkpoint)
        read = of_checkpoint(saved, tokenizer)
        chosen = template_for(read, tokenizer, template)
        until = until_for(read, chosen, new_tokens)
        model = saved.model_alone()
        return cls(read, chosen, PrefixCache(model, max_position_of(saved)), until, sampling, seed)

    @property
    def limit_tokens(self) -> int:
        return self.cache.limit_tokens

    def reset(self, system: str | None = None) -> None:
        """Begin anew; `system` is the first message, None keeps the one that there is, an empty one is none."""
        kept = [message for message in self.messages if message["role"] == "system"]
        if system is not None:
            kept = [{"role": "system", "content": system}] if system else []
        self.messages, self._choose = kept, None

    def ask(self, said: str, show: Callable[[str], None], is_wanted: Callable[[], bool] = lambda: True) -> Answer:
        """The answer to what a user says, which belongs to the conversation from now on.

        Args:
            show: Called with each piece of it as it comes.
            is_wanted: Asked before each token; an answer that is not wanted any more ends as it is.

        Raises:
            Unsaid: The template refuses it, the context has no room for an answer, or it was left before its first
                character.
        """
        messages = [*self.messages, {"role": "user", "content": said}]
        ids = self._ids(messages)
        room = self.limit_tokens - len(ids)
        if room < 1:
            raise Unsaid(
                f"the conversation would have {len(ids):,} tokens, and the model knows texts of "
                f"{self.limit_tokens:,}: /reset begins anew"
            )
        until = replace(self.until, new_tokens=min(self.until.new_tokens, room))
        text = Text(self.tokenizer.tokenizer, until, before=ids)
        self._choose = self._choose or choosing(self.sampling, [self.seed])
        logits = self.cache.read(ids, is_wanted)
        while logits is not None and not text.why:
            (token,) = self._choose(logits.float())
            show(text.add(token))
            if text.why or not is_wanted():
                break
            logits = self.cache.step(token)
        show(text.end("interrupted"))
        if text.why == "interrupted" and not text.text:
            raise Unsaid("left before it was answered: the turn is forgotten")
        assert text.why is not None
        self.messages = [*messages, {"role": "assistant", "content": text.text}]
        return Answer(text.text, text.why, len(text.ids), len(ids), self.cache.read_tokens)

    def _ids(self, messages: list[Message]) -> list[int]:
        try:
            prompt = self.template.prompt(messages)
        except BadConversation as error:
            raise Unsaid(f"{self.template.where}: {error}") from None
        ids: list[int] = self.tokenizer.tokenizer.encode(prompt, add_special_tokens=False).ids
        if not ids:
            raise Unsaid("that makes no token")
        return ids


def template_for(read: RunTokenizer, tokenizer: Path | None, template: Path | None) -> ChatTemplate:
    """The template in a file, else that of the tokenizer named, else that of training."""
    if tokenizer is not None and (template is not None or read.chat_template is None):
        return template_of(str(tokenizer_file(str(tokenizer))), None if template is None else str(template))
    if template is not None:
        try:
            text = template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{template}: cannot be read ({error})") from None
        return ChatTemplate(text, str(template), read.special_tokens or _delimiters(read))
    if read.chat_template is None:
        raise UserError(
            f"{read.where} has no chat template, and the run was not trained on conversations: give --template FILE "
            "(or --tokenizer FILE, with its template beside it), or see what it writes: bamba-data model generate"
        )
    return ChatTemplate(read.chat_template, read.where, read.special_tokens)


def _delimiters(read: RunTokenizer) -> tuple[tuple[str, str], ...]:
    named = (("bos_token", read.bos), ("eos_token", read.eos))
    tokenizer = read.tokenizer
    return tuple((name, str(tokenizer.id_to_token(token))) for name, token in named if token is not None)


def until_for(read: RunTokenizer, template: ChatTemplate, new_tokens: int) -> Until:
    """An answer ends at the token that ends texts, at the first special token that the template writes after an answer,
    and where it writes none there, before what it writes between an answer and the next turn of the user."""
    tokenizer = read.tokenizer
    ends = [read.eos, *(tokenizer.token_to_id(text) for name, text in template.special_tokens if name == "eos_token")]
    after = template.after_an_answer()
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    first = min((name for name in special if name in after), key=after.index, default=None)
    if first is not None:
        return Until.of(tokenizer, new_tokens, [*ends, tokenizer.token_to_id(first)])
    return Until.of(tokenizer, new_tokens, ends, [after.rstrip()] if after.strip() else [])
