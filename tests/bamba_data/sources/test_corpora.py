"""Each corpus boils down to the sources that it really has: names, files, revisions, licences."""

import hashlib
from typing import Any

import pytest
from pydantic import TypeAdapter

from bamba_data.card.licences import hub_licences
from bamba_data.errors import RecipeError
from bamba_data.recipe import load
from bamba_data.sources.base import Source, TextRule
from bamba_data.sources.dolma import DATASETS, HOST, URL_LIST_SHA256, official_urls
from bamba_data.sources.fineweb_edu import V1_4_0
from bamba_data.sources.nemotron_cc import PATHS_SHA256
from bamba_data.sources.registry import AnyCorpus

#: The weights of Bamba's first phase, in 1/10,000, from the README of its data loader.
BAMBA_PHASE_1 = {
    "cc_en_head": 1456,
    "cc_en_middle": 1835,
    "cc_en_tail": 1558,
    "falcon": 1851,
    "starcoder": 450,
    "c4": 1500,
    "reddit": 300,
    "pes2o": 236,
    "arxiv": 114,
    "stackexchange": 200,
    "tulu_flan": 100,
    "cc_news_head": 62,
    "cc_news_middle": 27,
    "cc_news_tail": 11,
    "open": 51,
    "algebraic": 49,
    "books": 100,
    "megawika": 55,
    "wiki": 45,
}


def sources(**corpus: Any) -> list[Source]:
    return TypeAdapter(AnyCorpus).validate_python(corpus).sources()


def only(**corpus: Any) -> Source:
    (source,) = sources(**corpus)
    return source


# -- Dolma v1.7


def test_the_dolma_table_regenerates_the_official_list_byte_for_byte() -> None:
    text = "".join(f"{url}\n" for url in official_urls())
    assert (text.count("\n"), len(text), hashlib.sha256(text.encode()).hexdigest()) == (
        2419,
        171_893,
        "9fa8c2f0eb57149ff7914b35ca2ffb8da221c02786d712bcba5f6c39d294b49e",
    )


def test_a_slip_in_the_dolma_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "wiki", DATASETS["wiki"]._replace(files=3))
    with pytest.raises(RecipeError, match=URL_LIST_SHA256):
        sources(corpus="dolma-v1_7", datasets=["books"])


def test_the_sources_of_dolma_are_the_names_in_bambas_mix() -> None:
    assert {source.name for source in sources(corpus="dolma-v1_7")} == set(BAMBA_PHASE_1)
    assert sum(BAMBA_PHASE_1.values()) == 10_000


def test_all_dolma_sources_together_name_every_official_url_once() -> None:
    urls = [f"{s.location.base}/{name}" for s in sources(corpus="dolma-v1_7") for name in s.location.files]
    assert sorted(urls) == official_urls()


@pytest.mark.parametrize(
    ("name", "count", "first", "last", "hole"),
    [
        ("books", 3, "books/books-0000", "books/books-0002", None),
        ("c4", 171, "c4-filtered/c4-0000", "c4-filtered/c4-0170", None),
        ("cc_en_middle", 379, "cc_en_middle/cc_en_middle-0000", "cc_en_middle/cc_en_middle-0379", "0239"),
        ("cc_en_tail", 444, "cc_en_tail/cc_en_tail-0000", "cc_en_tail/cc_en_tail-0444", "0153"),
        ("falcon", 500, "falcon-refinedweb-filtered/falcon-0000", "falcon-refinedweb-filtered/falcon-0499", None),
        (
            "algebraic",
            16,
            "proof_pile_2-algebraic_stack/algebraic-stack-train-0000",
            "proof_pile_2-algebraic_stack/algebraic-stack-train-0015",
            None,
        ),
        ("megawika", 262, "wikiref_megawika/megawika-0000", "wikiref_megawika/megawika-0261", None),
    ],
)
def test_a_dolma_source_has_its_own_folder_stem_and_holes(
    name: str, count: int, first: str, last: str, hole: str | None
) -> None:
    files = only(corpus="dolma-v1_7", datasets=[name]).location.files
    assert (len(files), files[0], files[-1]) == (count, f"{first}.json.gz", f"{last}.json.gz")
    assert not any(f"-{hole}." in file for file in files)


def test_names_that_repeat_across_dolma_folders_stay_apart_by_their_folder() -> None:
    news = [only(corpus="dolma-v1_7", datasets=[f"cc_news_{part}"]) for part in ("head", "middle", "tail")]
    assert [len(source.location.files) for source in news] == [5, 3, 1]
    assert [source.location.files[0] for source in news] == [
        f"cc_news_{part}/cc_news-0000.json.gz" for part in ("head", "middle", "tail")
    ]


def test_a_copy_of_dolma_may_have_other_files_below_the_same_folders() -> None:
    source = only(corpus="dolma-v1_7", base="s3://mirror/dolma", datasets=["c4"], files=["*.json.gz"])
    assert (source.location.base, source.location.files) == ("s3://mirror/dolma", ["c4-filtered/*.json.gz"])


@pytest.mark.parametrize("choice", ["none", "gzip", "zstd", "bz2", "xz"])
def test_how_files_of_lines_are_compressed_may_be_said_of_any_corpus(choice: str) -> None:
    assert only(corpus="dolma-v1_7", datasets=["wiki"], compression=choice).compression == choice


def test_dolma_records_are_json_lines_with_an_id_and_a_text() -> None:
    source = only(corpus="dolma-v1_7", datasets=["wiki"])
    assert (source.form, source.text, source.location.base) == ("jsonl", TextRule(), HOST)


# -- FineWeb-edu


@pytest.mark.parametrize(
    ("subset", "pattern"),
    [
        ("all", "data/*/*.parquet"),
        ("CC-MAIN-2024-10", "data/CC-MAIN-2024-10/*.parquet"),
        ("sample-10BT", "sample/10BT/*.parquet"),
        ("sample-100BT", "sample/100BT/*.parquet"),
        ("sample-350BT", "sample/350BT/*.parquet"),
    ],
)
def test_a_subset_of_fineweb_edu_is_its_folder_at_the_pinned_commit(subset: str, pattern: str) -> None:
    location = only(corpus="fineweb-edu", subset=subset).location
    assert (location.base, location.files, location.revision) == (
        "hf://datasets/HuggingFaceFW/fineweb-edu",
        [pattern],
        V1_4_0,
    )


def test_the_pinned_fineweb_edu_is_the_commit_of_v1_4_0() -> None:
    assert V1_4_0 == "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9"


@pytest.mark.parametrize("subset", ["CC-MAIN-2024", "CC-MAIN-2024-10/x", "sample-1BT", "", "data/*"])
def test_an_unknown_subset_of_fineweb_edu_is_refused_with_those_that_exist(subset: str) -> None:
    with pytest.raises(RecipeError, match=r"^fineweb-edu\.subset: .* is none of: all, a dump such as"):
        sources(corpus="fineweb-edu", subset=subset)


# -- Cosmopedia and smollm-corpus


def test_the_configs_of_cosmopedia_are_sources_of_their_own() -> None:
    assert [(source.name, *source.location.files) for source in sources(corpus="cosmopedia")] == [
        (f"cosmopedia-{config}", f"data/{config}/*.parquet")
        for config in (
            *("auto_math_text", "khanacademy", "openstax", "stanford"),
            *("stories", "web_samples_v1", "web_samples_v2", "wikihow"),
        )
    ]


@pytest.mark.parametrize(
    ("choice", "rule"),
    [
        ("text", TextRule(fields=["text"], join="\n\n", id_field=None)),
        ("prompt+text", TextRule(fields=["prompt", "text"], join="\n\n", id_field=None)),
    ],
)
def test_the_text_of_cosmopedia_is_a_choice_and_its_ids_are_made(choice: str, rule: TextRule) -> None:
    assert only(corpus="cosmopedia", configs=["stories"], text=choice).text == rule


def test_smollm_corpus_is_the_two_sources_of_bambas_second_phase() -> None:
    assert [(s.name, *s.location.files, s.text.id_field) for s in sources(corpus="smollm-corpus")] == [
        ("cosmopedia-v2", "cosmopedia-v2/*.parquet", None),
        ("fineweb-edu-dedup", "fineweb-edu-dedup/*.parquet", "id"),
    ]


def test_only_cosmopedia_v2_has_a_prompt() -> None:
    found = sources(corpus="smollm-corpus", text="prompt+text")
    assert [source.text.fields for source in found] == [["prompt", "text"], ["text"]]


# -- what Bamba's second version used (test_published.py builds them as they lie at their publishers)


@pytest.mark.parametrize(
    ("corpus", "names"),
    [
        (
            "olmo-mix-1124",
            ["dclm", "arxiv", "pes2o", "starcoder", "algebraic-stack", "open-web-math", "wiki"],
        ),
        (
            "dolmino-mix-1124",
            [
                *("dclm", "flan", "pes2o", "wiki", "stackexchange", "tulu_math", "dolmino_math_synth", "tinyGSM-MIND"),
                *("mathcoder2-synthmath", "metamath-owmfilter", "codesearchnet-owmfilter", "gsm8k"),
            ],
        ),
        (
            "nemotron-cc",
            [
                *("high-actual", "high-distill", "high-diverse_qa_pairs", "high-extract_knowledge"),
                *("high-knowledge_list", "high-wrap_medium", "medium-high-actual", "medium-actual"),
                *("medium-low-actual", "low-actual", "low-wrap_medium"),
            ],
        ),
    ],
)
def test_parts_are_sources_under_the_name_of_their_corpus_so_that_mixes_may_take_of_all(
    corpus: str, names: list[str]
) -> None:
    assert [source.name for source in sources(corpus=corpus)] == [f"{corpus.split('-')[0]}-{name}" for name in names]


def test_sources_of_all_corpora_together_have_names_of_their_own() -> None:
    corpora = (*OF_VERSION_2, *LICENSES, "smollm-corpus")
    names = [source.name for corpus in corpora for source in sources(corpus=corpus)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("corpus", "repo", "commit"),
    [
        ("olmo-mix-1124", "allenai/olmo-mix-1124", "99ee6aaace88779d1ef099d36251b91101c1679b"),
        ("dolmino-mix-1124", "allenai/dolmino-mix-1124", "a319f19eef1e257417b11ea8c30da266ae175557"),
        ("finemath", "HuggingFaceTB/finemath", "e92b25a616738fe95dc186b64dfb19f9c8525594"),
        ("dclm-baseline", "mlfoundations/dclm-baseline-1.0", "a3b142c183aebe5af344955ae20836eb34dcf69b"),
    ],
)
def test_they_are_read_at_a_commit(corpus: str, repo: str, commit: str) -> None:
    for source in sources(corpus=corpus):
        assert (source.location.base, source.location.revision) == (f"hf://datasets/{repo}", commit)


def test_nemotron_cc_has_the_known_list_of_paths_at_its_host_and_none_where_files_can_be_listed() -> None:
    location = only(corpus="nemotron-cc", parts=["low/wrap_medium"]).location
    assert location.base == "https://data.commoncrawl.org/contrib/Nemotron/Nemotron-CC/data-jsonl"
    assert location.files == ["quality=low/kind=synthetic/kind2=wrap_medium/*.jsonl.zstd"]
    assert location.listing is not None
    assert (location.listing.url, location.listing.sha256) == (f"{location.base}.paths.gz", PATHS_SHA256)
    for base in ("s3://commoncrawl/contrib/Nemotron/Nemotron-CC/data-jsonl", "/data/nemotron", "hf://datasets/me/copy"):
        assert only(corpus="nemotron-cc", parts=["high/actual"], base=base).location.listing is None


def test_the_whole_of_dclm_is_one_listing_and_a_part_of_it_one_a_folder() -> None:
    assert only(corpus="dclm-baseline").location.files == ["global-shard_*_of_10/local-shard_*_of_10/*.jsonl.zst*"]
    whole = only(corpus="dclm-baseline", global_shards=[3]).location.files
    assert whole == ["global-shard_03_of_10/local-shard_*_of_10/*.jsonl.zst*"]
    some = only(corpus="dclm-baseline", global_shards=[10, 1], local_shards=[0]).location.files
    assert some == [f"global-shard_{shard}_of_10/local-shard_0_of_10/*.jsonl.zst*" for shard in ("01", "10")]


def test_the_licences_of_dolminos_sets_are_their_own() -> None:
    licences = {source.name.removeprefix("dolmino-"): source.license for source in sources(corpus="dolmino-mix-1124")}
    others = {name: licence for name, licence in licences.items() if licence != "ODC-BY-1.0"}
    assert others == {
        "dclm": "CC-BY-4.0",
        "stackexchange": "CC-BY-SA-2.5, CC-BY-SA-3.0, CC-BY-SA-4.0",
        "mathcoder2-synthmath": "Apache-2.0",
        "metamath-owmfilter": "CC-BY-SA-4.0",
        "gsm8k": "MIT",
    }


@pytest.mark.parametrize(
    ("corpus", "licences"),
    [
        ({"corpus": "olmo-mix-1124"}, ["cc-by-4.0", "odc-by"]),
        ({"corpus": "dolmino-mix-1124"}, ["other"]),  # of Stack Exchange, a part by its date
        ({"corpus": "dolmino-mix-1124", "parts": ["gsm8k", "flan"]}, ["mit", "odc-by"]),
        ({"corpus": "nemotron-cc"}, ["other"]),
        ({"corpus": "finemath"}, ["odc-by"]),
        ({"corpus": "dclm-baseline"}, ["cc-by-4.0"]),
    ],
)
def test_their_licences_as_a_hub_knows_them(corpus: dict[str, Any], licences: list[str]) -> None:
    assert hub_licences(source.license for source in sources(**corpus)) == licences


# -- a folder, and what is the same for all


def test_a_folder_says_everything_itself() -> None:
    source = only(
        corpus="folder",
        base="texts",
        name="mine",
        form="parquet",
        files=["*.parquet"],
        text={"fields": ["body"], "id_field": None},
        license="CC0-1.0",
        attribution="me",
        homepage="https://example.org",
    )
    assert source.model_dump() == {
        "name": "mine",
        "corpus": "folder",
        "form": "parquet",
        "text": {"fields": ["body"], "join": "\n\n", "id_field": None},
        "location": {"base": "texts", "files": ["*.parquet"], "revision": None},
        "license": "CC0-1.0",
        "attribution": "me",
        "homepage": "https://example.org",
    }


def test_what_a_folder_does_not_say_is_said_to_be_unstated() -> None:
    source = only(corpus="folder", base="texts", name="mine", form="jsonl", files=["x"])
    assert (source.license, source.attribution) == ("unstated", "unstated")


OF_VERSION_2 = ("olmo-mix-1124", "dolmino-mix-1124", "nemotron-cc", "finemath", "dclm-baseline")
LICENSES = {"dolma-v1_7": "ODC-BY-1.0", "fineweb-edu": "ODC-BY-1.0", "cosmopedia": "Apache-2.0"}


@pytest.mark.parametrize(("corpus", "license"), [*LICENSES.items(), ("smollm-corpus", "ODC-BY-1.0")])
def test_every_source_carries_its_licence_its_attribution_and_its_home(corpus: str, license: str) -> None:
    for source in sources(corpus=corpus):
        assert source.license == license
        assert source.attribution
        assert source.homepage.startswith("https://huggingface.co/datasets/")


@pytest.mark.parametrize("corpus", [*LICENSES, "smollm-corpus", *OF_VERSION_2])
def test_a_copy_with_other_text_may_state_its_own_licence(corpus: str) -> None:
    for source in sources(corpus=corpus, base="copy", license="CC0-1.0", attribution="Herman Melville"):
        assert (source.license, source.attribution) == ("CC0-1.0", "Herman Melville")


@pytest.mark.parametrize(
    "corpus",
    [
        *("fineweb-edu", "cosmopedia", "smollm-corpus"),
        *("olmo-mix-1124", "dolmino-mix-1124", "finemath", "dclm-baseline"),
    ],
)
@pytest.mark.parametrize(("base", "revision"), [("copy", None), ("hf://datasets/me/copy", "v2")])
def test_a_copy_has_revisions_only_on_the_hub(corpus: str, base: str, revision: str | None) -> None:
    for source in sources(corpus=corpus, base=base, revision="v2"):
        assert (source.location.base, source.location.revision) == (base, revision)


@pytest.mark.parametrize(
    ("corpus", "field"),
    [
        ("{corpus: dolma-v1_7, datasets: [wiki, nope]}", "dolma-v1_7.datasets: ['nope'] are not among"),
        ("{corpus: cosmopedia, configs: [tales]}", "cosmopedia.configs: ['tales'] are not among"),
        ("{corpus: smollm-corpus, subsets: [python-edu]}", "smollm-corpus.subsets: ['python-edu'] are not among"),
        ("{corpus: fineweb-edu, subset: nope}", "fineweb-edu.subset: 'nope'"),
        ("{corpus: olmo-mix-1124, parts: [c4]}", "olmo-mix-1124.parts: ['c4'] are not among ['dclm', 'arxiv'"),
        ("{corpus: dolmino-mix-1124, parts: [math]}", "dolmino-mix-1124.parts: ['math'] are not among"),
        ("{corpus: nemotron-cc, parts: [low/distill]}", "nemotron-cc.parts: ['low/distill'] are not among"),
        ("{corpus: finemath, configs: [finemath-5plus]}", "finemath.configs: ['finemath-5plus'] are not among"),
        ("{corpus: dclm-baseline, global_shards: [0]}", "dclm-baseline.global_shards: [0] are not different numbers"),
        ("{corpus: dclm-baseline, local_shards: [3, 3]}", "dclm-baseline.local_shards: [3, 3] are not different"),
        ("{corpus: nemotron-cc, revision: main}", "corpora.0.nemotron-cc.revision: Extra inputs"),
        ("{corpus: dolma-v1_7, datasets: []}", "corpora.0.dolma-v1_7.datasets: "),
        ("{corpus: dolma-v1_7, files: []}", "corpora.0.dolma-v1_7.files: "),
        ("{corpus: cosmopedia, configs: []}", "corpora.0.cosmopedia.configs: "),
        ("{corpus: smollm-corpus, subsets: []}", "corpora.0.smollm-corpus.subsets: "),
        ("{corpus: cosmopedia, text: prompt}", "corpora.0.cosmopedia.text: "),
        ("{corpus: cosmopedia, config: [stories]}", "corpora.0.cosmopedia.config: Extra inputs"),
        ("{corpus: folder, name: a, base: ., form: jsonl}", "corpora.0.folder.files: "),
        ("{corpus: folder, name: a/b, base: ., form: jsonl, files: [x]}", "corpora.0.folder.name: "),
        ("{corpus: folder, name: a, base: ., form: csv, files: [x]}", "corpora.0.folder.form: "),
        ("{corpus: folder, name: a, base: ., form: jsonl, files: [x], text: {fields: []}}", "text.fields: "),
        ("{corpus: folder, name: a, base: ., form: jsonl, files: [x], text: {fields: [t, t]}}", "['t'] stand twice"),
        ("{corpus: folder, name: a, base: ., form: jsonl, files: [x], text: {fields: [id]}}", "['id'] stand twice"),
        ("{corpus: folder, name: a, base: ., form: jsonl, files: [x], compression: rar}", "folder.compression: "),
        ("{corpus: cosmopedia, compression: gzip}", "cosmopedia.compression: 'gzip' is for files of lines"),
        ("{corpus: folder, name: a, base: ., form: jsonl, files: [x], text: {text_field: []}}", "text.text_field"),
        ("{corpus: the-pile}", "'the-pile' found using 'corpus' does not match any of the expected tags: 'dolma"),
        ("{datasets: [wiki]}", "corpora.0: "),
    ],
)
def test_an_error_in_a_corpus_names_the_file_and_the_field(corpus: str, field: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(f"name: x\ntokenizer: {{url: t.json}}\ncorpora: [{corpus}]", "my.yaml")
    assert str(caught.value).startswith("my.yaml: ")
    assert field in str(caught.value)
