"""The page of formats, made from the code: every field of every file that we write, with its type and its meaning.

Names and types come from the records' own classes and schemas; where the code writes plain JSON, the names come from
its source. Meanings come from docs/fields.yaml. A field without a meaning, or a meaning without a field, is an error:
the page says all and nothing else.
"""

import ast
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import yaml
from pydantic import TypeAdapter

ROOT = Path(__file__).resolve().parents[2]
FIELDS = ROOT / "docs" / "fields.yaml"

HEAD = """# Formats

Every file that we write, and every field of it, so that any language can read our data without our code. This page is
made from the code at the commit that you look at. Files of formats that came before stay readable: what they lack is
said at the field.

"""

#: Names of fields with their types as the page shows them; "" where the code does not say.
Names = Mapping[str, str]


def page() -> str:
    """Markdown of the whole page.

    Raises:
        LookupError: names every field that has no description, and every description that has no field.
    """
    entries = yaml.safe_load(FIELDS.read_text(encoding="utf-8"))
    if faults := list(faults_of(entries)):
        raise LookupError("docs/fields.yaml: " + "; ".join(faults))
    titles = {entry["record"]: entry["title"] for entry in entries if "record" in entry}
    return HEAD + "\n".join(line for entry in entries for line in _section(entry, titles))


def faults_of(entries: list[dict[str, Any]]) -> Iterator[str]:
    """What the code has and the descriptions lack, and the other way round."""
    described = {entry["record"]: entry["fields"] for entry in entries if "record" in entry}
    for record in described.keys() ^ RECORDS.keys():
        yield f"record {record} is {'not described' if record in RECORDS else 'gone from the code'}"
    for record in described.keys() & RECORDS.keys():
        names = RECORDS[record]()
        for field in names.keys() ^ described[record].keys():
            yield f"{record}.{field} is {'not described' if field in names else 'gone from the code'}"


def _section(entry: dict[str, Any], titles: Mapping[str, str]) -> Iterator[str]:
    if "group" in entry:
        yield f"## {entry['group']}\n"
        yield f"{entry['text']}\n"
        return
    where = f"`{entry['file']}`" if "file" in entry else f"in `{entry['in']}`"
    yield f"### {entry['title']}\n"
    yield f"{where}\n"
    if "text" in entry:
        yield f"{entry['text']}\n"
    yield "| field | type | |\n| --- | --- | --- |"
    names = RECORDS[entry["record"]]()
    for field, kind in names.items():
        meaning = entry["fields"][field]
        if not kind:
            kind, _, meaning = meaning.removeprefix("(").partition(") ")
        yield f"| `{field}` | {_linked(kind, titles)} | {meaning} |".replace("\n", " ")
    yield ""


def _linked(kind: str, titles: Mapping[str, str]) -> str:
    bare = kind.removeprefix("list of ").removesuffix(" or null")
    if bare not in titles:
        return kind.replace("|", "or")
    anchor = titles[bare].lower().replace(": ", "-").replace(" ", "-")
    return kind.replace(bare, f"[{bare}](#{anchor})")


# ---- where the names come from


def named(path: str) -> Any:
    """`package.module:Name`, or `package.module:NAME.key` of a mapping."""
    module, _, name = path.partition(":")
    name, _, key = name.partition(".")
    value = getattr(import_module(module), name)
    return value[key] if key else value


def typed(path: str) -> Callable[[], Names]:
    """A class: pydantic, msgspec, dataclass or named tuple."""

    def names() -> Names:
        kind = named(path)
        is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
        schema = msgspec.json.schema(kind) if is_struct else TypeAdapter(kind).json_schema(mode="serialization")
        schema = _resolved(schema, schema)
        if schema["type"] == "array":  # a struct that is written as an array
            kinds = schema["prefixItems"]
            return {
                field.name: _kind(one, schema) for field, one in zip(msgspec.structs.fields(kind), kinds, strict=True)
            }
        return {name: _kind(one, schema) for name, one in schema["properties"].items()}

    return names


def sealed(path: str) -> Callable[[], Names]:
    """A kind of `Record`: its fields as the JSON names them, `format` before them. The types stand with the meanings,
    as of all sealed records."""

    def names() -> Names:
        kind = named(path)
        attributes = [field.name for field in dataclasses.fields(kind)]
        return dict.fromkeys(["format", *(kind.RENAMED.get(name, name) for name in attributes)], "")

    return names


def _resolved(schema: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return {**whole["$defs"][name], "$defs": whole["$defs"]} if name else schema


def _kind(schema: dict[str, Any], whole: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema or "oneOf" in schema:
        kinds = [_kind(one, whole) for one in schema.get("anyOf") or schema["oneOf"]]
        return " or ".join(dict.fromkeys(kind for kind in sorted(kinds, key=lambda kind: kind == "null")))
    if schema.get("pattern") == "^[0-9a-f]{64}$":
        return "sha256"
    kind = schema.get("type", "any")
    if kind == "array" and isinstance(schema.get("items"), dict):
        return f"list of {_kind(schema['items'], whole)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'], whole)}"
    return str(kind)


def columns(path: str, **arguments: Any) -> Callable[[], Names]:
    """An Arrow schema, or a function that makes one."""

    def names() -> Names:
        found = named(path)
        schema = found if isinstance(found, pa.Schema) else found(**arguments)
        return {
            field.name: f"{field.type}{' or null' if field.nullable and _says_null(schema) else ''}" for field in schema
        }

    return names


def _says_null(schema: pa.Schema) -> bool:
    """Whether it tells columns that may be null from those that may not."""
    return not all(field.nullable for field in schema)


def written(path: str, function: str, *more: str) -> Callable[[], Names]:
    """JSON that the code writes as it stands: the keys of the dicts in the source of `function`, `more` beside them.

    A `seal` adds its own field, which the page describes once.
    """

    def names() -> Names:
        tree: ast.AST = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        for name in function.split("."):
            inner = [node for node in ast.walk(tree) if getattr(node, "name", None) == name]
            if not inner:
                raise LookupError(f"docs/hooks/formats.py: {path} has no {function} that writes a record")
            tree = inner[0]
        found = [
            key.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Dict)
            for key in node.keys
            if isinstance(key, ast.Constant)
        ]
        return dict.fromkeys([*more, *found], "")

    return names


TABLES = "bamba_data.format.tables:SCHEMAS"
PLAN_ENTRIES = "loader.order.plan_entries"
INDEX = "loader.text.index_format"
FORMAT = "bamba_data.format"

RECORDS: Mapping[str, Callable[[], Names]] = {
    "shard": columns("bamba_data.format.shard:schema", dtype=np.dtype("<u2")),
    "version": sealed(f"{FORMAT}.versions:Version"),
    "mark": sealed(f"{FORMAT}.version_marks:Mark"),
    "tag": sealed(f"{FORMAT}.version_marks:Tag"),
    **{
        name: typed(f"{FORMAT}.manifest{'' if name == 'Manifest' else '_entries'}:{name}")
        for name in (
            *("Manifest", "TokenizerEntry", "BackendEntry", "CertificateEntry", "SoftwareEntry", "SourceEntry"),
            *("IdentityEntry", "Account", "Tables", "TableEntry", "DerivedEntry", "ParentEntry"),
        )
    },
    **{name: columns(f"{TABLES}.{name}") for name in ("files", "shards", "blocks", "candidates", "dead_letters")},
    "elsewhere": columns("bamba_data.format.tables:ELSEWHERE"),
    "masks": columns("bamba_data.format.tables:MASKS"),
    "letters": columns("pipelines.dataset_build.part_writer:LETTERS"),
    "lock": written("bamba_data/locking/lock.py", "Lock.to_json"),
    "pointer": sealed(f"{FORMAT}.dataset:Pointer"),
    "plan_of_units": sealed(f"{FORMAT}.plan_records:Planned"),
    "built": sealed(f"{FORMAT}.plan_records:Built"),
    "unit": sealed(f"{FORMAT}.unit_records:UnitRecord"),
    "part": sealed(f"{FORMAT}.unit_records:PartRecord"),
    **{
        name: typed(f"{FORMAT}.unit_records:{name}")
        for name in ("Part", "StagedShard", "StagedLetters", "Place", "ReadInput")
    },
    "met": written("pipelines/dataset_build/reuse.py", "note"),
    "Status": typed("pipelines.observe.runs:Status"),
    "Point": typed("pipelines.observe.runs:Point"),
    "event": written("pipelines/observe/run_log.py", "RunLog.event"),
    "lease": sealed(f"{FORMAT}.fence:Lease"),
    "mirror": written("pipelines/dataset_build/mirror_file.py", "write_mirror"),
    "mirrored": sealed("pipelines.dataset_build.mirror_file:MirroredFile"),
    "Learned": typed("pipelines.dataset_build.mirror_file:Learned"),
    "export": sealed("bamba_data.exchange.export_record:ExportRecord"),
    "state": written("loader/order/resume.py", "Cursor.to_json"),
    "MixPlan": typed("loader.order.plan:MixPlan"),
    **{
        name: typed(f"{PLAN_ENTRIES}:{name}") for name in ("Header", "Mix", "Ramp", "Cap", "Skip", "Quarantine", "Note")
    },
    **{name: typed(f"{INDEX}:{name}") for name in ("Index", "IndexedFile", "Table")},
    "index_blocks": columns(f"{INDEX}:TABLE"),
    "index_part": columns(f"{INDEX}:PART"),
    "commit": written("trainer/train.py", "Run.about", "format", "step", "world_size", "index"),
    "tensor_index": written("trainer/checkpoint/dcp_storage.py", "tensor_entry"),
    "run_mark": written("trainer/checkpoint/marks.py", "set_mark"),
    "run_lease": written("trainer/checkpoint/lease.py", "Lease._record"),
    "metrics": written("trainer/observe/metrics.py", "Metrics.line"),
}
