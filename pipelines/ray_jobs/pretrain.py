"""The trainer on a Ray cluster: as many ranks as there is room for, and on with what is left when some are lost.

    python -m pipelines.pretrain --recipe bamba-9b-phase1 --data URL --out URL --ranks 64 --least 8 --gpu

Ray Train keeps the group: it places the ranks, notices a lost node, and starts the group anew, smaller or larger, on
what there is. Each rank is `python -m trainer`, the same command as under torchrun, told of its rank by variables. It
goes on from the newest whole checkpoint, and the order of the data does not depend on how many ranks there are.

Exit codes are the trainer's. After one of those that trying again cannot help (2, 3, 5), on whichever rank, no trainer
is started again; and as of a build, the verdict lies in --out, so that a scheduler's next try ends before it begins.
"""

import contextlib
import ctypes
import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bamba_data import canonical_json
from bamba_data.errors import BambaError, MissingPackage, Unfinished, UserError
from bamba_data.storage.local_disk import private_folder

from ..observe.logs import people_log
from ..observe.run_log import INTERVAL_SECONDS, recorded
from ..observe.runs import Run, verdict_of
from .connection import join, refuse_relative

#: How often Ray looks whether more ranks have room; each resize costs the steps since a checkpoint.
RESIZE_SECONDS = 300.0
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


class TrainingEnded(BambaError):
    """The trainer ended so on its ranks; what it said is in the log."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"the trainer ended with exit code {self.exit_code}"


def pretrain(
    recipe: str,
    resolved: dict[str, Any],
    out: str,
    data: list[str],
    overrides: list[str],
    ranks: int,
    least: int,
    gpu: bool,
    cores: float,
    address: str | None,
    restarts: int,
    retry_stopped: bool,
) -> None:
    """Train to the end of the recipe's schedule, on whatever ranks there are.

    Args:
        recipe: A training recipe's name, or the path of a YAML file: what the ranks are told.
        resolved: The same with `overrides`, as JSON: what names the run.
        out: The run's folder, which every machine must reach; so must `data`.
        ranks: At most; with fewer than `least` the group waits for more.
        gpu: Each rank gets a GPU, and so many CPU `cores`.
        address: Of the Ray cluster; None for RAY_ADDRESS, or one started here.
        restarts: Of the group, when ranks are lost; -1 for any number.
        retry_stopped: Go on although an earlier attempt gave up.

    Raises:
        UserError: `least` is more than `ranks`, such groups cannot share rows as the recipe says, or a place means
            nothing on other machines.
        TrainingEnded: the trainer ended with another exit code than 0.
    """
    if least > ranks:
        raise UserError(f"--least {least} is more than --ranks {ranks}")
    _check_shared(resolved["compute"]["context_ranks"], ranks, least)
    for option, place in [("--out", out), *(("--data", url) for url in data)]:
        refuse_relative(option, place)
    asked = canonical_json.digest([resolved, data])
    line = ["--out", out]
    line += [word for url in data for word in ("--data", url)]
    line += [word for change in overrides for word in ("--set", change)]
    run = Run(f"{resolved['name']}-{asked[:12]}", "pretrain", resolved["name"])
    with recorded(run, out, retry_stopped, sys.stdout.isatty(), INTERVAL_SECONDS) as log:
        log.phase("train", ranks=ranks, least=least)
        code = fit(RankCommand(line, recipe, _text_of(recipe)), RankGroup(ranks, least, gpu, cores, restarts), address)
        if code:
            raise TrainingEnded(code)


@dataclass(frozen=True)
class RankCommand:
    """What every rank is to run: arguments of `python -m trainer`, and the recipe, by name or as text."""

    line: list[str]
    recipe: str
    text: str | None  # of a recipe that is a file

    @contextlib.contextmanager
    def command(self) -> Iterator[list[str]]:
        """The command line of a rank, with its recipe's file while in the block."""
        with tempfile.TemporaryDirectory(prefix="bamba-recipe-") as folder:
            recipe = self.recipe
            if self.text is not None:
                file = Path(folder, Path(self.recipe).name)
                file.write_text(self.text, encoding="utf-8")
                recipe = str(file)
            yield [sys.executable, "-m", "bamba.trainer", "--recipe", recipe, *self.line]


def _check_shared(context_ranks: int, ranks: int, least: int) -> None:
    """Raises UserError where a group may be formed whose ranks cannot share rows as the recipe says."""
    if context_ranks == 1:
        return
    if ranks % context_ranks:
        raise UserError(
            f"--ranks {ranks} is no multiple of compute.context_ranks {context_ranks}: so many ranks share every row"
        )
    if least != ranks:
        raise UserError(
            f"--least {least} with --ranks {ranks}: Ray may form a group of any size between them, and "
            f"compute.context_ranks {context_ranks} wants a multiple of {context_ranks}. Leave --least out"
        )


def _text_of(recipe: str) -> str | None:
    """Of a recipe that is a file; None of one that ships with us."""
    return Path(recipe).read_text(encoding="utf-8") if recipe.endswith((".yaml", ".yml")) else None


class StopCode:
    """An actor: the exit code of a rank that ended with `stop`. The others die of its loss, which tells nothing, and so
    the group is started again; then every rank asks here first."""

    def __init__(self) -> None:
        self._code: int | None = None

    def keep(self, code: int) -> None:
        self._code = code

    def kept(self) -> int | None:
        return self._code


@dataclass(frozen=True)
class RankGroup:
    """How many ranks, and what each gets.

    Attributes:
        ranks: At most.
        least: Ranks with which it is worth going on; with fewer the group waits for more.
        gpu: A GPU for each.
        cores: CPU cores for each.
        restarts: Of the group, when ranks are lost; -1 is without end.
    """

    ranks: int
    least: int
    gpu: bool
    cores: float
    restarts: int


def fit(command: RankCommand, group: RankGroup, address: str | None) -> int:
    """Train in a group of ranks that Ray Train keeps alive, to the end. `address` is that of a running cluster;
    RAY_ADDRESS, or a Ray started here, without it.

    Returns:
        The trainer's exit code, when its group has ended for good.

    Raises:
        MissingPackage: Ray Train is not installed.
    """
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError
    except ModuleNotFoundError as missing:
        raise MissingPackage(missing.name or "Ray Train", "pretrain") from None

    joined = address or os.environ.get("RAY_ADDRESS")
    start = functools.partial(ray.init, address=joined, logging_level="error")
    join(joined, start) if joined else start()
    record = private_folder(Path(tempfile.gettempdir()) / f"bamba-ray-train-{os.geteuid()}")
    try:
        beside = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}  # the driver: lost with it, not before
        stop = ray.remote(num_cpus=0, label_selector=beside)(StopCode).remote()
        trainer = DataParallelTrainer(
            run_rank,
            train_loop_config={"command": asdict(command), "stop": stop},
            scaling_config=ScalingConfig(
                num_workers=group.ranks if group.least == group.ranks else (group.least, group.ranks),
                use_gpu=group.gpu,
                resources_per_worker={"CPU": group.cores, **({"GPU": 1} if group.gpu else {})},
                elastic_resize_monitor_interval_s=RESIZE_SECONDS,
            ),
            # Ray's own record of the group; the trainer's checkpoints lie in --out.
            run_config=RunConfig(storage_path=str(record), failure_config=FailureConfig(group.restarts)),
        )
        code = 0
        try:
            trainer.fit()
        except TrainingFailedError as error:
            people_log().error("%s", error)
            code = Unfinished.exit_code
        return ray.get(stop.kept.remote()) or code
    finally:
        ray.shutdown()


def run_rank(config: dict[str, Any]) -> None:
    """Runs in each worker of the group: the trainer as a process of its own, which dies with the worker. Returns when
    the training has ended for good."""
    import ray
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    context = ray.train.get_context()
    # Where the others reach rank 0: the address that Ray knows its node by.
    mine = ray.util.get_node_ip_address(), _free_port(), ray.get(config["stop"].kept.remote())
    host, port, stopped = broadcast_from_rank_zero(mine)
    if stopped is not None:
        return
    # Ray shows a rank its own GPU alone, which then is number 0; or, told not to
    # (RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES), all of the node's.
    sees_one = os.environ.get("CUDA_VISIBLE_DEVICES", "").count(",") == 0
    env = {
        **os.environ,
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": "0" if sees_one else str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
    }
    with RankCommand(**config["command"]).command() as command:
        code = subprocess.run(command, env=env, preexec_fn=_die_with_parent, check=False).returncode
    if verdict_of(code) == "stop":
        ray.get(config["stop"].keep.remote(code))
    elif code != 0:
        raise RuntimeError(f"the trainer of rank {context.get_world_rank()} ended with {code}; the group starts again")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """A worker that is killed must not leave a rank behind that holds its GPU and its place in the group."""
    if sys.platform == "linux":  # elsewhere it ends at its next word with the group
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
