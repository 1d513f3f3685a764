"""All checks, on this machine and on every node of a cluster."""

import functools
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bamba_data.errors import BambaError
from bamba_data.format.layout import PREFLIGHT
from bamba_data.recipe import Recipe

from ..connection import join
from .create_race import judged_race_of_nodes, race_on_node
from .finding import Finding, judged, missing, ok
from .inputs import Mirror, inputs, transforms
from .machine import machine
from .network import network, urls_of
from .store_verbs import CONDITIONAL, store

SAME_CLUSTER = "the address of a running cluster, with the same Ray and Python here as there, and its token"
SAME_IMAGE = "the same image on every node; look at its log"


def check(
    recipe: Recipe, folder: Path, out: str, address: str | None = None, mirror: Mirror | None = None
) -> list[Finding]:
    """All findings, of every node too where the `address` of a cluster is given. `folder` is where relative paths of
    the recipe start, `out` the URL of the dataset, `mirror` what the build is to read in place of the hosts."""
    pinning, recipe = transforms(recipe, folder)
    findings = [replace(finding, where="here") for finding in pinning]
    findings += findings_here("here", recipe, folder, out, mirror)
    if address:
        try:
            findings += _on_every_node(recipe, folder, out, address, mirror)
        except BambaError as error:
            findings.append(replace(missing("cluster", str(error), SAME_CLUSTER), where="cluster"))
    return findings


def findings_here(
    where: str, recipe: Recipe, folder: Path, out: str, mirror: Mirror | None = None
) -> Iterator[Finding]:
    """Of this machine, which they call `where`."""
    reached = network(urls_of(recipe, mirror is not None))
    silent = {host for answer in reached if answer.finding.is_missing for host in answer.hosts}
    hosts = [answer.finding for answer in reached]
    for finding in (*machine(recipe), *hosts, *store(out), *inputs(recipe, folder, silent, mirror)):
        yield replace(finding, where=where)


def _on_every_node(recipe: Recipe, folder: Path, out: str, address: str, mirror: Mirror | None) -> Iterator[Finding]:
    try:
        import ray
    except ModuleNotFoundError:
        return  # which the findings of this machine tell

    join(address, functools.partial(ray.init, address=address, log_to_driver=False, logging_level="error"))
    try:
        nodes = _by_name([node for node in ray.nodes() if node["Alive"]])
        cores = sum(node["Resources"].get("CPU", 0) for node in nodes.values())
        summary = f"{len(nodes)} alive with {cores:,.0f} cores, Ray {ray.__version__}"
        yield replace(ok("nodes", summary), where="cluster")
        refs = {where: _task(node, _listed).remote(where, recipe, folder, out, mirror) for where, node in nodes.items()}
        for where, answer in _answers(refs):
            yield from [replace(answer, where=where)] if isinstance(answer, Finding) else answer
        if len(nodes) > 1:
            yield replace(_race(nodes, out), where="cluster")
    finally:
        ray.shutdown()


def _by_name(alive: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By their addresses; two on one machine by their ids, too."""
    addresses = [str(node["NodeManagerAddress"]) for node in alive]
    return {
        address if addresses.count(address) == 1 else f"{address}-{node['NodeID'][:6]}": node
        for address, node in zip(addresses, alive, strict=True)
    }


def _race(nodes: dict[str, Any], out: str) -> Finding:
    """Of all machines, one process each: on a file system that they share each has a cache of its own."""
    check, folder = "store: create if absent, on every node at once", f"{PREFLIGHT}/{secrets.token_hex(6)}-race"
    refs = {where: _task(node, race_on_node).remote(out, folder, where, len(nodes)) for where, node in nodes.items()}
    answers = dict(_answers(refs))
    if failed := [answer for answer in answers.values() if isinstance(answer, Finding)]:
        return replace(failed[0], check=check)
    try:
        return judged(check, *judged_race_of_nodes(out, folder, answers), CONDITIONAL)
    except (BambaError, OSError) as error:
        return missing(check, f"{type(error).__name__}: {error}", CONDITIONAL)


def _task(node: dict[str, Any], work: Any) -> Any:
    """`work` on this node and on no other."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(num_cpus=0, max_retries=0)(work).options(scheduling_strategy=here)


def _answers(refs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What each node's task gave, or a finding in its place."""
    import ray
    from ray.exceptions import RayError

    for where, ref in refs.items():
        try:
            yield where, ray.get(ref)
        except RayError as error:
            yield where, missing("node", f"{type(error).__name__}: the check did not run", SAME_IMAGE)


def _listed(where: str, recipe: Recipe, folder: Path, out: str, mirror: Mirror | None) -> list[Finding]:
    return list(findings_here(where, recipe, folder, out, mirror))
