"""What a run says to people: Python's logging, a plain line on stderr, from rank 0 alone.

The logger is `bamba.training`. A program that wants the lines elsewhere gives that logger a handler of its own before
the run begins; ours is added only where it has none.
"""

import contextlib
import logging
import sys

from bamba_data.terminal import printable

NAME = "bamba.training"  # not `bamba.trainer`: loggers of modules would be below it, and not propagate either


class _Stderr(logging.Handler):
    """To wherever stderr points now, which a test or a notebook may have changed since the import."""

    def emit(self, record: logging.LogRecord) -> None:
        # Nobody may look: a log on a full disk, or a reader that went away, ends no training.
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{printable(self.format(record))}\n")
            sys.stderr.flush()


def rank_zero_logger(leads: bool = True) -> logging.Logger:
    """The logger of this rank: the real one where it `leads`, one that drops every line on all other ranks."""
    if not leads:
        silent = logging.getLogger(f"{NAME}.other_ranks")
        silent.setLevel(logging.CRITICAL + 1)
        return silent
    logger = logging.getLogger(NAME)
    if not logger.handlers:
        logger.addHandler(_Stderr())
        logger.setLevel(logging.INFO)
        logger.propagate = False  # or a root handler, such as one that Ray sets, would print each line again
    return logger


def say(text: str) -> None:
    """A line of a command, which runs on one rank."""
    rank_zero_logger().info(text)
