"""Which of llama.cpp's pre-tokenizers cuts a text as the one in a tokenizer.json does.

A GGUF file does not hold the pattern that cuts a text into words before byte pairs are merged: it names one that is
compiled into llama.cpp, which takes another one, with a warning in its log, where it does not know the name. Their
converter looks the name up by a hash of what one text becomes, so it knows published vocabularies only. Here it is
found by what tokenizer.json says that it does: a vocabulary of one's own has a name, too, if it cuts in a known way.

Only names whose code cuts as the pattern does are in the table (tests/trainer/test_llama_cpp.py compares the ids).
`gpt-4o`, for one, is missing: llama.cpp approximates its classes of upper and lower case beyond ASCII.
"""

from typing import Any

from bamba_data.errors import UserError

#: The pattern of GPT-2, which the library has built in as `ByteLevel` with `use_regex`.
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
#: Of GPT-4 and Llama 3: at most three digits together.
CL100K = _CONTRACTIONS + r"\p{N}{1,3}" + _REST
#: Of Qwen 2: each digit alone.
QWEN_2 = _CONTRACTIONS + r"\p{N}" + _REST

#: (each digit is cut off first, the pattern, a word that is in the vocabulary whole is not merged) -> the name.
#: Of several names with one pattern the one is taken that leaves blanks before punctuation alone when it decodes, as
#: our exports to transformers do; for CL100K there is none.
NAMES: dict[tuple[bool, str, bool], str] = {
    (False, GPT_2, False): "trillion",
    (True, GPT_2, False): "smollm",
    (False, CL100K, True): "llama-bpe",
    (False, CL100K, False): "dbrx",
    (False, QWEN_2, False): "qwen2",
}


def name_of(tokenizer: dict[str, Any], where: str) -> str:
    """`tokenizer.ggml.pre` of a tokenizer.json.

    Raises:
        UserError: llama.cpp has none that does this, or we know of none.
    """
    steps = _steps(tokenizer.get("pre_tokenizer"))
    digits = steps[:1] == [{"type": "Digits", "individual_digits": True}]
    pattern = _pattern(steps[1:] if digits else steps)
    name = NAMES.get((digits, pattern or "", bool(tokenizer["model"].get("ignore_merges"))))
    if name is None:
        kinds = " then ".join(step.get("type", "?") for step in steps) or "none"
        merges = ", with ignore_merges" if tokenizer["model"].get("ignore_merges") else ""
        raise UserError(
            f"{where}: llama.cpp has no pre-tokenizer that cuts as this one does ({kinds}{merges}), and a GGUF file "
            "can only name one of theirs: serve this model by transformers (--layout bamba) or vLLM (--layout granite)"
        )
    return name


def _steps(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer.get("type") == "Sequence":
        return [step for inner in pre_tokenizer.get("pretokenizers", []) for step in _steps(inner)]
    return [pre_tokenizer]


def _pattern(steps: list[dict[str, Any]]) -> str | None:
    """The pattern that cuts, where bytes become letters right after it; None for all that does something else."""
    match steps:
        case [{"type": "ByteLevel", "add_prefix_space": False, **rest}] if rest.get("use_regex", True):
            return GPT_2
        case [
            {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": how, "invert": bool(inverted)},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ] if (how, inverted) in (("Isolated", False), ("Removed", True)):
            # what is removed is what does not match, and each of these patterns matches everything
            return pattern
    return None
