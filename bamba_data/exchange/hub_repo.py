"""A repository on a Hugging Face hub, to write into: made, listed, filled, tagged, by huggingface_hub's own client.

The token is that client's business: HF_TOKEN, or what `hf auth login` left. It is in no message of ours.
"""

import contextlib
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bamba_data.cached_property import cached_property
from bamba_data.errors import AccessDenied, StoreUnavailable, Unfinished, UserError, one_line
from bamba_data.storage.addresses import check_endpoint

Kind = Literal["dataset", "model"]
_LOG_IN = "log in (hf auth login) or set HF_TOKEN to a token that may write there"


class HubFile(NamedTuple):
    """A file as the hub lists it: `sha256` of one in LFS, else None; `blob_id` as git names it."""

    size_bytes: int
    sha256: str | None
    blob_id: str

    def is_content(self, size_bytes: int, sha256: str, path: Path | None) -> bool:
        """Whether it is the file of this size and sha256. One that is not in LFS is compared with that at `path`."""
        if size_bytes != self.size_bytes:
            return False
        if self.sha256 is not None:
            return self.sha256 == sha256
        return path is not None and git_blob_id(path.read_bytes()) == self.blob_id


def git_blob_id(data: bytes) -> str:
    """The name that git gives to a file of this content (SHA-1, as git has it)."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class HubRepo:
    """`id` is ORG/NAME. Errors of the hub are errors of ours: AccessDenied, UserError, StoreUnavailable, Unfinished."""

    kind: Kind
    id: str

    @classmethod
    def at(cls, url: str, kind: Kind) -> "HubRepo":
        """Takes `hf://datasets/ORG/NAME`, or `hf://ORG/NAME` of a model, apart. Raises UserError for anything else."""
        wanted = "hf://datasets/ORG/NAME" if kind == "dataset" else "hf://ORG/NAME"
        parts = url.removeprefix("hf://").rstrip("/").split("/")
        if kind == "dataset":
            parts = parts[1:] if parts[0] == "datasets" else []
        is_plain = not any(mark in url for mark in "@?#") and parts[:1] not in (["datasets"], ["spaces"])
        if not url.startswith("hf://") or len(parts) != 2 or not all(parts) or not is_plain:
            raise UserError(f"{url}: expected {wanted}, without a revision or a path: a push makes its own tag")
        return cls(kind, "/".join(parts))

    @property
    def url(self) -> str:
        return f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.id}"

    @cached_property
    def _api(self) -> Any:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars

        if not sys.stderr.isatty():
            disable_progress_bars()
        return HfApi()

    def make(self, private: bool) -> None:
        """The repository, if it is not there yet; `private` decides for a new one alone."""
        with self._faults():
            self._api.create_repo(self.id, repo_type=self.kind, private=private, exist_ok=True)

    def head(self) -> str:
        """The commit that `main` is at."""
        with self._faults():
            return str(self._api.repo_info(self.id, repo_type=self.kind).sha)

    def files(self, revision: str) -> dict[str, HubFile]:
        """Every file of a revision, by path."""
        with self._faults():
            tree = self._api.list_repo_tree(self.id, recursive=True, revision=revision, repo_type=self.kind)
            return {
                item.path: HubFile(item.size, item.lfs.sha256 if item.lfs else None, item.blob_id)
                for item in tree
                if hasattr(item, "blob_id")
            }

    def read(self, path: str, revision: str, folder: Path) -> bytes:
        """A small file, by way of `folder`."""
        with self._faults():
            file = self._api.hf_hub_download(
                self.id, path, repo_type=self.kind, revision=revision, local_dir=str(folder / "read")
            )
        return Path(file).read_bytes()

    def upload(self, folder: Path, message: str, delete: Sequence[str] = ()) -> None:
        """All files of a folder, by the client's upload of large folders: in commits of hundreds of files, and what the
        hub has is not sent again. What matches a pattern of `delete`, and is not in the folder, goes."""
        with self._faults():
            self._api.upload_folder(
                repo_id=self.id,
                folder_path=str(folder),
                repo_type=self.kind,
                commit_message=message,
                delete_patterns=list(delete) or None,
            )

    def commit(self, files: Mapping[str, bytes], message: str, parent: str) -> str:
        """Small files in one commit upon `parent`, which must be the newest; the new commit's id."""
        from huggingface_hub import CommitOperationAdd

        with self._faults():
            operations = [CommitOperationAdd(path, data) for path, data in files.items()]
            made = self._api.create_commit(
                self.id, operations, commit_message=message, repo_type=self.kind, parent_commit=parent
            )
        return str(made.oid)

    def tags(self) -> dict[str, str]:
        """The commit of every tag."""
        with self._faults():
            refs = self._api.list_repo_refs(self.id, repo_type=self.kind)
        return {tag.name: str(tag.target_commit) for tag in refs.tags}

    def tag(self, name: str, commit: str, message: str) -> None:
        """Name a commit; a tag that is there stays as it is."""
        with self._faults():
            self._api.create_tag(
                self.id, tag=name, revision=commit, tag_message=message, repo_type=self.kind, exist_ok=True
            )

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """What the client raises, as one of our errors."""
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalTokenNotFoundError,
            OfflineModeIsEnabled,
        )

        check_endpoint("HF_ENDPOINT")
        client_error = HfHubHTTPError.__bases__[0]  # of httpx or httpx2, as the version has it
        try:
            yield
        except (HFValidationError, OfflineModeIsEnabled) as error:
            raise UserError(f"{self.url}: {one_line(error)}") from None
        except LocalTokenNotFoundError:
            raise AccessDenied(f"{self.url}: there is no token: {_LOG_IN}") from None
        except HfHubHTTPError as error:
            raise self._fault(error) from None
        except (client_error, ConnectionError, TimeoutError) as error:
            raise StoreUnavailable(self.url, f"the hub does not answer ({type(error).__name__})") from None

    def _fault(self, error: Any) -> Exception:
        status = getattr(error.response, "status_code", 0)
        said = one_line(getattr(error, "server_message", None) or error)
        if status in (401, 403, 404):
            return AccessDenied(f"{self.url}: the hub refuses ({status}: {said}): {_LOG_IN}")
        if status in (409, 412):
            return Unfinished(f"{self.url}: somebody else changed it this moment ({status}: {said}); run it again")
        if status == 429 or status >= 500 or not status:
            return StoreUnavailable(self.url, f"{status}: {said}")
        return UserError(f"{self.url}: the hub does not take this ({status}: {said})")
