"""What a run says is said once, by rank 0, and never ends a training."""

import errno
import io
import logging
from collections.abc import Iterator

import pytest

from trainer.observe.messages import NAME, rank_zero_logger


@pytest.fixture
def untouched() -> Iterator[logging.Logger]:
    """The run's logger as a new process has it."""
    logger = logging.getLogger(NAME)
    before = logger.handlers, logger.propagate, logger.level
    logger.handlers, logger.propagate, logger.level = [], True, logging.INFO
    yield logger
    logger.handlers, logger.propagate, logger.level = before


def test_rank_0_speaks_and_the_others_are_silent(untouched: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    rank_zero_logger(leads=False).error("step 3 from rank 1")
    rank_zero_logger(leads=True).info("step 3")
    rank_zero_logger(leads=True).info("step 4")  # asked for twice, said once
    assert capsys.readouterr().err == "step 3\nstep 4\n"


def test_a_program_sends_the_lines_elsewhere_by_a_handler_of_its_own(
    untouched: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = io.StringIO()
    untouched.addHandler(logging.StreamHandler(lines))
    rank_zero_logger().warning("BAD STEP 7")
    assert lines.getvalue() == "BAD STEP 7\n"
    assert capsys.readouterr().err == ""


def test_a_full_disk_under_stderr_ends_nothing(untouched: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            tried.append(text)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    rank_zero_logger().info("step 3")
    assert tried == ["step 3\n"]
