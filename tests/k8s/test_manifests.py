"""Every manifest renders, is valid to the last field, and keeps to what a restricted namespace allows."""

import copy
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from pipelines import cli, pretrain
from pipelines.cli.options import load_recipe
from tests.k8s.rendered import RENDERED
from tests.k8s.schema import K8S, Object, containers, faults, pods, render
from trainer.tasks.suites import suite_of

JOBS = sorted(path.parent for path in K8S.glob("jobs/*/kustomization.yaml"))
OVERLAYS = sorted(path.parent for path in K8S.glob("overlays/*/kustomization.yaml"))
COMPONENTS = sorted(path.parent for path in K8S.glob("components/*/kustomization.yaml"))
OBJECTS = [
    pytest.param(one, id=f"{folder}-{one['kind']}-{one['metadata']['name']}")
    for folder, found in RENDERED.items()
    for one in found
]
OF_PODS = [param for param in OBJECTS if list(pods(param.values[0]))]  # type: ignore[arg-type]


@pytest.mark.parametrize("one", OBJECTS)
def test_a_manifest_is_valid_to_the_last_field(one: Object) -> None:
    assert faults(one) == []


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda path: path.name)
def test_a_component_goes_with_every_job_and_with_the_base(component: Path, tmp_path: Path) -> None:
    tree = shutil.copytree(K8S, tmp_path / "k8s")
    for number, resource in enumerate(["base", *(f"jobs/{job.name}" for job in JOBS)]):
        mine = tree / f"mine-{number}"
        mine.mkdir()
        lines = {"resources": [f"../{resource}"], "components": [f"../components/{component.name}"]}
        (mine / "kustomization.yaml").write_text(yaml.safe_dump(lines))
        if component.name == "kubernetes" and resource != "base":
            continue  # it brings the namespace: for the base alone
        for one in render(mine):
            assert faults(one) == [], f"{resource} with {component.name}"


# ---- a typo is found


def edited(one: Object, path: str, value: Any) -> Object:
    """A copy with one field set, or with the last part of its path renamed where `value` is None."""
    made = copy.deepcopy(one)
    place: Any = made
    *folders, last = path.split(".")
    for part in folders:
        place = place[int(part) if isinstance(place, list) else part]
    if value is None:
        place[last[:-2] + last[-1] + last[-2]] = place.pop(last)
    else:
        place[last] = value
    return made


HEAD = "spec.rayClusterSpec.headGroupSpec.template.spec.containers.0"
TYPOS = [
    ("jobs/demo", "RayJob", "spec.entrypoint", None),
    ("jobs/demo", "RayJob", "spec.backoffLimit", "three"),
    ("jobs/demo", "RayJob", "spec.rayClusterSpec.authOptions.mode", "tokens"),
    ("jobs/demo", "RayJob", "spec.rayClusterSpec.workerGroupSpecs.0.maxReplicas", "2"),
    ("jobs/demo", "RayJob", f"{HEAD}.imagePullPolcy", "Always"),
    ("jobs/demo", "RayJob", f"{HEAD}.securityContext.readOnlyRootFilesystem", None),
    ("jobs/demo", "RayJob", f"{HEAD}.resources.limits", None),
    ("jobs/interactive", "RayCluster", "spec.headGroupSpec.rayStartParams", None),
    ("jobs/interactive", "RayCluster", "spec.rayVerison", "2.60.0"),
    ("jobs/preflight", "Job", "spec.backoffLimit", None),
    ("jobs/preflight", "Job", "spec.template.spec.containers.0.securityContext.capabilities.drop", "ALL"),
    ("base", "NetworkPolicy", "spec.policyTypes", None),
    ("base", "Role", "rules", None),
    ("base", "PodMonitor", "spec.podMetricsEndpoints", None),
    ("base", "PrometheusRule", "spec.groups.0.rules.0.annotations", ["x"]),
    ("jobs/demo", "PodDisruptionBudget", "spec.minAvailable", None),
]


@pytest.mark.parametrize(("folder", "kind", "path", "value"), TYPOS, ids=[f"{t[1]}-{t[2]}" for t in TYPOS])
def test_a_planted_typo_is_found(folder: str, kind: str, path: str, value: Any) -> None:
    one = next(one for one in RENDERED[folder] if one["kind"] == kind)
    assert faults(one) == []
    assert faults(edited(one, path, value)) != []


def test_a_typo_in_a_kustomization_is_found(tmp_path: Path) -> None:
    tree = shutil.copytree(K8S, tmp_path / "k8s")
    path = tree / "jobs" / "demo" / "kustomization.yaml"
    path.write_text(path.read_text().replace("resources:", "resuorces:"))
    with pytest.raises(ValueError, match="resuorces"):
        render(path.parent)


# ---- what a restricted namespace allows, and our own rules on top


@pytest.mark.parametrize("one", OF_PODS)
def test_no_pod_asks_for_more_than_the_restricted_standard_allows(one: Object) -> None:
    for where, template in pods(one):
        spec = template["spec"]
        assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}, where
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & spec.keys()
        assert all({"emptyDir", "configMap", "secret"} & volume.keys() for volume in spec["volumes"])
    for where, container in containers(one):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, where
        assert not any("hostPort" in port for port in container.get("ports", []))


@pytest.mark.parametrize("one", OF_PODS)
def test_no_pod_has_a_token_of_the_api_but_the_head_whose_autoscaler_needs_it(one: Object) -> None:
    for where, template in pods(one):
        has_token = template["spec"].get("automountServiceAccountToken", True)
        assert has_token == (where == "head"), where


@pytest.mark.parametrize("one", OF_PODS)
def test_every_container_can_write_to_tmp_and_its_home_and_says_what_it_needs(one: Object) -> None:
    for where, container in containers(one):
        assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]], where
        assert {"name": "HOME", "value": "/tmp/home"} in container["env"], where
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), where
        assert container["resources"]["limits"]["memory"], where
    for where, template in pods(one):
        assert all("sizeLimit" in v["emptyDir"] for v in template["spec"]["volumes"] if "emptyDir" in v), where
        assert template["metadata"]["labels"]["app.kubernetes.io/part-of"] == "bamba-data", where


@pytest.mark.parametrize("one", OF_PODS)
def test_images_are_named_by_digest_and_secrets_by_reference(one: Object) -> None:
    for where, container in containers(one):
        if where != "autoscaler":  # KubeRay takes the image of the head
            assert re.search(r"@sha256:[0-9a-f]{64}$", container["image"]), where
        for variable in container["env"]:
            assert "valueFrom" in variable or not re.search("KEY|TOKEN|SECRET|PASSWORD", variable["name"]), where
    assert not [one for found in RENDERED.values() for one in found if one["kind"] == "Secret"]


# ---- what KubeRay asks beyond its schema


RAY = [param for param in OF_PODS if param.values[0]["kind"] in ("RayJob", "RayCluster")]  # type: ignore[index,call-overload]


@pytest.mark.parametrize("one", RAY)
def test_the_version_is_the_image_s_and_the_job_server_asks_for_a_token(one: Object) -> None:
    cluster = one["spec"].get("rayClusterSpec", one["spec"])
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("one", RAY)
def test_memory_is_enough_for_the_units_that_a_worker_runs_at_once(one: Object) -> None:
    cluster = one["spec"].get("rayClusterSpec", one["spec"])
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        resources = group["template"]["spec"]["containers"][0]["resources"]
        cores = int(group["rayStartParams"]["num-cpus"])
        assert resources["requests"]["cpu"] == str(cores)
        assert resources["requests"]["memory"] == resources["limits"]["memory"]
        assert int(resources["limits"]["memory"].removesuffix("Gi")) >= 1.5 * cores + 2


@pytest.mark.parametrize("one", [param for param in RAY if param.values[0]["kind"] == "RayJob"])  # type: ignore[index,call-overload]
def test_a_job_s_entrypoint_is_a_command_of_ours_with_a_recipe_of_ours(one: Object) -> None:
    spec = one["spec"]
    words = shlex.split(spec["entrypoint"].replace("$BAMBA_OUT", "s3://bucket"))
    assert words[:2] == ["python", "-m"]
    if words[2] == "pipelines.pretrain":
        assert cli.run(pretrain.app, [*words[3:], "--help"]) == 0
        assert (K8S.parent / "trainer" / "recipes" / f"{words[words.index('--recipe') + 1]}.yaml").exists()
    elif words[2:5] == ["pipelines.cli", "model", "judge"]:
        assert suite_of(words[words.index("--suite") + 1]).tasks
        assert cli.run(cli.app, [*words[3:], "--help"]) == 0
    else:
        command = {"pipelines.tokenize": "build", "pipelines.download": "download"}[words[2]]
        assert load_recipe(words[3], None)[0].name
        assert cli.run(cli.app, [command, *words[3:], "--help"]) == 0
    assert spec["shutdownAfterJobFinishes"] is True and spec["entrypointNumCpus"] == 0
    assert spec["backoffLimit"] > 0  # safe: a `stop` verdict ends a retry at once


def test_a_job_in_a_queue_waits_for_it_and_does_not_scale_itself(tmp_path: Path) -> None:
    mine = shutil.copytree(K8S, tmp_path / "k8s") / "mine"
    mine.mkdir()
    lines = {"resources": ["../jobs/demo"], "components": ["../components/kueue"]}
    (mine / "kustomization.yaml").write_text(yaml.safe_dump(lines))
    job = next(one for one in render(mine) if one["kind"] == "RayJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert job["spec"]["suspend"] is True
    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is False  # Kueue refuses it otherwise


# ---- network, rights, monitoring


@pytest.mark.parametrize("overlay", [folder.name for folder in OVERLAYS])
def test_everything_is_denied_that_is_not_opened_by_name(overlay: str) -> None:
    policies = {
        one["metadata"]["name"]: one["spec"]
        for one in RENDERED[f"overlays/{overlay}"]
        if one["kind"] == "NetworkPolicy"
    }
    assert policies.pop("bamba-deny-all") == {
        "podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "bamba-data"}},
        "policyTypes": ["Ingress", "Egress"],
    }
    assert set(policies) == {
        "bamba-among-ourselves",
        "bamba-to-dns",
        "bamba-to-https",
        "bamba-head-to-api-server",
        "bamba-head-from-kuberay",
        "bamba-from-prometheus",
    }
    for name, spec in policies.items():
        for rule in spec.get("ingress", []) + spec.get("egress", []):
            assert rule.get("from") or rule.get("to"), f"{name} is open to everybody"
            assert rule.get("ports") or name == "bamba-among-ourselves", f"{name} opens every port"


def test_nobody_outside_reaches_the_dashboard() -> None:
    found = [one for folder in RENDERED.values() for one in folder]
    assert not [one for one in found if one["kind"] in ("Ingress", "Route")]
    services = [one["spec"] for one in found if one["kind"] == "Service"]
    assert all(spec.get("clusterIP") == "None" and "8265" not in str(spec["ports"]) for spec in services)
    for one in found:
        cluster = one.get("spec", {}).get("rayClusterSpec", one.get("spec", {}))
        head = cluster.get("headGroupSpec", {}) if isinstance(cluster, dict) else {}
        assert head.get("serviceType", "ClusterIP") == "ClusterIP" and not head.get("enableIngress")


def test_the_role_reads_no_secrets_and_runs_nothing_but_our_jobs() -> None:
    role = next(one for one in RENDERED["base"] if one["kind"] == "Role")
    changing = {
        (resource, verb)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if verb not in ("get", "list", "watch")
    }
    assert changing == {
        *(("rayjobs", verb) for verb in ("create", "patch", "delete")),
        ("pods/portforward", "create"),
    }
    assert not any({"*", "secrets", "pods/exec"} & set(rule["resources"]) for rule in role["rules"])


def known_metrics() -> set[str]:
    from pipelines.observe import prometheus

    labelled = {"retries_total", "source_tokens_total", "units"}
    return {f"ray_bamba_{n}" for n in (*(f"{c}_total" for c in prometheus.COUNTERS), *prometheus.GAUGES, *labelled)}


def test_alerts_and_dashboard_ask_for_metrics_that_we_export() -> None:
    rule = next(one for one in RENDERED["base"] if one["kind"] == "PrometheusRule")
    dashboard = json.loads((K8S / "base" / "dashboard.json").read_text())
    alerts = [alert for group in rule["spec"]["groups"] for alert in group["rules"]]
    queries = [alert["expr"] for alert in alerts]
    queries += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = set(re.findall(r"ray_bamba_\w+", " ".join(queries)))
    assert asked and asked <= known_metrics()


def test_every_alert_and_every_exit_code_has_its_line_in_the_runbook() -> None:
    rule = next(one for one in RENDERED["base"] if one["kind"] == "PrometheusRule")
    runbook = (K8S.parent / "docs" / "kubernetes.md").read_text()
    for group in rule["spec"]["groups"]:
        for alert in group["rules"]:
            assert alert["annotations"]["action"]
            assert f"| `{alert['alert']}` |" in runbook
    for code in (0, 2, 3, 4, 5):
        assert re.search(rf"^\| {code} \|", runbook, re.MULTILINE)
