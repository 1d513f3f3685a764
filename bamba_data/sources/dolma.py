"""Dolma v1.7: 19 datasets, 2,419 gzipped JSON-lines files on a plain https host that cannot be listed.

The table below regenerates the official URL list byte for byte, offline; `official_urls` checks that against
the pinned sha256, so a slip in the table cannot pass. Two numbers are missing in the official list too
(cc_en_middle 0239 and cc_en_tail 0153), and three folders share the stem `cc_news`: names are always folder/file.
"""

import hashlib
from typing import Literal, NamedTuple

from pydantic import Field

from bamba_data.errors import RecipeError
from bamba_data.sources.base import Corpus, Location, Source, TextRule, refuse_unknown

HOST = "https://olmo-data.org/dolma-v1_7"
URL_LIST_SHA256 = "9fa8c2f0eb57149ff7914b35ca2ffb8da221c02786d712bcba5f6c39d294b49e"


class Dataset(NamedTuple):
    folder: str  # on the host
    stem: str
    files: int  # names run from 0000, without `holes`
    holes: tuple[int, ...] = ()

    def names(self) -> list[str]:
        numbers = (n for n in range(self.files + len(self.holes)) if n not in self.holes)
        return [f"{self.folder}/{self.stem}-{n:04d}.json.gz" for n in numbers]


#: By the names that Bamba's mix gives them.
DATASETS: dict[str, Dataset] = {
    "books": Dataset("books", "books", 3),
    "c4": Dataset("c4-filtered", "c4", 171),
    "cc_en_head": Dataset("cc_en_head", "cc_en_head", 275),
    "cc_en_middle": Dataset("cc_en_middle", "cc_en_middle", 379, (239,)),
    "cc_en_tail": Dataset("cc_en_tail", "cc_en_tail", 444, (153,)),
    "cc_news_head": Dataset("cc_news_head", "cc_news", 5),
    "cc_news_middle": Dataset("cc_news_middle", "cc_news", 3),
    "cc_news_tail": Dataset("cc_news_tail", "cc_news", 1),
    "falcon": Dataset("falcon-refinedweb-filtered", "falcon", 500),
    "pes2o": Dataset("pes2o", "pes2o", 26),
    "algebraic": Dataset("proof_pile_2-algebraic_stack", "algebraic-stack-train", 16),
    "open": Dataset("proof_pile_2-open_web_math", "open-web-math-train", 13),
    "reddit": Dataset("reddit", "reddit", 78),
    "arxiv": Dataset("redpajama-arxiv", "arxiv", 100),
    "stackexchange": Dataset("redpajama-stackexchange", "stackexchange", 26),
    "starcoder": Dataset("starcoder", "starcoder", 49),
    "tulu_flan": Dataset("tulu_flan", "tulu_flan", 66),
    "wiki": Dataset("wiki", "wiki", 2),
    "megawika": Dataset("wikiref_megawika", "megawika", 262),
}

#: What each part is made of, for its licence line. The whole is ODC-BY 1.0 since 2024-04-15.
_ORIGIN = {
    "starcoder": "The Stack (permissively licensed code; its terms of use apply)",
    "reddit": "Pushshift Reddit (Reddit's terms apply)",
    "falcon": "RefinedWeb (ODC-BY 1.0, Common Crawl terms of use)",
    "pes2o": "peS2o, from S2ORC (ODC-BY 1.0)",
    "arxiv": "RedPajama arXiv",
    "stackexchange": "RedPajama StackExchange (CC BY-SA)",
    "algebraic": "Proof Pile 2 AlgebraicStack",
    "open": "Proof Pile 2 OpenWebMath (ODC-BY 1.0, Common Crawl terms of use)",
    "books": "Project Gutenberg",
    "wiki": "Wikipedia and Wikibooks (CC BY-SA)",
    "megawika": "MegaWika references (CC BY-SA)",
    "tulu_flan": "Flan collection through Tulu (Apache-2.0 and others)",
}


def official_urls() -> list[str]:
    """All 2,419 URLs, sorted; refuses to return if they are not the official list."""
    urls = sorted(f"{HOST}/{name}" for dataset in DATASETS.values() for name in dataset.names())
    digest = hashlib.sha256(("\n".join(urls) + "\n").encode()).hexdigest()
    if digest != URL_LIST_SHA256:
        raise RecipeError(f"the Dolma v1.7 table gives a URL list of sha256 {digest}, not {URL_LIST_SHA256}")
    return urls


class DolmaV17(Corpus):
    """`datasets` are chosen by Bamba's names; `files` narrows each to patterns of file names (for copies)."""

    corpus: Literal["dolma-v1_7"]
    datasets: list[str] = Field(default_factory=lambda: list(DATASETS), min_length=1)
    files: list[str] | None = Field(default=None, min_length=1)

    def expand(self) -> list[Source]:
        refuse_unknown("dolma-v1_7.datasets", self.datasets, DATASETS)
        if self.base is None:
            official_urls()
        return [self._source(name, DATASETS[name]) for name in self.datasets]

    def _source(self, name: str, dataset: Dataset) -> Source:
        files = dataset.names() if self.files is None else [f"{dataset.folder}/{f}" for f in self.files]
        return Source(
            name=name,
            corpus=self.corpus,
            form="jsonl",
            text=TextRule(fields=["text"], id_field="id"),
            location=Location(base=self.base or HOST, files=files),
            license="ODC-BY-1.0",
            attribution=f"Dolma v1.7, Allen Institute for AI; {_ORIGIN.get(name, 'Common Crawl terms of use')}",
            homepage="https://huggingface.co/datasets/allenai/dolma",
        )
