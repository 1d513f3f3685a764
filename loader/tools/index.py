"""Index a text source once, so that a loader can tokenize it on the fly in one provable order.

    python -m loader.index --name web --tokenizer tokenizer.json --files 's3://bucket/web/*.parquet' --out s3://bucket/index
    python -m loader.index --recipe fineweb.yaml --out s3://bucket/index

Run again, it reads only the files that are new or changed. Exit codes are those of bamba_data.errors.
"""

from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from bamba_data.errors import UserError, first_fault
from bamba_data.recipe import BadInput
from bamba_data.resources import cores
from bamba_data.storage.fetch import Fetcher
from bamba_data.storage.local_disk import scratch_folder
from bamba_data.terminal import say

from ..cache.location import default_cache
from ..text.index_build import in_processes, make_index
from ..text.index_format import IndexedFile
from ..text.spec import TextSource


def index_sources(sources: Sequence[TextSource], workers: int | None) -> Iterator[tuple[TextSource, str]]:
    """Index one source after the other, in processes; each with a summary in words when it is done.

    Args:
        sources: Their index goes to `TextSource.index`, or into the loaders' cache folder.
        workers: Processes; None for one a core.
    """
    fetcher = Fetcher()
    index_files = in_processes(workers or cores(), scratch_folder(), fetcher)
    for source in sources:
        folder = source.index or str(default_cache() / "text")
        yield source, make_index(source, folder, fetcher, index_files, _say_file).summary


def _say_file(file: IndexedFile) -> None:
    account = file.account
    say(f"{file.url}: {account.kept:,} documents, {account.tokens:,} tokens, {file.blocks:,} blocks")


def parsed_rules(text: str) -> BadInput:
    """Of JSON, as `bad_input` in a recipe; `UserError` where it is wrong."""
    try:
        return BadInput.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"--rules: {first_fault(error)}") from None
