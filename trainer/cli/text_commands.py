"""The commands that write texts: generate, chat."""

from pathlib import Path
from typing import Annotated

import typer

from bamba_data.cli.entry import group
from bamba_data.cli.options import in_a_folder
from bamba_data.errors import UserError

from .model_commands import MODELS, Checkpoint, TokenizerFile

app = group()

Temperature = Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token every time.")]
Top = Annotated[int, typer.Option(min=1, help="Draw from so many of the likeliest tokens.")]
TopP = Annotated[
    float,
    typer.Option("--top-p", min=0.0, max=1.0, help="Draw from the likeliest tokens that together have this share."),
]
Seed = Annotated[int, typer.Option(min=0, help="Another seed, another text.")]
Stops = Annotated[
    list[str] | None, typer.Option("--stop", metavar="TEXT", help="End before this text, too; may be repeated.")
]


@app.command(rich_help_panel=MODELS)
def generate(
    checkpoint: Checkpoint,
    prompt: Annotated[str | None, typer.Option(help="What the text begins with.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help='A file of prompts, {"prompt": TEXT} a line.')
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Of --prompts: JSON lines, not on stdout.", callback=in_a_folder),
    ] = None,
    tokenizer: TokenizerFile = None,
    tokens: Annotated[int, typer.Option(min=1, help="Add so many tokens at most.")] = 64,
    temperature: Temperature = 0.8,
    top: Top = 50,
    top_p: TopP = 1.0,
    seed: Seed = 1,
    stop: Stops = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Of --prompts: so many at once; 8 without it.")] = None,
) -> None:
    """Continue a text, shown as it comes, or a file of them, as JSON lines.

    A text ends where a document ended in training, before a --stop, or after --tokens. The same seed is the same text,
    whatever else is in the file. Lines may have a "seed" of their own, and an "id" that is handed on.
    """
    from bamba_data.terminal import emit, opened_output, show

    from ..decode.sampling import Sampling
    from ..generation import Writer, prompts_of

    if (prompt is None) == (prompts is None):
        raise UserError("give either --prompt or --prompts")
    for option, value in (("--out", out), ("--batch", batch)):
        if value is not None and prompts is None:
            raise UserError(f"{option} is of a file of prompts (--prompts): leave it out")
    sampling = Sampling(temperature, top, top_p)
    asked = None if prompts is None else prompts_of(prompts, seed)
    writer = Writer.of(checkpoint, tokenizer, sampling, tokens, stop or [])
    if asked is None:
        assert prompt is not None
        writer.stream(prompt, seed, show)
        emit("")
        return
    with opened_output(out) as write:
        for answer in writer.answers(asked, batch or 8):
            write(answer.line())


@app.command(rich_help_panel=MODELS)
def chat(
    checkpoint: Checkpoint,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="What the conversation begins with.")] = None,
    tokenizer: TokenizerFile = None,
    template: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another chat template than that of training.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Of an answer, at most.")] = 512,
    temperature: Temperature = 0.8,
    top: Top = 50,
    top_p: TopP = 1.0,
    seed: Seed = 1,
    as_json: Annotated[bool, typer.Option("--json", help="An answer is a JSON object in a line.")] = False,
) -> None:
    """Talk to a model that was trained on conversations. Without a terminal: a line of stdin is a turn.

    /reset begins anew, /system TEXT also with another system message, //… says a line that begins with a slash. Ctrl-C
    ends an answer, Ctrl-D the conversation.
    """
    from ..chat import Chat
    from ..converse import converse
    from ..decode.sampling import Sampling

    talk = Chat.of(checkpoint, tokenizer, template, Sampling(temperature, top, top_p), tokens, seed)
    if system is not None:
        talk.reset(system)
    converse(talk, as_json=as_json)
