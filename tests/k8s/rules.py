"""What an operator refuses in manifests that are valid: one function a rule, each gives what is wrong.

A rule is handed all objects of one rendered folder. Facts about KubeRay are of its source at v1.7.0
(ray-operator/controllers/ray), those about Jobs of Kubernetes' documentation.
"""

from collections.abc import Iterator

from tests.k8s.schema import Object, containers, pods

CA = "/etc/bamba-ca"
CA_VARIABLES = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
LEAST_LOST_NODES = 16


def live_jobs_that_can_be_ended(objects: list[Object]) -> Iterator[str]:
    """With a submitter (K8sJobMode, which is the default, or SidecarMode) KubeRay fails a job whose submitter ended and
    which works on 30 seconds later (checkSubmitterFinishedTimeoutAndUpdateStatusIfNeeded)."""
    for one in objects:
        if one["kind"] == "RayJob":
            mode = one["spec"].get("submissionMode", "K8sJobMode")
            if mode != "HTTPMode":
                yield f"{mode}: KubeRay calls a job Failed whose log was cut off"
            for field in ("submitterPodTemplate", "submitterConfig"):
                if field in one["spec"]:
                    yield f"{field}: no submitter is there in HTTPMode"


def heads_without_a_budget_of_their_own(objects: list[Object], others: list[Object]) -> Iterator[str]:
    """`others` are objects of other folders, which may run in the same namespace."""
    budgets = [one["spec"] for one in objects if one["kind"] == "PodDisruptionBudget"]
    for labels in heads(objects):
        mine = [budget for budget in budgets if selects(budget["selector"], labels)]
        if len(mine) != 1:
            yield f"{len(mine)} disruption budgets for a head"
        if any(budget.get("minAvailable") != 1 for budget in mine):
            # Kubernetes can count maxUnavailable only for kinds with a scale, which a RayCluster has not.
            yield "a budget that does not keep one head"
        if any(selects(budget["selector"], theirs) for budget in mine for theirs in heads(others)):
            yield "a budget that counts the head of another job, too"
    if budgets and not list(heads(objects)):
        yield "a budget without a head"


def heads(objects: list[Object]) -> Iterator[dict[str, str]]:
    """The labels of every head, with that which KubeRay puts on."""
    for one in objects:
        for where, template in pods(one):
            if where == "head":
                yield {**template["metadata"]["labels"], "ray.io/node-type": "head"}


def selects(selector: Object, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {})
    return bool(wanted) and wanted.items() <= labels.items()


def lost_nodes_survived(job: Object) -> int:
    """How many nodes an indexed Job may lose one after the other, where each takes all its pods down: the lost one by a
    disruption, the others by a failure."""
    spec = job["spec"]
    ignored = [
        condition["type"]
        for rule in spec.get("podFailurePolicy", {}).get("rules", [])
        if rule["action"] == "Ignore"
        for condition in rule.get("onPodConditions", [])
    ]
    failures_a_node = spec["parallelism"] - ("DisruptionTarget" in ignored)
    if "backoffLimitPerIndex" in spec:
        return int(spec["backoffLimitPerIndex"])
    return int(spec.get("backoffLimit", 6)) // failures_a_node


def jobs_that_end_after_few_lost_nodes(objects: list[Object]) -> Iterator[str]:
    for one in objects:
        if one["kind"] == "Job" and one["spec"].get("completionMode") == "Indexed":
            if (survived := lost_nodes_survived(one)) < LEAST_LOST_NODES:
                yield f"ends after {survived} lost nodes"
            if one["spec"].get("maxFailedIndexes") != 0:
                yield "goes on with an index that has failed for good, and waits for it forever"


def openings_to_nobody_in_particular(objects: list[Object]) -> Iterator[str]:
    """Who comes in is named by namespace and label; where we go, by namespace or address."""
    for one in objects:
        if one["kind"] != "NetworkPolicy":
            continue
        name, spec = one["metadata"]["name"], one["spec"]
        for rule in spec.get("ingress", []):
            for peer in rule.get("from", [{}]):
                is_ours = peer == {"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "bamba-data"}}}
                if not is_ours and not (peer.get("namespaceSelector") and peer.get("podSelector")):
                    yield f"{name}: lets in {peer or 'everybody'}"
        for rule in spec.get("egress", []):
            for peer in rule.get("to", [{}]):
                if not any(peer.get(kind) for kind in ("namespaceSelector", "podSelector", "ipBlock")):
                    yield f"{name}: goes to {peer or 'everywhere'}"
                if "namespaceSelector" in peer and not peer["namespaceSelector"]:
                    yield f"{name}: goes to every namespace"


def secrets_that_are_not_needed(objects: list[Object]) -> Iterator[str]:
    """Only what runs our code reads inputs and writes datasets."""
    ours = ("ray-head", "ray-worker", "trainer", "preflight")
    for one in objects:
        for where, container in containers(one):
            named = {source["secretRef"]["name"] for source in container.get("envFrom", []) if "secretRef" in source}
            if named and container.get("name") not in ours:
                yield f"{where} has {', '.join(sorted(named))}"


def pods_without_the_ca(objects: list[Object]) -> Iterator[str]:
    """Of a job with the component custom-ca."""
    for one in objects:
        for where, template in pods(one):
            spec, container = template["spec"], template["spec"]["containers"][0]
            volumes = {
                volume["name"] for volume in spec["volumes"] if volume.get("configMap", {}).get("name") == "bamba-ca"
            }
            mounts = {mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == CA}
            if not volumes & mounts:
                yield f"{where}: no file"
            values = {variable["name"]: variable.get("value", "") for variable in container["env"]}
            yield from (f"{where}: no {name}" for name in CA_VARIABLES if not values.get(name, "").startswith(f"{CA}/"))
