"""The commands on a model: judge it, extend, generate, export, push, import, average; and arithmetic on any."""

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from bamba_data.cli.entry import group
from bamba_data.cli.options import AsJson, Data, in_a_folder
from bamba_data.errors import UserError

from .benchmark_options import (
    Batch,
    Checkpoints,
    Eos,
    Every,
    Plot,
    Questions,
    Results,
    SuiteName,
    TableFile,
    show_numbers,
    suite_to_ask,
)

app = group()
MODELS = "Models"
Place = TypeVar("Place", Path, str)

Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="A run (its newest), RUN@STEP, or a checkpoint's own folder.")
]
TokenizerFile = Annotated[
    Path | None, typer.Option("--tokenizer", metavar="FILE", help="Another tokenizer.json than the dataset's.")
]


@app.command(rich_help_panel=MODELS)
def evaluate(
    checkpoint: Checkpoint,
    data: Data = None,
    text: Annotated[Path | None, typer.Option(metavar="FILE", help="A text file.")] = None,
    tokenizer: TokenizerFile = None,
    rows: Annotated[int | None, typer.Option(min=1, help="So many rows of the held-out part, not all.")] = None,
    row_tokens: Annotated[
        int | None, typer.Option("--row-tokens", min=1, help="Of --text: tokens of a row; as in training without it.")
    ] = None,
    context_ranks: Annotated[
        int, typer.Option("--context-ranks", min=1, help="Under torchrun so many neighbouring ranks share each row.")
    ] = 1,
    by_position: Annotated[
        bool, typer.Option("--by-position", help="By the tokens of context that a target has, not by source.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The curve of --by-position: .png, .svg or .pdf.", callback=in_a_folder),
    ] = None,
    table_file: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="The table of --by-position, a line each.", callback=in_a_folder),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Loss on the held-out documents of datasets, by source, or perplexity of a text, in nats a token.

    Under `torchrun` the model is sharded over the ranks, and the rows are shared out; with --context-ranks each row is,
    too, for rows that are too long for one GPU.
    """
    from bamba_data.extras import require

    from ..pictures import refuse_picture

    if bool(data) == (text is not None):
        raise UserError("give either --data or --text")
    if text is not None and rows is not None:
        raise UserError("--rows is of the held-out part (--data), and a text is taken whole: leave --rows out")
    if data and row_tokens is not None:
        raise UserError("--row-tokens is of --text: the rows of --data are those of the run's own plan")
    for option, file in (("--plot", plot), ("--csv", table_file)):
        if file is not None and not by_position:
            raise UserError(f"{option} shows the loss by position: add --by-position")
    if plot is not None:
        require("matplotlib")
        refuse_picture(plot)
    from ..evaluation import Asked, print_losses, print_positions

    asked = Asked(checkpoint, data or [], text, tokenizer, rows, row_tokens, context_ranks)
    if by_position:
        print_positions(asked, plot, table_file, as_json=as_json)
    else:
        print_losses(asked, as_json=as_json)


@app.command(rich_help_panel=MODELS)
def benchmark(
    checkpoints: Checkpoints,
    suite: SuiteName,
    out: Results,
    every: Every = False,
    tokenizer: TokenizerFile = None,
    batch: Batch = 32,
    questions: Questions = None,
    eos: Eos = None,
    plot: Plot = None,
    table_file: TableFile = None,
    as_json: AsJson = False,
) -> None:
    """Numbers on the tasks of lm-evaluation-harness, computed by the trainer's own model, of one checkpoint or many."""
    from bamba_data.terminal import say

    asked = suite_to_ask(suite, plot)
    from ..checkpoint.reader import SavedCheckpoint
    from ..checkpoint.tokenizer import of_checkpoint
    from ..tasks.benchmark import benchmark as benchmarked
    from ..tasks.benchmark import known_tasks
    from ..tasks.comparison import Numbers, checkpoints_of

    saved = [SavedCheckpoint(url) for url in checkpoints_of(checkpoints, every=every)]
    manager = known_tasks()
    found: list[Numbers] = []
    for one in saved:
        if len(saved) > 1:
            say(f"{one.name}, {len(found) + 1} of {len(saved)}")
        read = of_checkpoint(one, tokenizer).with_tokens(None, eos)
        found.append(benchmarked(one, read, asked, out, batch, questions, manager))
    show_numbers(found, suite, plot, table_file, as_json=as_json)


@app.command("suite-texts", rich_help_panel=MODELS)
def suite_texts(
    suite: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="leaderboard-v1, leaderboard-v2, safety, or a file of tasks.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="A new .jsonl file: task and text.", callback=in_a_folder)
    ],
    as_json: AsJson = False,
) -> None:
    """Write the texts of a suite's questions and answers, for `bamba-data contaminated --against FILE`."""
    from bamba_data.extras import require
    from bamba_data.terminal import emit, print_json

    from ..tasks.suites import suite_of

    if out.suffix != ".jsonl":
        raise UserError(f"--out {out}: its lines are JSON, so name it .jsonl")
    asked = suite_of(suite)
    require("lm_eval")
    from ..tasks.benchmark import known_tasks
    from ..tasks.suite_texts import write_suite_texts

    texts = write_suite_texts(asked, out, known_tasks())
    if as_json:
        print_json(texts)
    else:
        emit("\n".join(f"{count:>9,}  {task}" for task, count in texts.items()))


@app.command(rich_help_panel=MODELS)
def phonebook(
    checkpoint: Checkpoint,
    tokens: Annotated[
        list[int] | None, typer.Option("--tokens", min=1, help="Of a prompt; may be repeated. 1024, 2048, 4096.")
    ] = None,
    depths: Annotated[
        list[float] | None,
        typer.Option("--depth", min=0.0, max=1.0, help="Of the line asked for; may be repeated. 0, 0.25 … 1."),
    ] = None,
    is_reversed: Annotated[bool, typer.Option("--reversed", help="The name comes before the book, too.")] = False,
    shots: Annotated[int, typer.Option(min=0, help="Solved examples.")] = 2,
    trials: Annotated[int, typer.Option(min=1, help="Books of each length and depth.")] = 20,
    seed: Annotated[int, typer.Option(help="Another seed, other books.")] = 1,
    tokenizer: TokenizerFile = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A heat map: .png, .svg or .pdf.", callback=in_a_folder)
    ] = None,
    table_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="The cells, a line each.", callback=in_a_folder)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How often a model finds one line of a long phone book, by length and depth."""
    from bamba_data.extras import require
    from bamba_data.terminal import emit, print_json

    from ..phonebook.measure import draw_heat_map, table, write_csv
    from ..pictures import refuse_picture

    if plot is not None:
        require("matplotlib")
        refuse_picture(plot)
    from ..phonebook.ask import asked

    cells = asked(checkpoint, tokenizer, is_reversed, tokens, depths, shots, trials, seed)
    if plot is not None:
        draw_heat_map(cells, plot)
    if table_file is not None:
        write_csv(cells, table_file)
    if as_json:
        print_json(cells)
    else:
        emit(table(cells))


@app.command(rich_help_panel=MODELS)
def extend(
    checkpoint: Checkpoint,
    to: Annotated[int, typer.Option("--to", min=2, metavar="TOKENS", help="The length that is wanted, of a text.")],
    data: Data = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A long text, or .jsonl with many; may be given several times."),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="URL", help="A new run with the model as it was found best.")
    ] = None,
    tokenizer: TokenizerFile = None,
    rows: Annotated[int, typer.Option(min=1, help="So many texts of the wanted length, at most.")] = 8,
    evaluations: Annotated[int, typer.Option(min=1, help="So many lists of factors, each on all texts.")] = 200,
    seed: Annotated[int, typer.Option(help="Another seed, another search.")] = 1,
    own: Annotated[
        int | None, typer.Option(min=2, metavar="TOKENS", help="What it was trained on, if the checkpoint is wrong.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search rotary frequencies for longer texts, beside those of PI, NTK and YaRN; the weights stay as they are.

    By the loss on held-out documents of datasets (--data), or on texts (--text), as LongRoPE does. Under `torchrun` the
    model is sharded over the ranks, and the texts are shared out.
    """
    from bamba_data.terminal import emit, print_json

    if bool(data) == bool(text):
        raise UserError("give either --data or --text: texts longer than the model was trained on")
    from ..checkpoint.reader import SavedCheckpoint
    from ..checkpoint.tokenizer import of_checkpoint
    from ..distributed.fsdp import joined
    from ..extension.extend import extended, summary, table, target_of, write_run
    from ..extension.texts import held_out_rows, rows_of_texts
    from ..observe.messages import rank_zero_logger

    saved = SavedCheckpoint(checkpoint)
    target = target_of(saved, to, own)
    with joined() as world:
        tell = rank_zero_logger(world.leads).info
        if text:
            chosen = rows_of_texts(text, of_checkpoint(saved, tokenizer).tokenizer, to, rows, tell)
        else:
            chosen = held_out_rows(saved, data or [], to, target.own, rows, tell)
        made = extended(saved, chosen, target, evaluations, seed, world)
    if not world.leads:
        return
    if out is not None:
        write_run(saved, made, out)
    if as_json:
        print_json(summary(made))
    else:
        emit(table(made))


@app.command(rich_help_panel=MODELS)
def export(
    checkpoint: Checkpoint,
    folder: Annotated[Path | None, typer.Argument(metavar="FOLDER", help="As --out.", hidden=True)] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="A new local folder; of gguf a file, NAME.gguf.")
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            help="bamba (BambaForCausalLM), granite (GraniteMoeHybridForCausalLM, for vLLM), gguf (llama.cpp)."
        ),
    ] = "bamba",
    dtype: Annotated[str | None, typer.Option(help="bfloat16, which it is without it, or float32.")] = None,
    quantize: Annotated[
        str | None, typer.Option(help="fp8: the linears in e4m3 with a scale a row, as llm-compressor's FP8_DYNAMIC.")
    ] = None,
    type_: Annotated[
        str | None,
        typer.Option("--type", help="Of gguf: f32, bf16, which it is without it, or q8_0 (8.5 bits a weight)."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="FILE", help="Another tokenizer.json than the dataset's; 'none' writes none.")
    ] = None,
    bos: Annotated[
        str | None, typer.Option(help="The token that begins a document; as in training without it.")
    ] = None,
    eos: Annotated[str | None, typer.Option(help="The token that ends a document; as in training without it.")] = None,
) -> None:
    """Write a checkpoint for transformers, by --layout granite for vLLM, by --layout gguf for llama.cpp.

    A Hugging Face folder holds config.json, generation_config.json, safetensors, the tokenizer and a model card; a GGUF
    file holds all in one.
    """
    from ..hf.layouts import ExportOptions, export_checkpoint

    place = _one_place(out, folder, "FOLDER")
    export_checkpoint(checkpoint, place, layout, ExportOptions(dtype, quantize, type_), tokenizer, bos, eos)


@app.command(rich_help_panel=MODELS)
def push(
    checkpoint: Checkpoint,
    to: Annotated[str, typer.Argument(metavar="HUB", help="hf://ORG/NAME.")],
    layout: Annotated[str, typer.Option(help="As of export.")] = "bamba",
    dtype: Annotated[str | None, typer.Option(help="As of export.")] = None,
    quantize: Annotated[str | None, typer.Option(help="As of export.")] = None,
    tokenizer: Annotated[str | None, typer.Option(metavar="FILE", help="As of export.")] = None,
    bos: Annotated[str | None, typer.Option(help="As of export.")] = None,
    eos: Annotated[str | None, typer.Option(help="As of export.")] = None,
    private: Annotated[bool, typer.Option("--private", help="If the repository is made now.")] = False,
    as_json: AsJson = False,
) -> None:
    """Export a checkpoint and put it on a hub, on main and as the revision step<step>-tokens<n>."""
    from bamba_data.exchange.hub_repo import HubRepo
    from bamba_data.terminal import emit, print_json, say

    from ..hf.layouts import ExportOptions
    from ..hf.pushing import push_checkpoint

    repo = HubRepo.at(to, "model")
    pushed = push_checkpoint(checkpoint, repo, layout, ExportOptions(dtype, quantize), tokenizer, bos, eos, private)
    if as_json:
        print_json(pushed)
    else:
        done = "was there already" if pushed.was_there else "is pushed"
        emit(f"{pushed.url}@{pushed.revision} {done} (commit {pushed.commit[:12]})")
    if pushed.readme_left_alone:
        say("its README.md is not ours: it was left as it is")


@app.command("import", rich_help_panel=MODELS)
def import_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A local folder with config.json and weights.")],
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="As --out.", hidden=True)] = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="URL", help="The new run: a local path or s3://bucket/prefix.")
    ] = None,
) -> None:
    """Make a Bamba or dense Granite hybrid of Hugging Face, or a hybrid of mamba_ssm, the first checkpoint of a run.

    A recipe begins with it by `start_from`.
    """
    from ..hf.importing import imported

    imported(folder, _one_place(out, run, "URL"))


@app.command(rich_help_panel=MODELS)
def average(
    checkpoints: Annotated[
        list[str],
        typer.Argument(metavar="CHECKPOINT", help="Two or more: a run (its newest), RUN@STEP, or a checkpoint's own."),
    ],
    out: Annotated[str, typer.Option("--out", metavar="URL", help="The new run: a local path or s3://bucket/prefix.")],
    weights: Annotated[
        str | None,
        typer.Option(metavar="W,W,…", help="One for each checkpoint, above 0; divided by their sum. All the same."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The weighted mean of checkpoints of one shape, computed in float64, as the checkpoint of a new run.

    It is exported, evaluated and begun from (`start_from`) like any other. It holds the model, no moments.
    """
    from bamba_data.terminal import emit, print_json, say

    from ..checkpoint.average import average as averaged

    try:
        numbers = None if weights is None else [float(weight) for weight in weights.split(",")]
    except ValueError:
        raise UserError(f"--weights {weights}: give numbers with commas between, as 0.5,0.3,0.2") from None
    made = averaged(checkpoints, numbers, out)
    for note in made.notes:
        say(note)
    if as_json:
        print_json(made)
        return
    for share, parent in zip(made.shares, made.parents, strict=True):
        emit(f"{share:.6f} of {parent}")
    done = f"{made.tensors} tensors, {made.size_bytes / 1e9:.2f} GB" if made.is_new else "was there already"
    emit(f"{made.url}: {done}")


@app.command(rich_help_panel=MODELS)
def arithmetic(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A recipe, a run, a checkpoint, or a folder with a config.json.")
    ],
    gpu: Annotated[str, typer.Option("--gpu", metavar="NAME", help="h100, h200, a100 or l40s.")] = "h100",
    beside: Annotated[
        str,
        typer.Option("--beside", metavar="MODEL", help="The model to compare with; attention-only: its own widths."),
    ] = "llama-3.1-8b",
    weights: Annotated[str, typer.Option(help="bf16 or fp8, of both models.")] = "bf16",
    batches: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="Sequences at once; may be repeated. 1, 8, 32, 64, 128.")
    ] = None,
    contexts: Annotated[
        list[int] | None,
        typer.Option("--context", min=1, help="Tokens of each; may be repeated. 1024, 16384, 65536."),
    ] = None,
    in_tokens: Annotated[int, typer.Option(min=1, help="Of each prompt, in the table of throughput.")] = 1024,
    row_tokens: Annotated[
        int | None,
        typer.Option("--row-tokens", min=2, help="Instead: how many GPUs it takes to train on one row of so many."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also draw the ratio over the context: .png, .svg or .pdf.", callback=in_a_folder
        ),
    ] = None,
    plot_generation: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="And over the tokens of an answer, memory full.", callback=in_a_folder),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Points in that picture: of python -m benchmarks.decode --curve."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What serving a model costs, by arithmetic: parameters, FLOP, bytes, rooflines, throughput beside another model.

    Upper bounds of speed on one GPU: what is counted must be done. docs/arithmetic.md says what is counted. With
    --row-tokens it says instead what training on rows of that length takes of memory, and so of GPUs.
    """
    from bamba_data.terminal import emit, print_json

    from ..arithmetic.ask import question
    from ..arithmetic.generation_plot import draw_generation, measured_in
    from ..arithmetic.plot import draw_ratios
    from ..arithmetic.report import answer, tables

    if row_tokens is not None:
        from ..arithmetic.ask import refuse_beside_row_tokens
        from ..arithmetic.gpus import gpu_named
        from ..arithmetic.long_rows import as_values, long_rows, table
        from ..arithmetic.shapes import shape_of

        pictures = {"plot": plot, "plot_generation": plot_generation, "measured": measured}
        refuse_beside_row_tokens(batch=batches, context=contexts, **pictures)
        chip = gpu_named(gpu)
        rows = long_rows(shape_of(model), chip, row_tokens)
        if as_json:
            print_json(as_values(model, chip, row_tokens, rows))
        else:
            emit("\n".join(table(model, chip, row_tokens, rows)))
        return
    if measured is not None and plot_generation is None:
        raise UserError("--measured puts points into a picture: name it by --plot-generation")
    asked = question(model, beside, gpu, weights, batches, contexts, in_tokens)
    if plot is not None:
        draw_ratios(asked.ours, asked.theirs, (asked.name, asked.beside), asked.batches, plot)
    if plot_generation is not None:
        draw_generation(asked, None if measured is None else measured_in(measured), plot_generation)
    if as_json:
        print_json(answer(asked))
    else:
        emit("\n".join(tables(asked)))


def _one_place(option: Place | None, argument: Place | None, metavar: str) -> Place:
    """Where the result goes: `--out`, or the second word, as it was given before there was the option."""
    places = [place for place in (option, argument) if place is not None]
    if len(places) != 1:
        raise UserError(f"say where it goes, once: --out {metavar}")
    if not str(places[0]).strip():
        raise UserError(f"--out is empty: say where it goes, --out {metavar}")
    return places[0]
