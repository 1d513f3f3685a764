"""The commands that need neither ray nor torch, and what every command line of ours is made of.

    entry.py               groups of commands, and commands run alone by `python -m`
    options.py             the options that several commands take, one name for one idea
    old_names.py           what an option was called before goes on working
    dataset_commands.py    show, stats, verify, diff, sweep
    version_commands.py    versions, withdraw, expire, tag
    card_command.py        card
    derive_commands.py     drop, subset, merge, compact
    exchange_commands.py   export, push
    schema_command.py      schema

In: words that a person typed. Out: text or JSON on stdout; errors go to the process edge (exit_codes.py).
`bamba-data` itself is put together in pipelines/cli, which may know all rooms.
"""

from .card_command import app as card_app
from .dataset_commands import app as dataset_app
from .derive_commands import app as derive_app
from .entry import group
from .exchange_commands import app as exchange_app
from .schema_command import app as schema_app
from .version_commands import app as version_app

__all__ = ["app"]

app = group()
app.add_typer(dataset_app)
app.add_typer(card_app)
app.add_typer(version_app)
app.add_typer(derive_app)
app.add_typer(exchange_app)
app.add_typer(schema_app)
