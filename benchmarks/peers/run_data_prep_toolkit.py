"""data-prep-toolkit: `dpk_tokenization2arrow` on its plain Python runtime; parquet in, Arrow out."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common import Job, main

if TYPE_CHECKING:
    from common import Ids


def build(job: Job) -> None:
    """The transform wants a folder of inputs and a tokenizer folder as `AutoTokenizer` reads it."""
    inputs, tokenizer = job.out.parent / "dpk-in", job.out.parent / "dpk-tokenizer"
    inputs.mkdir()
    tokenizer.mkdir()
    for path in job.inputs:
        (inputs / path.name).symlink_to(path)
    shutil.copyfile(job.tokenizer, tokenizer / "tokenizer.json")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": job.eos_token}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))

    from dpk_tokenization2arrow.runtime import Tokenization2Arrow

    failed = Tokenization2Arrow(
        input_folder=str(inputs),
        output_folder=str(job.out),
        tkn_tokenizer=str(tokenizer),
        tkn_doc_id_column="id",
        tkn_doc_content_column="text",
    ).transform()
    if failed or not any(Path(job.out).rglob("*.arrow")):
        sys.exit("data-prep-toolkit wrote no tokens")


def documents(job: Job) -> Iterator[Ids]:
    """One record batch a document."""
    import pyarrow as pa

    for path in sorted(job.out.rglob("*.arrow")):
        with pa.ipc.open_file(path) as reader:
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i).column(0).to_numpy()


if __name__ == "__main__":
    main(
        build,
        documents,
        ("data-prep-toolkit", "data-prep-toolkit-transforms", "transformers", "tokenizers"),
    )
