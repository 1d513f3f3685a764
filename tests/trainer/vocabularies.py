"""Small byte-level vocabularies that are trained on the spot, and texts on which tokenizers differ."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from trainer.checkpoint.tokenizer import RunTokenizer
from trainer.gguf import pretokenizers

#: Where tokenizers differ: contractions, runs of digits and of blanks, line ends, scripts, marks, what is no letter.
TEXTS = [
    "Call me Ishmael, he said ; don 't !  I'm SURE they'LL've",
    "1 22 333 4444 55555 3.14 1,000,000 x2y ½ Ⅷ ٣٤٥",
    "a\n\n b\r\n\tc \t\n   d    \n\n\n",
    "            return  x  # 24 blanks:                         end",
    "Ünïcödé ßtraße नमस्ते คำ 我想在apple工作 한국어 🚀 👩‍👩‍👧 \u200b\u00a0\u3000x",
    "!!!???... ===== ((a)) 'quoted' \"x\" don’t _under_ a-b a/b\\c {}[]",
    "",
    " ",
    "  leading",
]


def a_tokenizer(kind: str) -> RunTokenizer:
    """A vocabulary of 500 tokens of its own, which cuts a text as `kind` says: one line of the table of names."""
    digits, pattern, whole = {name: key for key, name in pretokenizers.NAMES.items()}[kind]
    made = Tokenizer(models.BPE(ignore_merges=whole))
    if pattern == pretokenizers.GPT_2:
        steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        steps = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    if digits:
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([*TEXTS, *TEXTS], trainer)
    made.add_tokens(["    ", "  "])
    return RunTokenizer(made.to_str().encode(), None, made.token_to_id("<|end|>"), "tokenizer.json")
