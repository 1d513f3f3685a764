"""A checkpoint on a hub: exported into a folder on the way, sent by the hub's own client, and named as a revision.

    main                      the checkpoint that was pushed last
    step<step>-tokens<n>      a tag for each: steps done, and tokens with a label, since the run began

The card says of which checkpoint, data, plan and recipe it is (card.py); the tag's message has the digest, too. A
revision that is there with another content is refused. What an earlier push left on `main` and this one does not have,
such as a further file of weights, goes in the same commit.
"""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bamba_data.canonical_json import digest
from bamba_data.errors import UserError
from bamba_data.exchange.hub_repo import HubFile, HubRepo
from bamba_data.storage.local_disk import scratch_folder

from ..checkpoint.reader import SavedCheckpoint
from .layouts import ExportOptions, export_checkpoint

#: What an export may write: of these, what the new one does not have is an earlier one's.
OURS = ("*.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*.json")
CARD = "README.md"
#: Stands in every card of ours.
_MARK = b"\n| checkpoint | `"


@dataclass(frozen=True)
class PushedModel:
    """`was_there`: the revision had this very content already, and nothing was sent."""

    url: str
    revision: str
    commit: str
    was_there: bool
    readme_left_alone: bool


def push_checkpoint(
    checkpoint: str,
    repo: HubRepo,
    layout: str,
    options: ExportOptions,
    tokenizer: str | None,
    bos: str | None,
    eos: str | None,
    private: bool = False,
) -> PushedModel:
    """Export a run's newest checkpoint, or one checkpoint, and put it on a hub.

    Args:
        checkpoint: a run, or one of its checkpoints.
        repo: where to; made if it is not there.
        layout: as of `export_checkpoint`, and so are the next four.
        options: see layouts.py.
        tokenizer: another tokenizer.json, or `none`.
        bos: the token that begins a document.
        eos: the token that ends one.
        private: of a repository that is made.

    Raises:
        UserError: the revision is there with another content; `layout` makes no folder.
        AccessDenied: the token may not write there, or there is none.
        StoreUnavailable: the hub does not answer now; the same command goes on.
    """
    if layout == "gguf":
        raise UserError("--layout gguf: what is pushed is a folder that transformers opens: bamba or granite")
    saved = SavedCheckpoint(checkpoint)
    revision = revision_of(saved)
    with tempfile.TemporaryDirectory(prefix="push-", dir=scratch_folder()) as work:
        folder = Path(work) / "model"
        export_checkpoint(checkpoint, folder, layout, options, tokenizer, bos, eos)
        repo.make(private)
        if commit := repo.tags().get(revision):
            if differs := _differing(folder, repo.files(commit)):
                raise UserError(
                    f"{repo.url}: has a revision {revision} of other weights or another layout ({differs}): push to "
                    "another repository, or delete that tag there"
                )
            return PushedModel(repo.url, revision, commit, was_there=True, readme_left_alone=False)
        head = repo.head()
        left_alone = CARD in repo.files(head) and _MARK not in repo.read(CARD, head, Path(work))
        if left_alone:
            (folder / CARD).unlink()
        repo.upload(folder, f"Step {saved.commit['step']:,}", delete=OURS)
        commit = repo.head()
        if differs := _differing(folder, repo.files(commit)):
            raise UserError(f"{repo.url}: {differs} is not what was sent: somebody else pushes there; run it again")
        repo.tag(revision, commit, f"Checkpoint {digest(saved.commit)}")
    return PushedModel(repo.url, revision, commit, was_there=False, readme_left_alone=left_alone)


def revision_of(saved: SavedCheckpoint) -> str:
    """The name of a checkpoint among the revisions of its run: `step1200-tokens4915200`; of an average, which has no
    tokens of its own, `average-` and how the digest of its parents begins."""
    if parents := saved.commit.get("averaged"):
        return f"average-{digest(parents)[:12]}"
    tokens: dict[str, int] = saved.commit.get("tokens") or {}
    return f"step{saved.commit['step']}-tokens{sum(tokens.values())}"


def _differing(folder: Path, there: dict[str, HubFile]) -> str:
    """The first file of the folder that is not on the hub as it is here; "" if all are. The card may be another's."""
    for path in sorted(folder.iterdir()):
        if path.name == CARD:
            continue
        known = there.get(path.name)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if known is None or not known.is_content(path.stat().st_size, sha256, path):
            return path.name
    return ""
