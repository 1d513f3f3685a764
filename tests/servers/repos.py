"""Dataset repos as commits: a commit id is a digest of the folder's contents; old commits stay readable."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

LFS_SUFFIXES = (".parquet", ".gz", ".zst", ".zstd")
LFS_MIN_BYTES = 64 * 1024
LFS_POINTER_BYTES = 134


@dataclass
class HubError(Exception):
    """An error as the hub tells it: the code goes into X-Error-Code, which is what clients look at."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Blob:
    """The content of one file, and the three names that three servers give it."""

    content: bytes

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @cached_property
    def store_etag(self) -> str:
        """As object stores and CDNs give it: an md5, not the sha256 that the hub tells."""
        return f'"{hashlib.md5(self.content).hexdigest()}"'


Tree = Mapping[str, Blob]


def is_lfs(path: str, blob: Blob) -> bool:
    return path.endswith(LFS_SUFFIXES) or len(blob.content) >= LFS_MIN_BYTES


@dataclass
class Repos:
    """The repos below a folder <org>/<name>/..."""

    folder: Path
    _heads: dict[str, str] = field(default_factory=dict)
    _commits: dict[tuple[str, str], Tree] = field(default_factory=dict)
    _tags: dict[str, dict[str, str]] = field(default_factory=dict)

    def head(self, repo: str) -> str:
        """The commit of `main`; the first call makes it."""
        return self._heads.get(repo) or self.push(repo)

    def push(self, repo: str) -> str:
        """Moves `main` to a commit of the folder as it is now."""
        folder = self.folder / repo
        if not folder.is_dir():
            raise HubError(404, "RepoNotFound", f"Repository {repo} not found")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return self._head(repo, {path.relative_to(folder).as_posix(): Blob(path.read_bytes()) for path in files})

    def _head(self, repo: str, tree: Tree) -> str:
        names = "".join(f"{path}\0{blob.sha256}\n" for path, blob in tree.items())
        commit = hashlib.sha1(names.encode()).hexdigest()
        self._commits[repo, commit] = tree
        self._heads[repo] = commit
        return commit

    def make(self, repo: str) -> bool:
        """A new repo, with the one file that a hub puts into it; False if it is there."""
        folder = self.folder / repo
        if folder.exists():
            return False
        folder.mkdir(parents=True)
        (folder / ".gitattributes").write_text("*.parquet filter=lfs diff=lfs merge=lfs -text\n")
        return True

    def commit(self, repo: str, tree: Tree) -> str:
        """Moves `main` to a commit of these files, and makes the folder so."""
        folder = self.folder / repo
        for gone in self._commits[repo, self.head(repo)].keys() - tree.keys():
            (folder / gone).unlink()
        for path, blob in tree.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(blob.content)
        return self._head(repo, dict(sorted(tree.items())))

    def tag(self, repo: str, name: str, commit: str) -> bool:
        """Names a commit; False if the name is taken."""
        return self._tags.setdefault(repo, {}).setdefault(name, commit) == commit

    def tags(self, repo: str) -> dict[str, str]:
        return self._tags.get(repo, {})

    def at(self, repo: str, revision: str) -> tuple[str, Tree]:
        """The commit that a revision means, and its files."""
        head = self.head(repo)
        commit = head if revision == "main" else self.tags(repo).get(revision, revision)
        if (repo, commit) not in self._commits:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, self._commits[repo, commit]


def listing(tree: Tree, folder: str, recursive: bool) -> list[str]:
    """The files and folders below a folder, or the one file of that name."""
    prefix = f"{folder}/" if folder else ""
    files = [path for path in tree if path.startswith(prefix) or path == folder]
    if not files:
        raise HubError(404, "EntryNotFound", f"{folder} does not exist")
    parents = (parent.as_posix() for path in files for parent in Path(path).parents)
    paths = {*files, *(parent for parent in parents if parent != "." and parent.startswith(prefix))}
    return sorted(path for path in paths if recursive or "/" not in path.removeprefix(prefix))


def tree_entry(tree: Tree, path: str) -> dict[str, Any]:
    """A file or folder as the tree endpoint describes it."""
    if path not in tree:
        return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
    blob = tree[path]
    size = len(blob.content)
    lfs = {"lfs": {"oid": blob.sha256, "size": size, "pointerSize": LFS_POINTER_BYTES}}
    return {
        "type": "file",
        "oid": blob.git_oid,
        "size": size,
        "path": path,
        **(lfs if is_lfs(path, blob) else {}),
    }


def sibling(tree: Tree, path: str) -> dict[str, Any]:
    """A file as the info endpoint describes it when asked for blobs."""
    blob = tree[path]
    size = len(blob.content)
    lfs = {"lfs": {"sha256": blob.sha256, "size": size, "pointerSize": LFS_POINTER_BYTES}}
    return {"rfilename": path, "size": size, "blobId": blob.git_oid, **(lfs if is_lfs(path, blob) else {})}
