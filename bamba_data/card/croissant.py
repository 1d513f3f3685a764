"""croissant.json: the same for tools that read Croissant 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html).

Every shard with its size and sha256, and a record set for each source. It is sealed as our records are (records.py), by
the field `sha256`: so it is known as ours.
"""

from typing import Any

from bamba_data.errors import CorruptManifest
from bamba_data.format.dataset import Dataset
from bamba_data.records import seal, unseal

from .configs import Config, configs

MAX_BYTES = 256 << 20
_FORMAT = "application/x-parquet"
_COLUMNS = {"tokens": "sc:Text", "token_count": "sc:Integer", "document_id": "sc:Text"}
_COLUMNS |= {"file": "sc:Integer", "row": "sc:Integer"}
#: As the specification gives it, with the terms that stand in ours.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(dataset: Dataset, is_whole: bool = True) -> bytes:
    """The description of a version: canonical JSON with its seal."""
    manifest = dataset.manifest
    sources = [config for config in configs(dataset, is_whole) if config.source is not None]
    said = [source.attribution or source.base for source in manifest.sources]
    return seal(
        {
            "@context": _CONTEXT,
            "@type": "sc:Dataset",
            "conformsTo": "http://mlcommons.org/croissant/1.0",
            "name": manifest.name,
            "description": (
                f"{manifest.totals.tokens:,} tokens in {manifest.totals.kept:,} documents, tokenized. `tokens` holds "
                f"ids as bytes ({manifest.tokenizer.token_dtype}), of the tokenizer with sha256 "
                f"{manifest.tokenizer.sha256}."
            ),
            "version": f"{dataset.version.number}.0.0",
            "datePublished": dataset.version.published_at,
            "license": list(dict.fromkeys(source.license or "not stated" for source in manifest.sources)),
            "citeAs": "; ".join(dict.fromkeys(said)),
            "distribution": [*_shards(dataset), *map(_file_set, sources)],
            "recordSet": list(map(_record_set, sources)),
        }
    )


def is_ours(data: bytes) -> bool:
    """Whether it is a description that `croissant` made, unedited."""
    try:
        return "conformsTo" in unseal(data, "croissant.json", MAX_BYTES)
    except CorruptManifest:
        return False


def _shards(dataset: Dataset) -> list[dict[str, Any]]:
    rows = dataset.shards.select("path", "size_bytes", "sha256").iter_rows()
    return [
        {
            "@type": "cr:FileObject",
            "@id": path,
            "name": path,
            "contentUrl": path,
            "contentSize": f"{size_bytes} B",
            "encodingFormat": _FORMAT,
            "sha256": sha256,
        }
        for path, size_bytes, sha256 in rows
    ]


def _file_set(config: Config) -> dict[str, Any]:
    name = _set_name(config)
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "encodingFormat": _FORMAT,
        "includes": list(config.paths),
    }


def _record_set(config: Config) -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{config.name}/{column}",
            "name": f"{config.name}/{column}",
            "dataType": kind,
            "source": {"fileSet": {"@id": _set_name(config)}, "extract": {"column": column}},
        }
        for column, kind in _COLUMNS.items()
    ]
    return {"@type": "cr:RecordSet", "@id": config.name, "name": config.name, "field": fields}


def _set_name(config: Config) -> str:
    return f"files-of-{config.name}"
