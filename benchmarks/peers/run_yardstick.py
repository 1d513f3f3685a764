"""The yardstick: bare `tokenizers.encode_batch_fast`, texts in memory, batches of 1,000.

It reads nothing and writes nothing while the clock runs, and starts after everything is loaded:
what a tool built on Hugging Face tokenizers could reach if all else were free.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from common import Job, main, read_texts

if TYPE_CHECKING:
    from common import Ids

BATCH_DOCUMENTS = 1000


def build(job: Job) -> None:
    from tokenizers import Tokenizer

    texts = read_texts(job.inputs, job.text_mb and job.text_mb * 1e6)
    tokenizer = Tokenizer.from_file(str(job.tokenizer))
    tokenizer.encode_batch_fast(texts[:10], add_special_tokens=False)
    tokens = 0
    started = time.perf_counter()
    for i in range(0, len(texts), BATCH_DOCUMENTS):
        batch = tokenizer.encode_batch_fast(texts[i : i + BATCH_DOCUMENTS], add_special_tokens=False)
        tokens += sum(len(encoding.ids) for encoding in batch)
    seconds = time.perf_counter() - started
    job.write(seconds=seconds, text_bytes=sum(len(t.encode()) for t in texts), tokens=tokens)


def documents(job: Job) -> Iterator[Ids]:
    """The reference: the ids every tool should have written for these inputs."""
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(job.tokenizer))
    texts = read_texts(job.inputs)
    for i in range(0, len(texts), 100):
        batch = [text.strip() if job.strip else text for text in texts[i : i + 100]]
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield np.asarray(encoding.ids, dtype=np.uint32)


if __name__ == "__main__":
    main(build, documents, ("tokenizers",))
