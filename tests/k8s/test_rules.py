"""Our manifests are as an operator wants them, and each rule finds the mistake that it is for."""

import copy
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.k8s import rules
from tests.k8s.rendered import JOBS, RENDERED
from tests.k8s.schema import K8S, Object, faults, pods, render

PODS_OF_OURS = [name for name in JOBS if any(list(pods(one)) for one in RENDERED[name])]

Rule = Callable[[list[Object]], Iterator[str]]


def budgets(objects: list[Object]) -> Iterator[str]:
    name = next((name for name, found in RENDERED.items() if found is objects), "")
    # `tokenize` is what the others are made of and is not applied itself.
    others = [one for other in JOBS if other not in (name, "jobs/tokenize") for one in RENDERED[other]]
    return rules.heads_without_a_budget_of_their_own(objects, others if name != "jobs/tokenize" else [])


RULES: list[Rule] = [
    rules.live_jobs_that_can_be_ended,
    budgets,
    rules.jobs_that_end_after_few_lost_nodes,
    rules.openings_to_nobody_in_particular,
    rules.secrets_that_are_not_needed,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("folder", RENDERED)
def test_an_operator_finds_nothing_to_refuse(folder: str, rule: Rule) -> None:
    assert list(rule(RENDERED[folder])) == []


# ---- a planted mistake is found


def of_kind(objects: list[Object], kind: str, name: str = "") -> Object:
    return next(one for one in objects if one["kind"] == kind and name in one["metadata"]["name"])


def with_a_submitter(objects: list[Object]) -> None:
    of_kind(objects, "RayJob")["spec"]["submissionMode"] = "K8sJobMode"


def with_the_default_mode(objects: list[Object]) -> None:
    del of_kind(objects, "RayJob")["spec"]["submissionMode"]


def with_a_sidecar_that_submits(objects: list[Object]) -> None:
    of_kind(objects, "RayJob")["spec"]["submissionMode"] = "SidecarMode"


def with_a_template_of_nobody(objects: list[Object]) -> None:
    of_kind(objects, "RayJob")["spec"]["submitterPodTemplate"] = {}


def without_a_budget(objects: list[Object]) -> None:
    objects.remove(of_kind(objects, "PodDisruptionBudget"))


def with_a_budget_over_all_heads(objects: list[Object]) -> None:
    budget = of_kind(objects, "PodDisruptionBudget")["spec"]
    del budget["selector"]["matchLabels"]["app.kubernetes.io/instance"]


def with_a_budget_that_keeps_none(objects: list[Object]) -> None:
    budget = of_kind(objects, "PodDisruptionBudget")["spec"]
    del budget["minAvailable"]
    budget["maxUnavailable"] = 0


def with_a_budget_of_another_job(objects: list[Object]) -> None:
    budget = of_kind(objects, "PodDisruptionBudget")["spec"]
    budget["selector"]["matchLabels"]["app.kubernetes.io/instance"] = "cosmopedia"


def with_one_count_of_failures(objects: list[Object]) -> None:
    """As it was: three lost nodes, and 16 are used up."""
    spec = of_kind(objects, "Job")["spec"]
    del spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]
    spec["backoffLimit"] = 16


def with_disruptions_counted_in_one(objects: list[Object]) -> None:
    with_one_count_of_failures(objects)
    del of_kind(objects, "Job")["spec"]["podFailurePolicy"]


def with_failed_indexes_left_behind(objects: list[Object]) -> None:
    del of_kind(objects, "Job")["spec"]["maxFailedIndexes"]


def with_kuberay_in_any_namespace(objects: list[Object]) -> None:
    of_kind(objects, "NetworkPolicy", "from-kuberay")["spec"]["ingress"][0]["from"][0]["namespaceSelector"] = {}


def with_every_pod_of_a_namespace(objects: list[Object]) -> None:
    del of_kind(objects, "NetworkPolicy", "from-prometheus")["spec"]["ingress"][0]["from"][0]["podSelector"]


def with_an_opening_to_all(objects: list[Object]) -> None:
    del of_kind(objects, "NetworkPolicy", "from-prometheus")["spec"]["ingress"][0]["from"]


def with_dns_anywhere(objects: list[Object]) -> None:
    of_kind(objects, "NetworkPolicy", "to-dns")["spec"]["egress"][0]["to"] = [{"namespaceSelector": {}}]


def with_keys_for_the_log(objects: list[Object]) -> None:
    head = of_kind(objects, "RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    head["initContainers"][0]["envFrom"] = [{"secretRef": {"name": "bamba-s3"}}]


def with_keys_for_the_autoscaler(objects: list[Object]) -> None:
    options = of_kind(objects, "RayJob")["spec"]["rayClusterSpec"]["autoscalerOptions"]
    options["envFrom"] = [{"secretRef": {"name": "bamba-hub"}}]


PLANTED: list[tuple[str, Callable[[list[Object]], None], Rule]] = [
    *(("jobs/demo", mistake, rules.live_jobs_that_can_be_ended)
      for mistake in (with_a_submitter, with_the_default_mode, with_a_sidecar_that_submits, with_a_template_of_nobody)),
    *(("jobs/demo", mistake, budgets) for mistake in (
        without_a_budget, with_a_budget_over_all_heads, with_a_budget_that_keeps_none, with_a_budget_of_another_job)),
    ("jobs/interactive", without_a_budget, budgets),
    *(("jobs/pretrain-torchrun", mistake, rules.jobs_that_end_after_few_lost_nodes) for mistake in (
        with_one_count_of_failures, with_disruptions_counted_in_one, with_failed_indexes_left_behind)),
    *(("overlays/openshift", mistake, rules.openings_to_nobody_in_particular) for mistake in (
        with_kuberay_in_any_namespace, with_every_pod_of_a_namespace, with_an_opening_to_all, with_dns_anywhere)),
    *(("jobs/demo", mistake, rules.secrets_that_are_not_needed)
      for mistake in (with_keys_for_the_log, with_keys_for_the_autoscaler)),
]  # fmt: skip


@pytest.mark.parametrize(("folder", "mistake", "rule"), PLANTED, ids=[f"{p[0]}-{p[1].__name__}" for p in PLANTED])
def test_a_planted_mistake_is_found(folder: str, mistake: Callable[[list[Object]], None], rule: Rule) -> None:
    planted = copy.deepcopy(RENDERED[folder])
    mistake(planted)
    assert list(rule(planted)) != []


def test_a_lost_node_costs_what_kubernetes_counts_for_it() -> None:
    job = copy.deepcopy(of_kind(RENDERED["jobs/pretrain-torchrun"], "Job"))
    assert rules.lost_nodes_survived(job) == 16
    del job["spec"]["backoffLimitPerIndex"]
    job["spec"]["backoffLimit"] = 16
    assert rules.lost_nodes_survived(job) == 2  # each takes seven of the 16
    del job["spec"]["podFailurePolicy"]
    assert rules.lost_nodes_survived(job) == 2


# ---- components


def with_component(folder: Path, job: str, component: str) -> list[Object]:
    mine = shutil.copytree(K8S, folder / "k8s") / "mine"
    mine.mkdir()
    lines = {"resources": [f"../{job}"], "components": [f"../components/{component}"]}
    (mine / "kustomization.yaml").write_text(yaml.safe_dump(lines))
    return render(mine)


@pytest.mark.parametrize("job", PODS_OF_OURS)
def test_a_ca_of_one_s_own_reaches_every_pod_of_every_job(job: str, tmp_path: Path) -> None:
    assert list(rules.pods_without_the_ca(with_component(tmp_path, job, "custom-ca"))) == []


def test_a_pod_that_the_ca_does_not_reach_is_found(tmp_path: Path) -> None:
    for job in PODS_OF_OURS:
        assert list(rules.pods_without_the_ca(RENDERED[job])) != [], job
    without_a_variable = with_component(tmp_path, "jobs/preflight", "custom-ca")
    of_kind(without_a_variable, "Job")["spec"]["template"]["spec"]["containers"][0]["env"].pop()
    assert list(rules.pods_without_the_ca(without_a_variable)) == ["pod: no REQUESTS_CA_BUNDLE"]


@pytest.mark.parametrize("job", PODS_OF_OURS)
def test_a_registry_that_asks_who_you_are_is_told_by_every_pod(job: str, tmp_path: Path) -> None:
    for one in with_component(tmp_path, job, "pull-secret"):
        for where, template in pods(one):
            assert template["spec"]["imagePullSecrets"] == [{"name": "bamba-pull"}], where


@pytest.mark.parametrize("job", ["jobs/demo", "jobs/interactive", "jobs/pretrain-torchrun", "jobs/preflight"])
def test_batch_work_gives_way_whatever_kind_of_job_it_is(job: str, tmp_path: Path) -> None:
    for one in with_component(tmp_path, job, "priority"):
        for where, template in pods(one):
            # A head that gives way takes the driver of the whole job with it.
            assert ("priorityClassName" in template["spec"]) == (where != "head"), where


#: Stores in a cluster, and the ports of their pods, which a policy sees after the service: NooBaa's deploy/internal/
#: service-s3.yaml, Rook's pkg/operator/ceph/object (rgwPortInternalPort, securePort), MinIO's default.
STORES = {"store-odf": {6001, 6443, 8080, 443, 8443}, "store-minio": {9000}}


@pytest.mark.parametrize("store", STORES)
def test_a_store_in_the_cluster_is_reached_by_name_and_port_and_nothing_else_is_opened(
    store: str, tmp_path: Path
) -> None:
    before = {one["metadata"]["name"] for one in RENDERED["overlays/openshift"]}
    objects = with_component(tmp_path, "overlays/openshift", store)
    policy = of_kind(objects, "NetworkPolicy", store)
    assert {one["metadata"]["name"] for one in objects} - before == {policy["metadata"]["name"]}
    assert faults(policy) == [] and list(rules.openings_to_nobody_in_particular(objects)) == []
    (rule,) = policy["spec"]["egress"]
    assert {port["port"] for port in rule["ports"]} == STORES[store]
    assert policy["spec"]["policyTypes"] == ["Egress"]


# ---- the log of a job


def job_log(job: str) -> Object:
    spec = of_kind(RENDERED[f"jobs/{job}"], "RayJob")["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (sidecar,) = spec["initContainers"]
    return sidecar  # type: ignore[no-any-return]


def test_the_log_of_the_driver_is_that_of_a_container_also_after_the_head_began_anew(tmp_path: Path) -> None:
    """The sidecar's own script, over folders as Ray makes them: a session, then another at the same link."""
    sidecar = job_log("demo")
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["args"] == job_log("pretrain")["args"]
    script = sidecar["args"][0].replace("/tmp/ray", str(tmp_path))
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen([*sidecar["command"], script], stdout=said, start_new_session=True)
        try:
            for number in ("1", "2"):
                logs = tmp_path / f"session_{number}" / "logs"
                logs.mkdir(parents=True)
                link = tmp_path / "fresh"
                link.symlink_to(logs.parent)
                link.rename(tmp_path / "session_latest")
                (logs / "job-driver-demo-x5k2f.log").write_text(f'{{"attempt": {number}}}\n')
                until(lambda number=number: f'"attempt": {number}' in (tmp_path / "said").read_text())
        finally:
            process.terminate()
            assert process.wait(30) == 0
    assert (tmp_path / "said").read_text() == '{"attempt": 1}\n{"attempt": 2}\n'


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
