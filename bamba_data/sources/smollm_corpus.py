"""smollm-corpus: cosmopedia-v2 and fineweb-edu-dedup, which Bamba's second phase was really trained on."""

from typing import Literal

from pydantic import Field

from bamba_data.sources.base import Corpus, Source, TextRule, hub_location, refuse_unknown
from bamba_data.sources.cosmopedia import TextChoice, text_rule

REPO = "hf://datasets/HuggingFaceTB/smollm-corpus"
SUBSETS = ("cosmopedia-v2", "fineweb-edu-dedup")


class SmolLMCorpus(Corpus):
    """`text` says whether cosmopedia-v2's prompt is part of its text; fineweb-edu-dedup has no prompt."""

    corpus: Literal["smollm-corpus"]
    subsets: list[str] = Field(default_factory=lambda: list(SUBSETS), min_length=1)
    text: TextChoice = "text"
    revision: str = "main"

    def expand(self) -> list[Source]:
        refuse_unknown("smollm-corpus.subsets", self.subsets, SUBSETS)
        return [self._source(subset) for subset in self.subsets]

    def _source(self, subset: str) -> Source:
        return Source(
            name=subset,
            corpus=self.corpus,
            form="parquet",
            text=text_rule(self.text) if subset == "cosmopedia-v2" else TextRule(fields=["text"], id_field="id"),
            location=hub_location(REPO, self.base, [f"{subset}/*.parquet"], self.revision),
            license="ODC-BY-1.0",
            attribution="SmolLM-Corpus, Hugging Face; Common Crawl terms of use for fineweb-edu-dedup",
            homepage="https://huggingface.co/datasets/HuggingFaceTB/smollm-corpus",
        )
