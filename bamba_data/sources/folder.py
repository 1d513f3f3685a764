"""Any folder of JSON lines (plain, gzip, zstd, bzip2, xz) or parquet files: the corpus for everybody's own text."""

from typing import Literal

from pydantic import Field

from bamba_data.sources.base import Corpus, Form, Location, Name, Source, TextRule


class Folder(Corpus):
    """`base` is a local folder (relative to the recipe), an s3:// or https:// URL, or hf://datasets/ORG/NAME."""

    corpus: Literal["folder"]
    base: str
    name: Name
    form: Form
    files: list[str] = Field(min_length=1)
    revision: str | None = None
    text: TextRule = TextRule()
    homepage: str = ""

    def expand(self) -> list[Source]:
        return [
            Source(
                name=self.name,
                corpus=self.corpus,
                form=self.form,
                text=self.text,
                location=Location(base=self.base, files=self.files, revision=self.revision),
                license="unstated",
                attribution="unstated",
                homepage=self.homepage,
            )
        ]
