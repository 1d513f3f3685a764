"""A build as a job of a running cluster, through Ray's job server: submitted once, however often it is asked for.

A submission id is made of what is asked for: `<run>-<place>-<attempt>`. While an attempt is queued or running, another
submit of the same joins it; two at the same moment ask for one id, which Ray gives to one of them, and the other joins.

Nothing of the submitter's environment goes to the cluster: credentials are there by its own secrets, and a job's
runtime environment can be read by everybody who reaches the dashboard.
"""

import asyncio
import contextlib
import logging
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bamba_data
from bamba_data import canonical_json
from bamba_data.errors import BambaError, Unfinished, UserError
from bamba_data.extras import require

from ..observe.run_log import masked
from ..observe.runs import Run
from .connection import refuse_relative

POLL_SECONDS = 1.0
LOST_SECONDS = 120.0  # a cluster that does not answer for so long is gone
WORKING = ("PENDING", "RUNNING")
#: A password may have a slash in it; a port has digits alone.
_CREDENTIALS = re.compile(r"://[^/\s]*@|://[^/\s:@]+:(?!\d+(?:/|$))[^\s@'\"]*@")
_QUERY = re.compile(r"(?:https?|s3)://[^\s'\"]*[?]")
_SECRET_IN_QUERY = re.compile(r"(?i)[?&][^=&\s'\"]*(?:token|secret|sig|password|key|credential)[^=&\s'\"]*=")
_STATUS = re.compile(r"status code (\d+)")
_WRONGLY_ASKED = ("400", "401", "403", "413")  # refused for what was asked, or by whom
_NO_AGENT_YET = "No available agent"  # a head that has just started; Ray answers 500
TOKEN_HELP = "set RAY_AUTH_MODE=token, with the token in RAY_AUTH_TOKEN or its file in RAY_AUTH_TOKEN_PATH"


@dataclass(frozen=True)
class Submission:
    """What to run: the arguments of `python -m pipelines.tokenize` (or .download), and what to bring along: the
    recipe's file where it is none that ships with us, with the sources of its transforms that lie beside it, or a
    checkout. `code` are these sources, below the folder of the recipe."""

    run: Run
    out: str
    arguments: tuple[str, ...]
    recipe_file: Path | None = None
    working_dir: Path | None = None
    code: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        refuse_relative("--out", self.out)
        recipe = self.recipe_file.read_text(encoding="utf-8") if self.recipe_file else ""
        recipe += "".join(file.read_text(encoding="utf-8", errors="replace") for file in self.code)
        seen = (self.out, *self.arguments)  # in Ray's list of jobs: the entrypoint, and what stands beside it
        if any(_CREDENTIALS.search(text) or masked(text) != text for text in (recipe, *seen)):
            raise UserError("a URL with credentials in it is refused: the dashboard would show them; use secrets there")
        if any(_QUERY.search(text) for text in seen) or _SECRET_IN_QUERY.search(recipe):
            raise UserError(
                "a URL with a query in it, which may hold credentials, is refused: the dashboard would show it; use "
                "secrets there"
            )

    @property
    def stem(self) -> str:
        """Of its submission ids: one run into one place."""
        return f"{self.run.name}-{canonical_json.digest(self.out)[:6]}"

    @property
    def entrypoint(self) -> str:
        module = {"build": "pipelines.tokenize", "download": "pipelines.download"}[self.run.command]
        return shlex.join(["python", "-m", module, *self.arguments])

    @contextlib.contextmanager
    def runtime_env(self, submission_id: str) -> Iterator[dict[str, Any]]:
        """With the folder to upload, while in the block."""
        env: dict[str, Any] = {"env_vars": {"BAMBA_RUN": self.run.name, "BAMBA_SUBMISSION_ID": submission_id}}
        with tempfile.TemporaryDirectory(prefix="bamba-submit-") as folder:
            if self.working_dir:
                env["working_dir"] = str(self.working_dir)
            elif self.recipe_file:
                for file in (self.recipe_file, *self.code):
                    copied = Path(folder, file.relative_to(self.recipe_file.parent))
                    copied.parent.mkdir(parents=True, exist_ok=True)
                    copied.write_bytes(file.read_bytes())
                env["working_dir"] = folder
            yield env


class Cluster:
    """The job server of a running cluster at an address such as http://127.0.0.1:8265."""

    def __init__(self, address: str) -> None:
        require("ray")
        from ray.job_submission import JobSubmissionClient

        self.address = address
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # it tells of every socket
        with self._typed_errors():
            try:
                self._client = JobSubmissionClient(address)
            except ValueError as error:
                raise UserError(f"{address!r} is no address of a job server, such as http://127.0.0.1:8265") from error

    def submit(self, what: Submission) -> tuple[str, bool]:
        """Submit, or join the attempt that works on the same. A cluster that has just started, and takes no jobs yet,
        is waited for.

        Returns:
            The id of the attempt, and whether it is a new one.

        Raises:
            UserError: The job server refuses what was asked for, or our token.
            Unfinished: It does not answer.
        """
        end = time.monotonic() + LOST_SECONDS
        while True:
            mine = self.jobs(what.stem)
            if working := [job for job in mine if job.status in WORKING]:
                return str(working[-1].submission_id), False
            wanted = f"{what.stem}-{len(mine) + 1}"
            with what.runtime_env(wanted) as env, self._typed_errors():
                try:
                    return self._client.submit_job(
                        entrypoint=what.entrypoint,
                        submission_id=wanted,
                        runtime_env=env,
                        metadata={
                            "bamba_run": what.run.name,
                            "bamba_data": bamba_data.__version__,
                            "recipe": what.run.recipe,
                            "out": what.out,
                        },
                    ), True
                except RuntimeError as error:
                    # Ray has one type for all refusals: its text alone says that the id is taken.
                    somebody_was_first = "already exists" in str(error)
                    if not somebody_was_first and (_NO_AGENT_YET not in str(error) or time.monotonic() > end):
                        raise
            time.sleep(POLL_SECONDS)  # and look again

    def jobs(self, stem: str = "") -> list[Any]:
        """Our jobs, in the order of their attempts; those of one run and place, or all."""
        with self._typed_errors():
            known = self._client.list_jobs()
        ours = [job for job in known if job.submission_id and (job.metadata or {}).get("bamba_run")]
        mine = [job for job in ours if not stem or job.submission_id.rpartition("-")[0] == stem]
        return sorted(mine, key=lambda job: (job.start_time or 0, int(job.submission_id.rpartition("-")[2])))

    def job(self, name: str) -> Any:
        """The job of this id, or the newest one whose id starts so."""
        matching = [job for job in self.jobs() if job.submission_id.startswith(name)]
        if not matching:
            have = ", ".join(job.submission_id for job in self.jobs()) or "none"
            raise UserError(f"{name}: no such job at {self.address} (there are: {have})")
        return next((job for job in matching if job.submission_id == name), matching[-1])

    def logs(self, submission_id: str) -> str:
        with self._typed_errors():
            return str(self._client.get_job_logs(submission_id))

    def stop(self, submission_id: str) -> None:
        """Ask the job to end: it lets go of what is in flight, keeps what is finished, and can go on later."""
        with self._typed_errors():
            self._client.stop_job(submission_id)

    def follow(self, submission_id: str, say: Callable[[str], None]) -> int:
        """Give the log to `say` as it grows, to the job's end.

        Returns:
            The exit code of the job's own process.

        Raises:
            Unfinished: The cluster did not answer for LOST_SECONDS; the job may go on without us.
        """
        told, silent_since = 0, time.monotonic()
        while True:
            try:
                told = asyncio.run(self._tail(submission_id, told, say))
                with self._typed_errors():
                    job = self._client.get_job_info(submission_id)
                silent_since = time.monotonic()
                if job.status not in WORKING:
                    return exit_code_of(job)
            except (Unfinished, RuntimeError, OSError) as error:  # _tail, too, has no typed errors
                if time.monotonic() - silent_since > LOST_SECONDS:
                    raise Unfinished(
                        f"{self.address}: the cluster does not answer any more; look at `bamba-data status URL`, and "
                        f"submit again, here or elsewhere, to go on ({type(error).__name__})"
                    ) from None
            time.sleep(POLL_SECONDS)

    async def _tail(self, submission_id: str, told: int, say: Callable[[str], None]) -> int:
        """Say what comes after the first `told` characters: the server sends a log from its start."""
        sent = 0
        async for text in self._client.tail_job_logs(submission_id):
            fresh = text[max(0, told - sent) :]
            sent += len(text)
            if fresh:
                say(fresh)
        return max(told, sent)

    @contextlib.contextmanager
    def _typed_errors(self) -> Iterator[None]:
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise UserError(f"{self.address}: the cluster wants another token, or one at all: {TOKEN_HELP}") from None
        except (ConnectionError, requests.RequestException) as error:
            raise Unfinished(
                f"{self.address}: no job server answers there ({type(error).__name__}); is it port-forwarded?"
            ) from None
        except RuntimeError as error:
            raise _refusal(self.address, str(error)) from None


def _refusal(address: str, answer: str) -> BambaError:
    """What the job server answered other than 200. It tells an error as a traceback, with the agent's within: the
    last status and the last line are those of the cause."""
    status = next(reversed(_STATUS.findall(answer)), "")
    line = next((line.strip() for line in reversed(answer.splitlines()) if line.strip(" .")), "")
    kind = UserError if status in _WRONGLY_ASKED else Unfinished
    return kind(f"{address}: the job server refused ({status or 'no status'}): {line[:300]}")


def exit_code_of(job: Any) -> int:
    """The code that the job's own process ended with. Where Ray does not know it (stopped, or its node is lost), the
    job is unfinished."""
    code = job.driver_exit_code
    if job.status == "SUCCEEDED":
        return 0
    return code if code is not None and 0 < code < 6 else Unfinished.exit_code


def explain(job: Any) -> str:
    """Why a job ended as it did, in Ray's words; its log is longer than that."""
    return " ".join(str(job.message or job.status).split())[:300]


class JobFailed(BambaError):
    """The job ended so; what it said is in its log above."""

    def __init__(self, submission_id: str, exit_code: int) -> None:
        super().__init__(submission_id, exit_code)
        self.submission_id, self.exit_code = submission_id, exit_code

    def __str__(self) -> str:
        return f"job {self.submission_id} ended with exit code {self.exit_code}"


def arguments(name: str, target: str, url: str, options: Sequence[tuple[str, Any]]) -> tuple[str, ...]:
    """A command line of the options that are set: a list once an element, True as a flag."""
    line = [name, target, url]
    for option, value in options:
        for element in value if isinstance(value, list) else [value]:
            if element is True:
                line.append(option)
            elif element not in (None, False):
                line += [option, str(element)]
    return tuple(line)
