"""Certificates that this host has proven, so that a proof costs its seconds once and not in every process.

A certificate is believed only if everything that its proof rests on is the same: the tokenizer's bytes, the files of
both libraries (pip's record of their digests, so a rebuilt wheel of the same version counts as another), our own code
that makes the ids and the corpus, the Python and the machine. All of it stands in a sealed record. The corpus follows
from code, tokenizer and Python: to make it again, only to compare it, would cost most of a second. Whatever differs, is
damaged or cannot be read is proven anew; a folder that cannot be used costs only the seconds.
"""

import contextlib
import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bamba_data import canonical_json
from bamba_data.errors import BambaError
from bamba_data.records import seal, unseal
from bamba_data.storage.local_disk import cache_folder, private_folder
from bamba_data.storage.store import LocalStore
from bamba_data.tokenization import tokenizer as encoding_code
from bamba_data.tokenization import utf16
from bamba_data.tokenization.tokenizer import REFERENCE, Backend, Tokenizer

FORMAT = "bamba-certificate/1"
MAX_BYTES = 1 << 14


@dataclass(frozen=True)
class Proof:
    """What a certificate rests on, by name."""

    premises: dict[str, str]

    @property
    def path(self) -> str:
        """Its record's name in the folder."""
        return f"{canonical_json.digest(self.premises)[:32]}.json"


def proof_of(tokenizer: Tokenizer, backend: Backend, proving_code: Path) -> Proof | None:
    """The premises of a certificate of `backend`, or None where a library's files are not known (a backend that was
    not installed by pip): its certificate is never kept."""
    files = {}
    for name in {backend.name, REFERENCE}:
        try:
            record = importlib.metadata.distribution(name).read_text("RECORD")
        except importlib.metadata.PackageNotFoundError:
            record = None
        if record is None:
            return None
        files[f"files of {name}"] = canonical_json.sha256(record.encode())
    files_of_code = (Path(encoding_code.__file__), Path(utf16.__file__), proving_code)
    code = b"".join(file.read_bytes() for file in files_of_code)
    return Proof(
        {
            "format": FORMAT,
            "tokenizer": tokenizer.sha256,
            "backend": f"{backend.name} {backend.version}",
            "reference": f"{REFERENCE} {tokenizer.reference.version}",
            "code": canonical_json.sha256(code),
            "python": platform.python_version(),
            "machine": f"{platform.node()} {platform.machine()}",
            **files,
        }
    )


def kept(proof: Proof) -> dict[str, Any] | None:
    """The fields of the certificate that was proven from the same premises, or None."""
    with contextlib.suppress(BambaError, OSError):
        fields = unseal(_folder().read(proof.path), proof.path, MAX_BYTES)
        if fields.keys() == {"premises", "certificate"} and fields["premises"] == proof.premises:
            return dict(fields["certificate"])
    return None


def keep(proof: Proof, certificate: dict[str, Any]) -> None:
    """Write the record of a certificate's fields, in the place of one that is damaged."""
    with contextlib.suppress(BambaError, OSError):
        _folder().put(proof.path, seal({"premises": proof.premises, "certificate": certificate}))


def _folder() -> LocalStore:
    return LocalStore(private_folder(cache_folder() / "certificates"))
