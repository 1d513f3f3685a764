"""dolmino-mix-1124, the mix of OLMo 2's second stage, parts of which Bamba's last phases used: JSON lines on the hub.

From its card and public copies of its listing at the commit below: `data/dclm/0000/dclm-0000.json.zst` (1,970 files in
folders), `data/flan/tulu_flan-0000.json.gz` (209), `data/pes2o/…` (26), `data/stackexchange/…` (16), `data/wiki/…` (2),
and `data/math/`, seven sets with endings and fields of their own, of which only `text` is the same everywhere. Each of
them is a source here, since their licences differ. `gsm8k` has the test split beside the training one (the card's
17.6 K documents are both splits in two forms): taken is the training split alone, as OLMo 2's report has it. Not
confirmed: which of the mathematical sets have ids (where a record has none it is made of file and line).
"""

from typing import Literal, NamedTuple

from pydantic import Field

from bamba_data.sources.base import Corpus, Source, TextRule, hub_location, refuse_unknown

REPO = "hf://datasets/allenai/dolmino-mix-1124"
COMMIT = "a319f19eef1e257417b11ea8c30da266ae175557"


class Part(NamedTuple):
    files: str  # below data/
    license: str  # as the card has it
    origin: str


PARTS: dict[str, Part] = {
    "dclm": Part("dclm/**/*.json.zst", "CC-BY-4.0", "DCLM-baseline 1.0, filtered (Common Crawl terms of use)"),
    "flan": Part("flan/*.json.gz", "ODC-BY-1.0", "Flan collection through Tulu, decontaminated"),
    "pes2o": Part("pes2o/*.json.gz", "ODC-BY-1.0", "peS2o, from S2ORC"),
    "wiki": Part("wiki/*.json.gz", "ODC-BY-1.0", "Wikipedia and Wikibooks (CC BY-SA)"),
    "stackexchange": Part(
        "stackexchange/*.json.gz", "CC-BY-SA-2.5, CC-BY-SA-3.0, CC-BY-SA-4.0", "Stack Exchange questions and answers"
    ),
    "tulu_math": Part("math/tulu_math/**/*.jsonl", "ODC-BY-1.0", "TuluMath"),
    "dolmino_math_synth": Part("math/dolmino_math_synth/**/*.jsonl", "ODC-BY-1.0", "DolminoSynthMath"),
    "tinyGSM-MIND": Part("math/tinyGSM-MIND/**/*.jsonl.gz", "ODC-BY-1.0", "TinyGSM-MIND"),
    "mathcoder2-synthmath": Part("math/mathcoder2-synthmath/**/*.jsonl", "Apache-2.0", "MathCoder2 synthetic books"),
    "metamath-owmfilter": Part("math/metamath-owmfilter/*.jsonl.gz", "CC-BY-SA-4.0", "MetaMath, filtered"),
    "codesearchnet-owmfilter": Part(
        "math/codesearchnet-owmfilter/**/*.jsonl.gz", "ODC-BY-1.0", "CodeSearchNet, filtered"
    ),
    "gsm8k": Part("math/gsm8k/*/train/*.jsonl.zst", "MIT", "GSM8K, the training split"),
}


class DolminoMix(Corpus):
    """`parts` become the sources `dolmino-<part>`."""

    corpus: Literal["dolmino-mix-1124"]
    parts: list[str] = Field(default_factory=lambda: list(PARTS), min_length=1)
    revision: str = COMMIT

    def expand(self) -> list[Source]:
        refuse_unknown("dolmino-mix-1124.parts", self.parts, PARTS)
        return [self._source(name, PARTS[name]) for name in self.parts]

    def _source(self, name: str, part: Part) -> Source:
        return Source(
            name=f"dolmino-{name}",
            corpus=self.corpus,
            form="jsonl",
            text=TextRule(fields=["text"], id_field="id"),
            location=hub_location(REPO, self.base, [f"data/{part.files}"], self.revision),
            license=part.license,
            attribution=f"dolmino-mix-1124, Allen Institute for AI; {part.origin}",
            homepage="https://huggingface.co/datasets/allenai/dolmino-mix-1124",
        )
