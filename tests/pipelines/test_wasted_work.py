"""What is done twice after a kill is counted: at most the shard in work, and the batch that was read for it."""

import random
from pathlib import Path

import pytest

from bamba_data.format.dataset import open_dataset
from bamba_data.storage.fetch import Fetcher
from bamba_data.tokenization.conformance import Certificate
from pipelines.dataset_build.driver import finish, run_here
from pipelines.observe.counters import Counters
from tests.building import build, prepared
from tests.corpora import recipe, records, write_jsonl


class Killed(BaseException):
    """Nothing of ours sees it: as far as the store can tell, the process was killed there."""


@pytest.mark.costly
@pytest.mark.parametrize("seed", range(2))
def test_a_kill_wastes_at_most_the_shard_in_work(
    seed: int, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "bamba_data.tokenization.encode.BATCH_CHARS", 4000
    )  # small beside a shard, as it is in real builds
    for n in range(2):
        write_jsonl(tmp_path / "inputs" / f"{n}.json.gz", records(150, n * 150, text_chars=900))
    path = str(recipe(tmp_path, blocks="{block_tokens: 2048, blocks_per_shard: 2}"))
    quiet = build(tmp_path / "quiet", certificate, path)[1]
    ready = prepared(tmp_path / "out", certificate, path)
    dice, encoded, largest_batch, kills = random.Random(seed), 0, 0, 0
    is_done = False
    while not is_done:
        batches_left = dice.randint(1, 12)

        def report(moved: Counters) -> None:
            nonlocal encoded, largest_batch, batches_left
            encoded, largest_batch = encoded + moved.tokens, max(largest_batch, moved.tokens)
            batches_left -= 1
            if batches_left == 0:
                raise Killed

        try:
            assert run_here(ready, Fetcher(), report) == []
            is_done = True
        except Killed:
            kills += 1
    manifest = finish(ready)[1]
    assert manifest.digest == quiet.digest
    shard = max(open_dataset(str(tmp_path / "out")).shards["tokens"])
    assert kills >= 5
    assert 0 < encoded - manifest.totals.tokens <= kills * (shard + largest_batch)
