"""A training recipe: the model, the rows it sees, how it learns, and how a run is kept alive. YAML, validated.

`model`, `data`, `schedule` and `optimizer` decide what is learned; `compute`, `checkpoints`, `guard` and `log` only
how. A recipe that ships with us is asked for by name, any other by the path of a .yaml file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from bamba_data.canonical_json import digest
from bamba_data.recipe import load_file_as, named
from bamba_data.sources.base import Strict

from .context.group import why_no_parts
from .kernels.supported import unsupported
from .model.config import ModelConfig

RECIPES = Path(__file__).parent / "recipes"


class Conversations(Strict):
    """Conversations to learn from, instead of datasets: what an assistant says in them is the target, and nothing else.
    `tokenizer` is a folder of Hugging Face's, whose chat template counts unless `template` names a file with another.
    See `loader.chat.spec.ConversationSource` for each field; the longest that fits is a row."""

    files: list[str] = Field(default_factory=list)
    tokenizer: str = ""
    template: str | None = None
    column: str = "messages"
    form: Literal["role-content", "from-value"] = "role-content"
    too_long: Literal["leave_out", "cut", "refuse"] = "leave_out"
    bad: Literal["refuse", "leave_out"] = "refuse"


class Data(Strict):
    """What a step reads: `batch_rows` rows of `row_tokens` tokens, mixed from the sources of the datasets at `urls` by
    `weights` (in any unit; without them every source by its tokens), or packed of `conversations` (docs/finetuning.md).
    The share `holdout` of the documents is never trained on. `packing`: `chunk` fills every row and cuts documents,
    `best-fit` cuts none that fits into a row. `workers` are threads that read ahead."""

    urls: list[str] = Field(default_factory=list)
    conversations: Conversations = Conversations()
    weights: dict[str, float] | None = None
    row_tokens: int = Field(default=4096, ge=2)
    batch_rows: int = Field(default=384, ge=1)
    seed: int = Field(default=2023, ge=0)
    holdout: float = Field(default=0.0005, ge=0, le=0.5)
    packing: str = "chunk"
    workers: int = Field(default=1, ge=0)

    @model_validator(mode="after")
    def _one_kind(self) -> "Data":
        chat = self.conversations
        if chat.files and self.urls:
            raise ValueError("urls and conversations.files: give one of them, a run reads datasets or conversations")
        if chat.files and not chat.tokenizer:
            raise ValueError("conversations.tokenizer: needed, a folder of Hugging Face's with tokenizer.json")
        return self


class Schedule(Strict):
    """The learning rate over `steps`: the lower one of a warm-up (to `peak_lr` in `warmup_steps`) and a decay (from
    `peak_lr` to `end_lr`) that both start at step 1. A quadratic warm-up is 1 - (1 - step / warmup_steps)^2. One that
    would not end within `steps` is shortened to min(2000, steps / 20), as the published code does, and that is said."""

    steps: int = Field(ge=1)
    peak_lr: float = Field(gt=0)
    end_lr: float = Field(ge=0)
    warmup: Literal["linear", "quadratic"] = "quadratic"
    warmup_steps: int = Field(default=0, ge=0)
    decay: Literal["cosine", "linear", "none"] = "cosine"

    @model_validator(mode="after")
    def _falls(self) -> "Schedule":
        if self.end_lr > self.peak_lr:
            raise ValueError(f"end_lr: {self.end_lr} is above peak_lr {self.peak_lr}")
        return self


class Optimizer(Strict):
    """AdamW. `decayed` says what `weight_decay` pulls on: the matrices only, or all parameters (as the published code
    does, norms and A_log too). Gradients are scaled down to a norm of `clip_norm`.

    `memory: low` keeps matrices, their gradients and moments in bfloat16, rounded at random
    (optim/stochastic_rounding.py): half the bytes. The vectors stay float32, and so does the sum of the gradients of
    several micro-batches.
    """

    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    decayed: Literal["matrices", "all"] = "matrices"
    clip_norm: float = Field(default=1.0, gt=0)
    memory: Literal["full", "low"] = "full"


class Compute(Strict):
    """How a step is computed; every choice learns the same thing, up to rounding.

    `micro_rows` rows go through the model at once on each rank; more of them are accumulated. `dtype` is that of the
    products; master weights are float32 unless `optimizer.memory` is low. `recompute` trades time for memory:
    `selective` keeps the results of products, scan and attention, `full` keeps only what goes into a block, and
    with `offload_residuals` that lies in the host's memory until the backward wants it. `reshard`
    gives a block's gathered weights back after its forward. Every `shard_ranks` ranks hold a copy of the model together
    (hybrid sharding); without it all ranks hold the only one. `context_ranks` neighbours share every row, each with a
    part of its tokens (trainer/context): for rows too long for one GPU. Where each rank holds all of a `low` model, a
    rank updates some rows of each matrix, and `row_exchange` says how gradients and rows go between ranks: by
    `copies` from GPU to GPU of one host, by `collectives`, or `auto`, the first where it can be. `float8` is for the
    large linears of the blocks, by one scale a matrix or a row (trainer/distributed/float8.py); it wants a GPU that
    can, and a CPU emulates it. With `float8_casts: kernel` one kernel makes their float8, reading each matrix once for
    forward and backward, with the same bits; where nothing is recomputed, the codes of inputs and weights stay until
    the backward, a byte a number. Of one scale a matrix alone.
    """

    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    residual: Literal["float32", "compute"] = "float32"
    micro_rows: int = Field(default=2, ge=1)
    loss_chunk_tokens: int = Field(default=8192, ge=1)
    compile: bool = True
    recompute: Literal["none", "selective", "full"] = "none"
    offload_residuals: bool = False
    reshard: bool = True
    shard_ranks: int | None = Field(default=None, ge=1)
    context_ranks: int = Field(default=1, ge=1)
    row_exchange: Literal["auto", "collectives", "copies"] = "auto"
    float8: Literal["none", "tensorwise", "rowwise"] = "none"
    float8_casts: Literal["compiled", "kernel"] = "compiled"

    @model_validator(mode="after")
    def _casts(self) -> "Compute":
        if self.float8_casts == "kernel" and self.float8 != "tensorwise":
            raise ValueError(
                f"float8_casts: kernel is for one scale a matrix, and float8 is {self.float8}: set float8 to "
                "tensorwise, or float8_casts to compiled"
            )
        return self


class Checkpoints(Strict):
    """One every `every_steps`, and one at the end and on SIGTERM or Ctrl-C. The newest `keep_last` stay, and those
    whose step is a multiple of `keep_every_steps`."""

    every_steps: int = Field(default=1000, ge=1)
    keep_last: int = Field(default=2, ge=1)
    keep_every_steps: int | None = Field(default=None, ge=1)


class Guard(Strict):
    """What becomes of bad steps. A step whose gradient is not finite changes nothing and is counted; after
    `max_bad_steps` of them the run ends. A loss more than `spike_sigmas` deviations above the mean of the last
    `spike_window` steps, `spike_steps` times in a row, is a spike: the run goes back to the last checkpoint before it
    and leaves out the rows from there to the spike's end. `None` sigmas never go back."""

    max_bad_steps: int = Field(default=10, ge=0)
    spike_sigmas: float | None = Field(default=None, gt=0)
    spike_window: int = Field(default=128, ge=8)
    spike_steps: int = Field(default=3, ge=1)
    max_rewinds: int = Field(default=3, ge=0)


class Log(Strict):
    """A line every `every_steps`; the loss on `evaluate_rows` held-out rows every `evaluate_every_steps`, if at all;
    a trace by torch's profiler, of rank 0, of `profile_steps` steps from `profile_from` on, if that is given; a record
    of the GPU's memory on rank 0 over `memory_snapshot_step`, if that is given (trainer/observe/memory_snapshot.py).
    `trackers` are told beside TensorBoard and metrics.jsonl (trainer/observe/trackers.py).

    Every `benchmark_every_steps` a process beside the run asks the checkpoint of that step `benchmark_suite`, by name
    or file, `benchmark_questions` of each subtask: on the CPU, or on the GPU of the number `benchmark_device`, which no
    rank trains on. The run's end stops one that is at work, unless `benchmark_wait` (trainer/observe/benchmarks.py)."""

    every_steps: int = Field(default=10, ge=1)
    evaluate_every_steps: int | None = Field(default=None, ge=1)
    evaluate_rows: int = Field(default=256, ge=1)
    profile_from: int | None = Field(default=None, ge=1)
    profile_steps: int = Field(default=3, ge=1)
    memory_snapshot_step: int | None = Field(default=None, ge=1)
    trackers: list[Literal["wandb", "mlflow", "aim"]] = Field(default_factory=list)
    benchmark_suite: str | None = None
    benchmark_every_steps: int | None = Field(default=None, ge=1)
    benchmark_questions: int | None = Field(default=None, ge=1)
    benchmark_device: str = Field(default="cpu", pattern=r"^(cpu|\d+)$")
    benchmark_wait: bool = False

    @model_validator(mode="after")
    def _suite_and_steps(self) -> "Log":
        if (self.benchmark_suite is None) != (self.benchmark_every_steps is None):
            raise ValueError("benchmark_suite and benchmark_every_steps: give both, or neither")
        return self


class StartFrom(Strict):
    """What begins a run: the model of the checkpoint at `run` (a run's folder or URL, or one checkpoint's), and with
    `optimizer: keep` its moments and its count of updates too, so that a schedule in two recipes (warm-up and stable,
    then decay) learns as one run would. `fresh` moments begin at zero, as a new kind of data may want it."""

    run: str
    optimizer: Literal["fresh", "keep"] = "fresh"


class Recipe(Strict):
    """The whole of it. `start_from` is a checkpoint whose model begins the run: `StartFrom`, or a URL, which means the
    same with fresh moments. Rows and steps begin anew."""

    name: str
    model: ModelConfig
    data: Data = Data()
    schedule: Schedule
    optimizer: Optimizer = Optimizer()
    compute: Compute = Compute()
    checkpoints: Checkpoints = Checkpoints()
    guard: Guard = Guard()
    log: Log = Log()
    seed: int = Field(default=1, ge=0)
    start_from: StartFrom | str | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        if self.optimizer.memory == "low" and self.compute.dtype != "bfloat16":
            raise ValueError("optimizer.memory: low keeps bfloat16 weights only: set compute.dtype to bfloat16")
        if self.compute.row_exchange != "auto" and self.optimizer.memory != "low":
            raise ValueError(
                f"compute.row_exchange: {self.compute.row_exchange} is for ranks that each hold all of a model, and "
                f"optimizer.memory is {self.optimizer.memory}: set it to low, or leave row_exchange at auto"
            )
        every, saves = self.log.benchmark_every_steps, self.checkpoints.every_steps
        if every is not None and every % saves:
            raise ValueError(
                f"log.benchmark_every_steps: it asks checkpoints, and {every} is no multiple of "
                f"checkpoints.every_steps {saves}"
            )
        model = self.model
        if model.mamba_indices:
            sizes = model.mamba_head_dim, model.mamba_state, model.mamba_heads
            if why := unsupported(*sizes, self.compute.dtype):
                raise ValueError(f"compute.dtype: {why}")
        self._check_offload()
        self._check_parts()
        return self

    def _check_offload(self) -> None:
        if self.compute.offload_residuals and self.compute.recompute != "full":
            raise ValueError(
                f"compute.offload_residuals: recompute is {self.compute.recompute}, so what goes into a block is the "
                "smallest part of what is kept of it: set compute.recompute to full"
            )

    def _check_parts(self) -> None:
        ranks, tokens = self.compute.context_ranks, self.data.row_tokens
        if why := why_no_parts(tokens, ranks, "data.row_tokens"):
            raise ValueError(f"compute.context_ranks: {why}")

    def learned(self) -> dict[str, Any]:
        """All that decides what is learned: a run resumed with another one is another run."""
        kept = {"model", "data", "schedule", "optimizer", "seed", "start_from"}
        plain = self.model_dump(mode="json", include=kept)
        plain["data"].pop("workers")
        # Where data lies, and how it is made into ids: the loader's state holds the digest of what came of it.
        plain["data"].pop("urls")
        plain["data"].pop("conversations")
        return plain

    def learned_digest(self) -> str:
        return digest(self.learned())


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by its name or the path of its file, with `a.b=value` overrides."""
    return load_file_as(Recipe, named(name, RECIPES), overrides)
