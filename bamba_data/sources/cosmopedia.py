"""Cosmopedia v0.1: synthetic textbooks and stories, parquet on the hub, one folder a config. It has no id
column: an id is `<path of the file>#<row>`. Whether the prompt is part of the text is a choice, and recorded."""

from typing import Literal

from pydantic import Field

from bamba_data.sources.base import Corpus, Source, TextRule, hub_location, refuse_unknown

REPO = "hf://datasets/HuggingFaceTB/cosmopedia"
CONFIGS = (
    "auto_math_text",
    "khanacademy",
    "openstax",
    "stanford",
    "stories",
    "web_samples_v1",
    "web_samples_v2",
    "wikihow",
)
TextChoice = Literal["text", "prompt+text"]


def text_rule(choice: TextChoice) -> TextRule:
    """`text` alone, or the prompt, a blank line, and the text."""
    return TextRule(fields=choice.split("+"), join="\n\n", id_field=None)


class Cosmopedia(Corpus):
    """`configs` become the sources `cosmopedia-<config>`."""

    corpus: Literal["cosmopedia"]
    configs: list[str] = Field(default_factory=lambda: list(CONFIGS), min_length=1)
    text: TextChoice = "text"
    revision: str = "main"

    def expand(self) -> list[Source]:
        refuse_unknown("cosmopedia.configs", self.configs, CONFIGS)
        return [self._source(config) for config in self.configs]

    def _source(self, config: str) -> Source:
        return Source(
            name=f"cosmopedia-{config}",
            corpus=self.corpus,
            form="parquet",
            text=text_rule(self.text),
            location=hub_location(REPO, self.base, [f"data/{config}/*.parquet"], self.revision),
            license="Apache-2.0",
            attribution="Cosmopedia, Hugging Face; generated with Mixtral-8x7B-Instruct-v0.1",
            homepage="https://huggingface.co/datasets/HuggingFaceTB/cosmopedia",
        )
