"""A minute of training on a CPU, killed on the way and resumed on two ranks.

The same journey to read and to change is examples/train_kill_resume.py; this command draws the losses of both parts
over each other, and is in the wheel.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bamba_data.errors import Unfinished, UserError
from bamba_data.format.dataset import open_dataset

from .config import load_recipe
from .observe.loss_curve import draw_losses, loss_parts
from .observe.messages import say

FEW_DOCUMENTS = 2000


def train_kill_resume(dataset: str, out: Path, ranks: int) -> int:
    """Train the recipe tiny-cpu, kill it half-way, go on with `ranks` ranks, draw the loss.

    Args:
        dataset: Of the tokenizer that ships with us.
        out: A new folder; `UserError` if there is something.

    Returns:
        0, or the exit code of the part that failed, which has said why.
    """
    if out.exists():
        raise UserError(f"{out} is there already: name a new folder, so that training begins at step 0")
    steps = load_recipe("tiny-cpu").schedule.steps
    run = [
        "-m",
        "bamba.trainer",
        "--recipe",
        "tiny-cpu",
        "--data",
        dataset,
        "--out",
        str(out),
        "--set",
        "log.every_steps=1",
        "--set",
        f"data.holdout={_holdout(dataset)}",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen([sys.executable, *run], env=env, start_new_session=True)
    try:
        while first.poll() is None and _last_step(out) < steps // 2 + 3:
            time.sleep(0.2)
    finally:  # after so many steps, or because somebody pressed Ctrl-C
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
    if first.wait() != -signal.SIGKILL:
        return first.returncode or Unfinished.exit_code
    say(f"\nkilled after step {_last_step(out)}; going on with {ranks} ranks\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    second = subprocess.run([*torchrun, *run], env=env, check=False)
    if second.returncode:
        return second.returncode
    parts = loss_parts(out)
    draw_losses(parts, out / "loss.png")
    first_loss, last_loss = parts[0][0][1], parts[-1][-1][1]
    say(f"\nloss {first_loss:.2f} -> {last_loss:.2f} in {steps} steps; the curve of both parts: {out / 'loss.png'}")
    return 0


def _holdout(dataset: str) -> float:
    """Of so few documents as the demo has, a share that is a few of them."""
    documents = sum(source.account.kept for source in open_dataset(dataset).manifest.sources)
    return 0.05 if documents < FEW_DOCUMENTS else 0.005


def _last_step(out: Path) -> int:
    return max((step for part in loss_parts(out) for step, _ in part), default=0)
