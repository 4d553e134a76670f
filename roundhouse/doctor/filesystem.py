"""Checks of the file system of experiments/: exclusive creation, links, locks, free space."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from roundhouse.doctor.account import Account, Finding, missing, ok, warning
from roundhouse.files import create_exclusive

LITTLE_SPACE, FEW_INODES = 10 * 2**30, 20_000  # about what a round of the size of charlie needs

# A second process that tries to lock: it exits with 9 if the lock is held.
SECOND = """\
import filelock, sys
try:
    filelock.FileLock(sys.argv[1]).acquire(timeout=0)
except filelock.Timeout:
    sys.exit(9)
"""


def check_files(account: Account) -> Iterator[Finding]:
    """Tried in a temporary folder, which is removed."""
    place = account.experiments
    if not place.is_dir():
        what = "is a link to nothing" if place.is_symlink() else "does not exist"
        yield missing("experiments", f"{place} {what}: create it, or make it a link to a directory with enough space")
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".check-", dir=place) as folder:
            yield from _try_links(Path(folder))
            yield _try_lock(Path(folder))
    except OSError as error:
        yield missing("experiments", f"{place} cannot be written: {error.strerror}")


def _try_links(folder: Path) -> Iterator[Finding]:
    first, second = (create_exclusive(folder / "one", {"nonce": nonce}) for nonce in "ab")
    if not first or second:
        where = folder.parent
        yield missing("experiments", f"two processes can create the same file in {where}: use another file system")
        return
    try:
        os.link(folder / "one", folder / "two")
        yield ok("experiments", "can be written; files are created exclusively, by hard links")
    except OSError as error:
        yield warning(
            "experiments", f"no hard links ({error.strerror}): files are created exclusively by O_EXCL, which is enough"
        )


def _try_lock(folder: Path) -> Finding:
    import filelock

    command = [sys.executable, "-B", "-c", SECOND, str(folder / "lock")]
    harmless = "Passes may overlap; the record is safe without a lock"
    try:
        with filelock.FileLock(folder / "lock", timeout=5):
            code = subprocess.run(command, check=False, capture_output=True, timeout=60).returncode
    except (NotImplementedError, OSError, subprocess.TimeoutExpired) as error:
        return warning("locks", f"files in experiments/ cannot be locked ({error}). {harmless}")
    if code != 9:
        return warning("locks", f"a lock in experiments/ does not exclude other processes. {harmless}")
    return ok("locks", "a lock in experiments/ excludes other processes of this host")


def check_space(account: Account) -> Iterator[Finding]:
    disk = os.statvfs(account.experiments if account.experiments.is_dir() else account.repository)
    free = disk.f_bavail * disk.f_frsize
    inodes = f", {disk.f_favail} inodes" if disk.f_files else ""
    text = f"{free / 2**30:.0f} GiB free for experiments/{inodes}"
    hint = "as df reports; your quota may be lower: run quota -s"
    if free < LITTLE_SPACE or (disk.f_files and disk.f_favail < FEW_INODES):
        yield warning("space", f"only {text}, {hint}. Make experiments/ a link to a directory with more space")
    else:
        yield ok("space", f"{text}, {hint}")
