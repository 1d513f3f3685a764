"""FineMath: mathematical pages of Common Crawl with scores from 3 to 5, parquet on the hub, a folder a config.

From its card and public copies of its listing at the commit below: `finemath-3plus` (128 files, 21.4 M rows),
`finemath-4plus` (64, 6.7 M), `infiwebmath-3plus` (13.9 M), `infiwebmath-4plus` (6.3 M), files
`<config>/train-00000-of-00128.parquet`; ODC-By 1.0 and Common Crawl's terms. A `4plus` is the part of its `3plus` with
`int_score >= 4`: both together give those documents twice. There is no id column, and a `url` may come again: ids are
made of file and row. The `infiwebmath` configs have fewer columns (url, metadata, score, int_score, token_count,
char_count, text) than the others (also fetch_time, warc_filename, crawl, snapshot_type, language, language_score, …).
"""

from typing import Literal

from pydantic import Field

from bamba_data.sources.base import Corpus, Source, TextRule, hub_location, refuse_unknown

REPO = "hf://datasets/HuggingFaceTB/finemath"
COMMIT = "e92b25a616738fe95dc186b64dfb19f9c8525594"
CONFIGS = ("finemath-3plus", "finemath-4plus", "infiwebmath-3plus", "infiwebmath-4plus")


class FineMath(Corpus):
    """`configs` become sources of their own names; without them both `3plus`, in which all documents are once."""

    corpus: Literal["finemath"]
    configs: list[str] = Field(default_factory=lambda: ["finemath-3plus", "infiwebmath-3plus"], min_length=1)
    revision: str = COMMIT

    def expand(self) -> list[Source]:
        refuse_unknown("finemath.configs", self.configs, CONFIGS)
        return [self._source(config) for config in self.configs]

    def _source(self, config: str) -> Source:
        return Source(
            name=config,
            corpus=self.corpus,
            form="parquet",
            text=TextRule(fields=["text"], id_field=None),
            location=hub_location(REPO, self.base, [f"{config}/*.parquet"], self.revision),
            license="ODC-BY-1.0",
            attribution="FineMath, Hugging Face; Common Crawl terms of use",
            homepage="https://huggingface.co/datasets/HuggingFaceTB/finemath",
        )
