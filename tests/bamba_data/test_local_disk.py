"""What lies in our scratch was put there by us: another user's folder, or a copy of another size, is not used."""

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bamba_data.errors import AccessDenied
from bamba_data.storage import local_disk
from bamba_data.storage.fetch import _Scratch
from bamba_data.storage.local_disk import naming, private_folder
from bamba_data.storage.locked_file import Facts, LockedFile
from bamba_data.storage.store import LocalStore
from loader.cache.location import default_cache


def test_a_folder_is_made_for_its_user_alone_and_found_again(tmp_path: Path) -> None:
    path = private_folder(tmp_path / "a" / "b")
    (path / "x").write_text("kept")
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert private_folder(path) == path and (path / "x").read_text() == "kept"


def test_one_that_others_can_only_read_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o755)
    assert stat.S_IMODE(private_folder(tmp_path / "a").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o707, 0o1777])
def test_one_that_others_can_write_is_refused(mode: int, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(mode)
    with pytest.raises(AccessDenied, match="can be written by others"):
        private_folder(tmp_path / "a")


def test_a_link_a_file_and_a_folder_of_another_user_are_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    (tmp_path / "file").write_text("")
    with pytest.raises(AccessDenied, match="is a symbolic link"):
        private_folder(tmp_path / "link")
    with pytest.raises(AccessDenied, match="is no folder"):
        private_folder(tmp_path / "file")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(AccessDenied, match="not sticky"):
        private_folder(tmp_path / "open" / "a")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
def test_a_folder_that_another_user_was_quicker_to_make_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_disk.tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("BAMBA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder can be made below it")
    for name, used in (
        (f"bamba-data-scratch-{os.geteuid()}", local_disk.scratch_folder),
        (f"bamba-cache-{os.geteuid()}", default_cache),
    ):
        (tmp_path / name).mkdir(mode=0o700)
        os.chown(tmp_path / name, 12345, 12345)
        with pytest.raises(AccessDenied, match="belongs to user 12345"):
            used()


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder and a user's cache folder of the test's own: `temporary` and `cache` below it."""
    (tmp_path / "temporary").mkdir(mode=0o700)
    (tmp_path / "cache").mkdir(mode=0o755)
    monkeypatch.setattr(local_disk.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.delenv("BAMBA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="XDG_CACHE_HOME is of Linux")


@linux_only
def test_the_cache_is_the_platform_s_and_a_variable_s_before_it(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_cache() == homes / "cache" / "bamba-data"
    assert stat.S_IMODE(default_cache().stat().st_mode) == 0o700
    monkeypatch.setenv("BAMBA_CACHE", str(homes / "named"))
    assert default_cache() == homes / "named"


@linux_only
def test_a_cache_of_before_is_used_on_until_it_goes(homes: Path) -> None:
    earlier = homes / "temporary" / f"bamba-cache-{os.geteuid()}"
    earlier.mkdir(mode=0o700)
    assert default_cache() == earlier
    earlier.rmdir()
    assert default_cache() == homes / "cache" / "bamba-data"


@linux_only
def test_a_home_that_others_can_write_or_that_is_no_folder_has_no_cache(
    homes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = homes / "temporary" / f"bamba-cache-{os.geteuid()}"
    (homes / "cache").chmod(0o777)
    assert default_cache() == temporary
    monkeypatch.setenv("XDG_CACHE_HOME", str(homes / "file"))
    (homes / "file").write_text("")
    assert default_cache() == temporary


@pytest.mark.parametrize("locked", [True, False], ids=["its digest is locked", "only its size is locked"])
def test_a_left_copy_of_another_size_or_digest_is_not_taken_over(locked: bool, tmp_path: Path) -> None:
    """28 bytes, under a name that says their digest, where 123,456 are expected."""
    planted, real = b"{'text': 'planted for you'}\n", b"r" * 123_456
    digest = hashlib.sha256(real).hexdigest() if locked else None
    file = LockedFile("a", "x.parquet", "https://there/x.parquet", Facts(len(real), '"etag"', digest))
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    ours = _Scratch(tmp_path, file)
    ours._owner = f"{int(dead.stdout)}-1"
    ours.copy(hashlib.sha256(planted).hexdigest()).write_bytes(planted)
    assert _Scratch(tmp_path, file).take_over(digest) is None
    assert list(tmp_path.iterdir()) == []
    ours.copy(hashlib.sha256(real).hexdigest()).write_bytes(real)
    assert _Scratch(tmp_path, file).take_over(digest) == hashlib.sha256(real).hexdigest()


def test_a_write_that_fails_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, naming("/there/x"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == "/there/x"


def test_a_store_on_a_full_disk_says_which_object(tmp_path: Path) -> None:
    script = f"""
import resource
from bamba_data.storage.store import LocalStore
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    LocalStore({str(tmp_path)!r}).put("a/b", bytes(5000))
except OSError as error:
    print(error.filename, error.strerror)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"{tmp_path}/a/b File too large"
    assert list(LocalStore(tmp_path).list()) == []
