"""Train on a CPU, kill the process half way, and go on with two ranks: no step is lost, none learns other rows.

    python examples/train_kill_resume.py demo-dataset training-run

The bundled trainer puts the model, the optimizer, and the loader's place and plan into one commit. A kill costs the
steps since the last one: they are done again, on the same rows. Any number of ranks loads it, by the same command. A
third argument says how many steps in all. (`python -m trainer.demo` does the same, and draws the curve.)

Prints what the trainer says, the losses of steps that were done twice, and the first and last loss.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def steps_of(run: Path) -> list[dict[str, Any]]:
    """What the run wrote down of its steps: a line of JSON each. A process that was killed may leave half a line."""
    file = run / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if line.get("loss") is not None]


def main(url: str = "demo-dataset", out: str = "training-run", steps: str = "80") -> None:
    run, half = Path(out), int(steps) // 2
    command = ["-m", "trainer", "--recipe", "tiny-cpu", "--data", url, "--out", out]
    for change in (f"schedule.steps={steps}", f"checkpoints.every_steps={half // 2}", "log.every_steps=1"):
        command += ["--set", change]

    first = subprocess.Popen([sys.executable, *command], start_new_session=True)
    try:
        while first.poll() is None and len(steps_of(run)) <= half:
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
    if first.wait() != -signal.SIGKILL:
        sys.exit(f"the run ended by itself before it could be killed; is {out} a new folder?")
    before = {line["step"]: line["loss"] for line in steps_of(run)}
    print(f"\nkilled after step {max(before)}; the same command goes on with two ranks\n", flush=True)

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, *command], check=True)
    after = steps_of(run)
    for line in after:
        if line.get("redone"):
            print(f"step {line['step']}: loss {before[line['step']]:.4f}, done again {line['loss']:.4f}")
    print(f"loss {after[0]['loss']:.2f} at step 1, {after[-1]['loss']:.2f} at step {after[-1]['step']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
