"""The process edge, one for all our commands: whatever goes wrong is one line on stderr and an exit code.

Only what nobody foresaw leaves a traceback.
"""

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer

from bamba_data.errors import BambaError, Unfinished, UserError
from bamba_data.extras import telling_extras
from bamba_data.intruders import intruders
from bamba_data.terminal import printable

CRASHED = 1
INTERRUPTED = "interrupted; run the same command again to go on"
_SILENT = 130  # what typer makes of Ctrl-C; older ones raise Abort
#: What typer raises for a wrong command line; it has no public name (click's own in older versions of typer).
_WrongUsage: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
#: What stands between `scheme://` and `@` in a URL: it may be a password. Of S3 a bucket stands there, `s3://bucket@3`,
#: unless there is a colon.
_CREDENTIALS = re.compile(r"(?<=://)(?:(?<!s3://)[^/\s'\"@]+|[^/\s'\"@:]+:[^/\s'\"@]*)(?=@)")


def run(commands: typer.Typer, arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    """Run a command line; errors of ours become one line on stderr.

    Args:
        arguments: The words after the program's name; None for those of this process.
        program: What help and errors call it, such as `python -m trainer`.

    Returns:
        The exit code: 0 done, otherwise as `exit_code_of` says.
    """
    rank = os.environ.get("RANK", "0")  # where torchrun started us, several processes share a screen
    if rank == "0":
        for line in intruders():
            sys.stderr.write(f"note: {printable(line)}\n")
    try:
        with telling_extras():
            code = commands(None if arguments is None else list(arguments), standalone_mode=False, prog_name=program)
        sys.stdout.flush()  # here, where a reader that went away is no error
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
        if not wrong.format_message():  # no command was named: the help was printed, which says it all
            return UserError.exit_code
        error = UserError(_usage(wrong))
    except (BambaError, OSError) as known:
        error = known
    lines = [str(error), *getattr(error, "__notes__", [])]
    text = _CREDENTIALS.sub("…", printable("\n".join(lines)))
    sys.stderr.write(f"error{f' (rank {rank})' if rank != '0' else ''}: {text}\n")
    return exit_code_of(error)


def _usage(wrong: Any) -> str:
    """What is wrong with a command line, and which page of help says more, on one line."""
    context = getattr(wrong, "ctx", None)
    way_out = f" ({context.command_path} --help)" if context is not None else ""
    return " ".join(wrong.format_message().split()) + way_out


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
