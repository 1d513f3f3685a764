"""The page on corpora says of each what the code has: its name, its commit and its licence."""

import re
from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter

from bamba_data.sources.registry import AnyCorpus

ROOT = Path(__file__).parents[1]
ROWS = {
    name: (place, licence)
    for name, place, licence in re.findall(
        r"^\| `([\w.-]+)` \| .*? \| (.*?) \| .*? \| (.*?) \|$", (ROOT / "docs/corpora.md").read_text(), re.MULTILINE
    )
    if name != "corpus"  # the head of the table
}


def test_every_corpus_but_a_folder_stands_in_the_table() -> None:
    (union, _) = get_args(AnyCorpus)
    names = {get_args(corpus.model_fields["corpus"].annotation)[0] for corpus in get_args(union)}
    assert set(ROWS) == names - {"folder"}


def test_its_place_its_commit_and_its_licence_are_those_of_the_code() -> None:
    for name, (place, licence) in ROWS.items():
        for source in TypeAdapter(AnyCorpus).validate_python({"corpus": name}).sources():
            assert source.location.base.removeprefix("hf://datasets/") in place
            assert (source.location.revision or "")[:12] in place
            assert source.license in licence or licence == "one for each part"
