"""Manifests as an API server would take them: rendered by kustomize, then every field held against the schemas."""

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

K8S = Path(__file__).parents[2] / "k8s"
SCHEMAS = Path(__file__).parent / "schemas"
KUBECTL = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or "kubectl"
VERSION = kubernetes_validate.latest_version()

Object = dict[str, Any]


def render(folder: Path) -> list[Object]:
    """What `kubectl apply -k FOLDER` would send."""
    done = subprocess.run([KUBECTL, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(done.stderr)
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def faults(one: Object) -> list[str]:
    """What is wrong with a manifest: unknown fields, wrong types, missing ones."""
    schema = _custom_schema(one["apiVersion"], one["kind"])
    if schema is None:
        try:
            kubernetes_validate.validate(one, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            return [f"{'.'.join(map(str, error.path))}: {error.message}"]
        return []
    body = {name: value for name, value in one.items() if name not in ("apiVersion", "kind", "metadata")}
    found = jsonschema.Draft202012Validator(schema).iter_errors(body)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


@functools.cache
def _custom_schema(api_version: str, kind: str) -> Object | None:
    """The schema of a custom kind, made strict; None for a kind of Kubernetes' own."""
    if (api_version, kind) == ("ray.io/v1", "RayCluster"):
        job = _custom_schema(api_version, "RayJob") or {}
        spec = job["properties"]["spec"]["properties"]["rayClusterSpec"]
        return {"type": "object", "properties": {"spec": spec}, "additionalProperties": False}
    path = SCHEMAS / f"{kind.lower()}-v1.schema.json"
    if not path.exists():
        return None
    schema = json.loads(path.read_text())
    for name in ("apiVersion", "kind", "metadata"):
        schema["properties"].pop(name, None)
    return _strict(schema)  # type: ignore[no-any-return]


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _strict(value) for name, value in schema.items()}
    if made.get("x-kubernetes-int-or-string") is True:
        made.pop("type", None)
        made.pop("format", None)
    fields = made.get("properties")
    if (
        isinstance(fields, dict)
        and isinstance(made.get("type"), str)
        and "additionalProperties" not in made
        and "x-kubernetes-preserve-unknown-fields" not in made
    ):
        made["additionalProperties"] = False
    return made


def pods(one: Object) -> Iterator[tuple[str, Object]]:
    """Every pod that comes of an object: where it stands in it, and its template."""
    spec = one.get("spec", {})
    if one["kind"] in ("Job", "Deployment"):
        yield "pod", spec["template"]
    if one["kind"] == "RayJob" and "submitterPodTemplate" in spec:
        yield "submitter", spec["submitterPodTemplate"]
    cluster = spec.get("rayClusterSpec", spec) if one["kind"] in ("RayJob", "RayCluster") else {}
    if "headGroupSpec" in cluster:
        yield "head", cluster["headGroupSpec"]["template"]
    for group in cluster.get("workerGroupSpecs", []):
        yield f"workers {group['groupName']}", group["template"]


def containers(one: Object) -> Iterator[tuple[str, Object]]:
    """Every container that comes of an object, the autoscaler's options too."""
    for where, template in pods(one):
        for kind in ("initContainers", "containers"):
            for container in template["spec"].get(kind, []):
                yield f"{where}: {container['name']}", container
    cluster = one.get("spec", {}).get("rayClusterSpec", one.get("spec", {}))
    if one["kind"] in ("RayJob", "RayCluster") and "autoscalerOptions" in cluster:
        yield "autoscaler", cluster["autoscalerOptions"]
