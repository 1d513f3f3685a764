"""Every error that a user can meet, as one small tree. A branch says who must act, and with it the exit code.

    BambaError
    ├── UserError         2   the caller: recipe, arguments, tokenizer, paths
    ├── BudgetExceeded    3   the caller: more bad records than the recipe allows, or no document at all
    ├── Unfinished        4   nobody yet: run the same command again
    └── IntegrityError    5   the owner of the data: never retried, never published

All leaves pickle (they cross process borders): the constructor's arguments are the exception's `args`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class BambaError(Exception):
    """The root. `exit_code` is what a process that dies of it returns. `of_environment` says that nothing of what was
    asked for is wrong, only where it ran: the same attempt may succeed later. `machine` is the node of a cluster where
    it was raised."""

    exit_code = 1
    of_environment = False
    machine = ""


class _AtUrl(BambaError):
    """Of something that has an address: `url`, and `detail`, what is the matter with it."""

    def __init__(self, url: str, detail: str) -> None:
        super().__init__(url, detail)
        self.url, self.detail = url, detail

    def __str__(self) -> str:
        return f"{self.url}: {self.detail}"


def one_line(error: BaseException, max_chars: int = 200) -> str:
    """What an error of another library says, in one line that a message of ours may quote."""
    return " ".join(str(error).split())[:max_chars]


def first_fault(error: "ValidationError") -> str:
    """The first fault that pydantic found, as `field.of.it: what is wrong`."""
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc']))[:120] or 'the whole'}: {fault['msg']}"


# ---- the caller must act


class UserError(BambaError):
    """What was asked for cannot be done as asked; the message says what to change."""

    exit_code = 2


class MissingPackage(UserError, ModuleNotFoundError):
    """What was asked for needs packages that are not installed: which, and the extra of ours that installs them. Also a
    ModuleNotFoundError, for those who import us and expect one."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(package, extra)
        self.name, self.extra = package, extra

    def __str__(self) -> str:
        return f"this needs {self.name}, which is not installed: pip install 'bamba-data[{self.extra}]'"


class RecipeError(UserError):
    """A recipe, or a `--set` on it, is invalid; the message names the field."""


class TokenizerError(UserError):
    """The tokenizer file is missing, not the pinned one, or of a kind that we cannot use."""


class SourceRefused(_AtUrl, UserError):
    """A host will not give an input, and asking again cannot help: `url`, and what the host said."""

    of_environment = True


class DatasetNotFound(UserError):
    """There is no published dataset at this URL, or not this version of it."""


class WrongForm(UserError):
    """An input is sound, but not of the form that the recipe says, or has no such field: `url`, what it is, the way
    out."""

    def __init__(self, url: str, what: str, way_out: str) -> None:
        super().__init__(url, what, way_out)
        self.url, self.what, self.way_out = url, what, way_out

    def __str__(self) -> str:
        return f"{self.url}: {self.what}: {self.way_out}"


class NoRoom(UserError):
    """A disk or a quota is full: `where`, what the system said, how many bytes are wanted and how many are free (None
    where it cannot be known), and the way out. To run again as it is cannot help: somebody must make room."""

    def __init__(self, where: str, said: str, wanted_bytes: int, free_bytes: int | None, way_out: str) -> None:
        super().__init__(where, said, wanted_bytes, free_bytes, way_out)
        self.where, self.said, self.way_out = where, said, way_out
        self.wanted_bytes, self.free_bytes = wanted_bytes, free_bytes

    def __str__(self) -> str:
        free = "" if self.free_bytes is None else f", {self.free_bytes:,} are free"
        return f"{self.where}: {self.said}: {self.wanted_bytes:,} bytes are wanted{free}. {self.way_out}"


class OtherModel(_AtUrl, UserError):
    """A checkpoint is whole, but of a model of another shape: which one, and how the two differ. Never a change to
    accept, and no reason to doubt the checkpoint."""

    def __str__(self) -> str:
        return (
            f"{self.url} is of another model: {self.detail}. A model's shape is no change that can be accepted: use "
            "the recipe that this run began with, or another folder"
        )


class NoSuchDocument(UserError):
    """No document of the dataset has this id: the message says how many records were left out, and why."""


class Withdrawn(DatasetNotFound):
    """The version was withdrawn: the message says when and why, and how to ask for it all the same."""


class AccessDenied(UserError):
    """A store or a file does not let us in: credentials, rights, or a mount that this machine has otherwise."""

    of_environment = True


class ClusterRefused(UserError):
    """The Ray cluster did not take us: a wrong token, or an address that is none."""

    of_environment = True


class BudgetExceeded(BambaError):
    """More bad records than the recipe's `max_bad_rate`; nothing was published, finished work is kept."""

    exit_code = 3


class HopelessInput(BudgetExceeded):
    """So many records of one input are bad that reading on would only copy it into the dead letters: which, why, and
    what its records look like. It follows from the input and the recipe alone: to try again cannot help."""


class NoDocuments(BudgetExceeded):
    """A source, or the whole, came to no document at all: nothing was published."""


class TooManyBadSteps(BudgetExceeded):
    """Training met more steps without a finite gradient than its recipe allows; the message names their rows."""


class WorkerFault(BambaError):
    """A task ended in an error that nobody foresaw: what it said, and the place in the code. The others are not touched
    by it."""

    def __init__(self, said: str, place: str) -> None:
        super().__init__(said, place)
        self.said, self.place = said, place

    def __str__(self) -> str:
        return f"an error that nobody foresaw: {self.said} (at {self.place})"


# ---- nobody must act: run again


class Unfinished(BambaError):
    """Not done, nothing lost: the same command goes on where this one was."""

    exit_code = 4


class SourceUnavailable(_AtUrl, Unfinished):
    """An input could not be fetched after all retries: `url`, and what the host said last."""

    def __str__(self) -> str:
        return f"{self.url}: not available now ({self.detail}); run the same command again to go on"


class StoreUnavailable(_AtUrl, Unfinished):
    """The store of the dataset did not answer, or not as a store does, after all retries."""

    def __str__(self) -> str:
        return f"{self.url}: the store does not answer ({self.detail}); run the same command again to go on"


class MachineFault(Unfinished):
    """One machine could not do its work: which, at what path if one is known, and what its system said."""

    of_environment = True

    def __init__(self, where: str, path: str, detail: str) -> None:
        super().__init__(where, path, detail)
        self.where, self.path, self.detail = where, path, detail

    def __str__(self) -> str:
        return f"on machine {self.where}: {f'{self.path}: ' if self.path else ''}{self.detail}"


class NoMachineLeft(Unfinished):
    """Every machine of the cluster failed several tasks in a row: `said` is the last word of each."""

    of_environment = True

    def __init__(self, said: list[str]) -> None:
        super().__init__(said)
        self.said = said

    def __str__(self) -> str:
        more = f"; and {len(self.said) - 3} machines more" if len(self.said) > 3 else ""
        return (
            f"no machine is left that can work: {'; '.join(self.said[:3])}{more}. What is finished is kept: mend that, "
            "and run the same command again to go on"
        )


class PublishConflict(Unfinished):
    """Another build published this version first. Its files and ours are all intact."""

    def __init__(self, version: int, ours: str, theirs: str) -> None:
        super().__init__(version, ours, theirs)
        self.version, self.ours, self.theirs = version, ours, theirs

    def __str__(self) -> str:
        return (
            f"version {self.version} was published by another build (dataset {self.theirs[:16]}, ours is "
            f"{self.ours[:16]}); nothing of either is lost: look at it with `bamba-data show`, then run again "
            f"to publish ours as version {self.version + 1}"
        )


class PublishUnknown(Unfinished):
    """The store did not say whether the publish landed, and could not be read back. Nothing was deleted."""


class RunHeld(Unfinished):
    """A run's folder belongs to another process now: which folder, and who holds it."""

    def __init__(self, url: str, holder: str) -> None:
        super().__init__(url, holder)
        self.url, self.holder = url, holder

    def __str__(self) -> str:
        return (
            f"{self.url}: another run is at work here ({self.holder}), and two would remove each other's checkpoints: "
            "wait until it has ended, stop it, or give another --out"
        )


class Interrupted(Unfinished):
    """Training was asked to stop (SIGTERM, Ctrl-C); its state is saved and the same command goes on from there."""


# ---- the owner of the data must act


class IntegrityError(BambaError):
    """Bytes are not what they must be. Retrying cannot help, so a scheduler must not."""

    exit_code = 5


class CorruptInput(IntegrityError):
    """An input file is damaged: `url`, what is wrong, and the byte offset where it showed."""

    def __init__(self, url: str, detail: str, offset: int | None = None) -> None:
        super().__init__(url, detail, offset)
        self.url, self.detail, self.offset = url, detail, offset

    def __str__(self) -> str:
        at = "" if self.offset is None else f" at byte {self.offset:,}"
        return f"{self.url}: {self.detail}{at}"


class InputTooLarge(CorruptInput):
    """An input expands beyond a stated limit: a decompression bomb, a huge window, or the wrong file."""


class InputChanged(IntegrityError):
    """An input is not the one that was locked: which property, what the lock says, what is there now."""

    def __init__(self, url: str, field: str, locked: object, found: object) -> None:
        super().__init__(url, field, locked, found)
        self.url, self.field, self.locked, self.found = url, field, locked, found

    def __str__(self) -> str:
        return (
            f"{self.url}: {self.field} is {self.found!r}, the lock says {self.locked!r}: the file changed since "
            "it was locked. Restore it, or lock the new one with --relock (a new dataset)"
        )


class StaleIndex(IntegrityError):
    """A file of a text source is not the one that was indexed: which, in what it differs, and how to index it anew."""

    def __init__(self, url: str, detail: str, command: str) -> None:
        super().__init__(url, detail, command)
        self.url, self.detail, self.command = url, detail, command

    def __str__(self) -> str:
        return (
            f"{self.url}: {self.detail}: the file is not the one that was indexed. Restore it, or index the text anew, "
            f"which makes another order: {self.command}"
        )


class UnsafePath(IntegrityError):
    """A path in a manifest or record points outside its root, or is not portable. Refused before any use."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(path, detail)
        self.path, self.detail = path, detail

    def __str__(self) -> str:
        return f"unsafe path {self.path!r}: {self.detail}"


class CorruptManifest(IntegrityError):
    """A manifest or one of its tables is damaged, hostile, or of an unknown format; names the field."""

    def __init__(self, where: str, detail: str) -> None:
        super().__init__(where, detail)
        self.where, self.detail = where, detail

    def __str__(self) -> str:
        return f"{self.where}: {self.detail}"


class UnknownRecord(CorruptManifest):
    """A record whose seal is whole, and that says what this version does not know: it is no damage, and counts."""


class CorruptShard(IntegrityError):
    """A shard or a block of it is not what the manifest says: refetch it, or restore the store."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(path, detail)
        self.path, self.detail = path, detail

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"


class ReferredFileMissing(CorruptShard):
    """A file of a dataset that refers to another store is not there any more: `path`, the `store` where it was, and the
    dataset `home` that needs it."""

    def __init__(self, path: str, store: str, home: str) -> None:
        super().__init__(path, f"is missing in {store}, where {home} refers to it and holds no copy")
        self.args = (path, store, home)
        self.store, self.home = store, home

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.detail}. Who keeps {self.store} must put it back (a version there was expired and "
            f"swept, or the store was moved); {self.home} itself is sound. So that it cannot happen again, merge with "
            "--copy, or tag the version there"
        )


class CorruptCheckpoint(_AtUrl, IntegrityError):
    """A checkpoint of a training run is torn or damaged: which one, and what is wrong with it."""


class NotReproducible(IntegrityError):
    """The same unit gave two results. A unit must be a pure function of its inputs: this is a bug or bad RAM."""
