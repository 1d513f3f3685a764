"""Joining a Ray cluster. What Ray says when it cannot be started or joined becomes one of our errors: one line, without
colours or a traceback."""

import contextlib
import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bamba_data.errors import BambaError, ClusterRefused, Unfinished, UserError

REACH_SECONDS = 20.0


def join(address: str, start: Callable[[], object]) -> None:
    """Call `start`, which joins the cluster. Raises one of our errors if that fails: what Ray's C++ says of it goes to
    stderr, dozens of lines, and only there does it stand that a token is wrong."""
    _reach(address)
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        failed: Exception | None = None
        ended: SystemExit | None = None
        try:
            start()
        except Exception as error:  # noqa: BLE001 - Ray has no one type for it
            failed = error
        except SystemExit as exit_of_ray:  # its answer to SIGTERM, which it sends itself after two minutes in vain
            ended = exit_of_ray
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
        file.seek(0)
        written = file.read(1 << 20)
    if ended is not None and b"TimedOut" not in written:
        raise ended
    if ended is not None:
        failed = TimeoutError("no answer in two minutes")
    if failed is not None:
        raise not_joined(address, failed, written.decode("utf-8", "replace")) from None
    with contextlib.suppress(OSError):
        os.write(2, written)


def _reach(address: str) -> None:
    """Raises Unfinished if nobody listens at HOST:PORT. Ray itself tries for two minutes, then ends the process from
    its C++, and what it said is lost."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isascii() and port.isdecimal() and int(port) < 1 << 16:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
        except OSError as error:
            raise not_joined(address, error) from None


def not_joined(joined: str | None, error: Exception, stderr: str = "") -> BambaError:
    """Ray did not start, or the cluster did not take us: who must act, in a line. `stderr` is what Ray wrote there."""
    from ray.exceptions import AuthenticationError

    message = plain_line(error)
    is_token = isinstance(error, AuthenticationError) or "authentication" in message.lower()
    if is_token or "InvalidAuthToken" in stderr or "Unauthenticated" in stderr:
        return ClusterRefused(
            f"the Ray cluster at {joined or 'this machine'} does not take our token ({message}); set RAY_AUTH_TOKEN, "
            "or ~/.ray/auth_token and RAY_AUTH_MODE=token, as the cluster has it"
        )
    if joined and isinstance(error, ValueError):
        return ClusterRefused(f"{joined!r} is no address of a Ray cluster ({message}); expected HOST:PORT")
    where = f"the Ray cluster at {joined} does not answer" if joined else "Ray does not start on this machine"
    return Unfinished(f"{where} ({message}); run the same command again")


def plain_line(error: BaseException) -> str:
    """What an error says, in one line without colours: the last line of it, where Ray's messages carry a traceback."""
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    message = lines[-1] if lines and "Traceback" in str(error) else " ".join(lines)
    return f"{type(error).__name__}: {message[:300]}" if message else type(error).__name__


def refuse_relative(option: str, url: str) -> None:
    """Raises UserError for a relative path: every machine of a cluster would find another place there."""
    if "://" not in url and not Path(url).is_absolute():
        raise UserError(
            f"{option} {url}: a relative path is another place on every machine of a cluster; give s3://bucket/prefix, "
            "or an absolute path that all of them share"
        )


_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
