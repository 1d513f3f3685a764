"""Token counts and quantiles are those that a loop over all documents finds."""

import math
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bamba_data.errors import CorruptShard
from bamba_data.format.dataset import Dataset, open_dataset
from bamba_data.inspect.stats import QUANTILES, plot, stats
from bamba_data.storage.store import open_store
from bamba_data.tokenization.conformance import Certificate
from tests.building import build
from tests.corpora import lines, recipe, write_jsonl


def lengths(dataset: Dataset, source: str) -> list[int]:
    urls = dataset.shard_urls(source)
    return sorted(
        len(tokens) // 2 for url in urls for tokens in pq.read_table(url, partitioning=None)["tokens"].to_pylist()
    )


@pytest.mark.parametrize("name", ["demo", "tiny"])
def test_statistics_are_those_of_a_loop_over_all_documents(name: str, request: pytest.FixtureRequest) -> None:
    dataset = open_dataset(str(request.getfixturevalue(name)))
    found = {one.source: one for one in stats(dataset)}
    everything = sum(sum(lengths(dataset, source)) for source in found)
    assert list(found) == [source.name for source in dataset.manifest.sources]
    for source, one in found.items():
        counts = lengths(dataset, source)
        assert (one.documents, one.tokens) == (len(counts), sum(counts))
        assert (one.shortest, one.longest) == (counts[0], counts[-1])
        assert math.isclose(one.mean, sum(counts) / len(counts))
        assert math.isclose(one.share, sum(counts) / everything)
        assert math.isclose(one.bytes_per_token, one.text_bytes / sum(counts))
        stored = sum(Path(url).stat().st_size for url in dataset.shard_urls(source))
        assert math.isclose(one.stored_bytes_per_token, stored / sum(counts))
        for quantile in QUANTILES:  # one of the two documents beside it
            place = quantile * (len(counts) - 1)
            assert one.quantiles[f"{quantile:g}"] in (counts[math.floor(place)], counts[math.ceil(place)])


def test_a_source_without_documents_has_zeros(tmp_path: Path, certificate: Certificate) -> None:
    write_jsonl(tmp_path / "inputs/a.json.gz", lines([{"id": "a", "text": ""}]))
    build(tmp_path / "out", certificate, str(recipe(tmp_path)), ["bad_input.empty_sources=keep"])
    (one,) = stats(open_dataset(str(tmp_path / "out")))
    assert (one.documents, one.tokens, one.shortest, one.longest, one.mean) == (0, 0, 0, 0, 0.0)
    assert set(one.quantiles.values()) == {0.0}
    plot(open_dataset(str(tmp_path / "out")), tmp_path / "plot.png")


def test_the_name_of_a_folder_is_no_pattern(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "a[b]*{c}?"))
    assert stats(open_dataset(str(folder))) == stats(open_dataset(str(tiny)))


@pytest.mark.s3
def test_statistics_of_a_dataset_on_s3_are_the_same(tiny: Path, bucket: str) -> None:
    store = open_store(bucket)
    for path in (path for path in tiny.rglob("*.*") if path.is_file()):
        store.put(path.relative_to(tiny).as_posix(), path.read_bytes())
    assert stats(open_dataset(bucket)) == stats(open_dataset(str(tiny)))


@pytest.mark.parametrize("name", ["lengths.png", "lengths.svg"])
def test_a_plot_is_written_in_the_form_of_its_name(tiny: Path, tmp_path: Path, name: str) -> None:
    plot(open_dataset(str(tiny)), tmp_path / name)
    data = (tmp_path / name).read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n" if name.endswith("png") else b"<?xml")
    assert len(data) > 10_000


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"PAR1")])
def test_a_damaged_shard_is_named_by_its_source(tiny_copy: Path, damage: object) -> None:
    path = next((tiny_copy / "dataset=rows").iterdir())
    damage(path)  # type: ignore[operator]
    with pytest.raises(CorruptShard, match="dataset=rows: a shard cannot be read"):
        stats(open_dataset(str(tiny_copy)))
