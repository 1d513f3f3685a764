"""FineWeb-edu: parquet on the hub, the whole of it, one Common Crawl dump, or one of the samples.

Schemas differ from dump to dump (some have `date`, some not): columns are taken by name. `main` moves (v1.3.0
changed nine existing dumps), so the default is the commit of v1.4.0.
"""

import re
from typing import Literal

from bamba_data.errors import RecipeError
from bamba_data.sources.base import Corpus, Name, Source, TextRule, hub_location

REPO = "hf://datasets/HuggingFaceFW/fineweb-edu"
V1_4_0 = "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9"
_DUMP = re.compile(r"^CC-MAIN-\d{4}-\d{2}$")


class FineWebEdu(Corpus):
    """`subset`: `all`, a dump such as `CC-MAIN-2024-10`, or `sample-10BT`, `sample-100BT`, `sample-350BT`."""

    corpus: Literal["fineweb-edu"]
    subset: str = "sample-10BT"
    revision: str = V1_4_0
    name: Name = "fineweb-edu"

    def expand(self) -> list[Source]:
        return [
            Source(
                name=self.name,
                corpus=self.corpus,
                form="parquet",
                text=TextRule(fields=["text"], id_field="id"),
                location=hub_location(REPO, self.base, [self._pattern()], self.revision),
                license="ODC-BY-1.0",
                attribution="FineWeb-Edu, Hugging Face; Common Crawl terms of use",
                homepage="https://huggingface.co/datasets/HuggingFaceFW/fineweb-edu",
            )
        ]

    def _pattern(self) -> str:
        if self.subset == "all":
            return "data/*/*.parquet"
        if _DUMP.match(self.subset):
            return f"data/{self.subset}/*.parquet"
        if self.subset in ("sample-10BT", "sample-100BT", "sample-350BT"):
            return f"sample/{self.subset.removeprefix('sample-')}/*.parquet"
        raise RecipeError(
            f"fineweb-edu.subset: {self.subset!r} is none of: all, a dump such as CC-MAIN-2024-10, "
            "sample-10BT, sample-100BT, sample-350BT"
        )
