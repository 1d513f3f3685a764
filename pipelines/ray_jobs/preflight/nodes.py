"""All checks, on this machine and on every node of a cluster."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bamba_data.recipe import Recipe

from .finding import Finding, missing, ok
from .inputs import inputs
from .machine import machine
from .network import network
from .store_verbs import store


def check(recipe: Recipe, folder: Path, out: str, address: str | None = None) -> list[Finding]:
    """All findings, of every node too where the `address` of a cluster is given. `folder` is where relative paths of
    the recipe start, `out` the URL of the dataset."""
    findings = list(findings_here("here", recipe, folder, out))
    if address:
        findings += _on_every_node(recipe, folder, out, address)
    return findings


def findings_here(where: str, recipe: Recipe, folder: Path, out: str) -> Iterator[Finding]:
    """Of this machine, which they call `where`."""
    reached = network(recipe)
    silent = {host for answer in reached if answer.finding.is_missing for host in answer.hosts}
    hosts = [answer.finding for answer in reached]
    for finding in (*machine(recipe), *hosts, *store(out), *inputs(recipe, folder, silent)):
        yield replace(finding, where=where)


def _on_every_node(recipe: Recipe, folder: Path, out: str, address: str) -> Iterator[Finding]:
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address=address, log_to_driver=False, logging_level="error")
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        cores = sum(node["Resources"].get("CPU", 0) for node in nodes)
        summary = f"{len(nodes)} alive with {cores:,.0f} cores, Ray {ray.__version__}"
        yield replace(ok("nodes", summary), where="cluster")
        task = ray.remote(num_cpus=0, max_retries=0)(_listed)
        refs = {}
        for node in nodes:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            where = str(node["NodeManagerAddress"])
            refs[where] = task.options(scheduling_strategy=here).remote(where, recipe, folder, out)
        for where, ref in refs.items():
            try:
                yield from ray.get(ref)
            except RayError as error:
                detail = f"{type(error).__name__}: the check did not run"
                yield replace(missing("node", detail, "the same image on every node; look at its log"), where=where)
    finally:
        ray.shutdown()


def _listed(where: str, recipe: Recipe, folder: Path, out: str) -> list[Finding]:
    return list(findings_here(where, recipe, folder, out))
