"""The process edge, one for all our commands: whatever goes wrong is one line on stderr and an exit code.

Only what nobody foresaw leaves a traceback.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from bamba_data.errors import BambaError, Unfinished, UserError

CRASHED = 1
INTERRUPTED = "interrupted; run the same command again to go on"
_SILENT = 130  # what typer makes of Ctrl-C; older ones raise Abort
#: What typer raises for a wrong command line; it has no public name (click's own in older versions of typer).
_WrongUsage: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def run(commands: typer.Typer, arguments: Sequence[str] | None = None, prog: str | None = None, who: str = "") -> int:
    """The exit code of a command line. `who` says whose errors they are, where several processes share a screen."""

    try:
        code = commands(None if arguments is None else list(arguments), standalone_mode=False, prog_name=prog)
        if code == _SILENT:
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0  # of a typer.Exit
    except typer.Exit as done:
        return done.exit_code
    except BrokenPipeError:  # the reader of our output went away: `bamba-data show … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (typer.Abort, KeyboardInterrupt):
        error: BaseException = Unfinished(INTERRUPTED)
    except _WrongUsage as wrong:
        error = UserError(wrong.format_message())
    except (BambaError, OSError) as found:
        error = found
    lines = [str(error), *getattr(error, "__notes__", [])]
    sys.stderr.write(f"error{who}: {chr(10).join(lines)}\n")
    return exit_code_of(error)


def exit_code_of(error: BaseException | None) -> int:
    """What a process returns that ends with `error`."""
    if error is None:
        return 0
    if isinstance(error, BambaError):
        return error.exit_code
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError | PermissionError):
        return UserError.exit_code  # of a local disk: a store says its own
    if isinstance(error, OSError | KeyboardInterrupt):
        return Unfinished.exit_code
    return CRASHED
