"""Copies the files of an earlier attempt into a command's directory, so that an unchanged command resumes from them.

The files are copied into a draft folder in the job's own attempt, made durable, and renamed; then carried.json is
written. environment.json follows when the command is about to start. So a job that dies at any moment leaves an attempt
from which no other one copies.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from roundhouse import files
from roundhouse.errors import RoundhouseError
from roundhouse.formatting import counted
from roundhouse.jobs.worker import ClaimedAttempt, Leave
from roundhouse.model.attempt import Attempt, Record
from roundhouse.model.causes import Cause
from roundhouse.model.exit_codes import ENDINGS, JobExitCode
from roundhouse.model.retry import since_retry
from roundhouse.store import carried, record
from roundhouse.store.carried import Carried, CarriedFile

DRAFT = ".files.draft"
TRIES = 3  # how often an attempt's files are copied while another process changes them
PAUSE = 0.5  # seconds between two of these copies
STUCK_AFTER = 2  # attempts in a row that reached their walltime and changed nothing

_FICLONE = 0x40049409  # from linux/fs.h: the copy shares the blocks of the original
_CHUNK = 1 << 24
_CHANGED = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ELOOP, errno.ENXIO}  # the source is not there any more
_SECOND = 10**9


class Seen(NamedTuple):
    """A file as it was when it was listed. Of a directory, only that it is one."""

    mode: int
    inode: int = 0
    size: int = 0
    mtime_ns: int = 0

    @classmethod
    def of(cls, status: os.stat_result) -> Seen:
        """The file with this status."""
        if stat.S_ISDIR(status.st_mode):
            return cls(stat.S_IFDIR)
        return cls(status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns)


def prepare_files(claimed: ClaimedAttempt) -> None:
    """Create the command's directory, with the files of the newest earlier attempt whose command was started.

    Leave: the command would not get any further than before, or a stop was requested.
    RoundhouseError: the record cannot be read, or the files cannot be copied, for instance because the disk is full.
    """
    if not claimed.attempt.opened.files:
        return  # opened by an earlier version: its directory is that of the record, and nothing is copied
    rec = record.read(claimed.directory)
    if rec.damage:
        raise RoundhouseError(rec.damage)  # to start without files would lose what earlier attempts did
    started = [one for one in rec.resumable(claimed.number) if carried.was_started(claimed.directory, one)]
    if not started:
        files.make_directory(claimed.files)
        return
    unchanged = _unchanged_walltimes(claimed, rec, started[-1])
    if unchanged >= STUCK_AFTER:
        raise Leave(JobExitCode.STUCK, ENDINGS[JobExitCode.STUCK].why)
    same = all(one.opened.identity == claimed.attempt.opened.identity for one in started)
    claimed.report(exact="unknown" if same else False)
    source, copied = _copy_newest(claimed, started)
    carried.write(claimed.directory, claimed.number, Carried(source, copied, unchanged))
    globs = claimed.attempt.opened.carry
    if source is not None and globs and not copied:
        print(f"roundhouse: no file of attempt {source} matches `carry` ({', '.join(globs)})", flush=True)
    if copied:
        size = sum(one.size for one in copied.values()) / 1e6
        print(f"roundhouse: copied {counted(len(copied), 'file')} ({size:.1f} MB) from attempt {source}", flush=True)


def _copy_newest(claimed: ClaimedAttempt, started: list[Attempt]) -> tuple[int | None, dict[str, CarriedFile]]:
    """Copy the files of the newest of these attempts that can be copied; its number, and the files."""
    draft = claimed.place / DRAFT
    sources = [one for one in reversed(started) if not carried.was_freed(claimed.directory, one)]
    try:
        for source in sources if claimed.attempt.opened.carry != () else ():
            shutil.rmtree(draft, ignore_errors=True)
            files.make_directory(draft)
            copied = _Copy(claimed, source, draft).make()
            freed = carried.was_freed(claimed.directory, source)  # by a pass, meanwhile: then some may be missing
            if copied is not None and not freed:
                os.rename(draft, claimed.files)
                files.sync_directory(claimed.place)
                return source.number, copied
            why = f"they changed each of the {TRIES} times that they were copied: another process still writes there"
            why = "some of them were deleted while they were copied" if freed else why
            print(f"roundhouse: the files of attempt {source.number} are not used: {why}", flush=True)
    except OSError as error:
        raise RoundhouseError(
            f"{error.filename or claimed.place}: the files of an earlier attempt could not be copied: "
            f"{error.strerror or error}. `carry` in the round file names the files that the command needs"
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    files.make_directory(claimed.files)
    return None, {}


# ------------------------------------------------------------------------------ whether earlier attempts got further


def _unchanged_walltimes(claimed: ClaimedAttempt, rec: Record, source: Attempt) -> int:
    """How many attempts in a row, up to `source`, reached their walltime without progress or a changed file.

    It starts at 0 again after `--retry`, and if this job has more time.
    """
    reported = source.progress is not None and source.progress.reported
    if source.cause is not Cause.WALLTIME or reported or source not in since_retry(rec.attempts):
        return 0
    mine, before = (one.opened.resources.get("walltime_s") or 0 for one in (claimed.attempt, source))
    began = carried.read(claimed.directory, source.number) or Carried()
    if mine > before or _has_changed(claimed.directory, source, began.files):
        return 0
    return began.unchanged_walltimes + 1


def _has_changed(directory: Path, attempt: Attempt, before: Mapping[str, CarriedFile]) -> bool:
    """Whether an attempt's files differ from those that it began with."""
    folder = record.files_directory(directory, attempt)
    now = {name for name, seen in _listed(folder, attempt).items() if not stat.S_ISDIR(seen.mode)}
    if now != before.keys():
        return True
    try:
        return any(
            not one.is_at(folder / name) and _sha256(folder / name) != one.sha256 for name, one in before.items()
        )
    except OSError:
        return True


def _sha256(path: Path) -> str:
    if path.is_symlink():
        return hashlib.sha256(os.fsencode(os.readlink(path))).hexdigest()
    with path.open("rb", buffering=0) as file:
        return _digest(file.fileno(), lambda: None)


def _digest(descriptor: int, check: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    os.lseek(descriptor, 0, os.SEEK_SET)
    while chunk := os.read(descriptor, _CHUNK):
        digest.update(chunk)
        check()
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------- listing


def _listed(folder: Path, attempt: Attempt) -> dict[str, Seen]:
    """All files, links and directories of an attempt by their path in `folder`, a directory before its content.

    Left out: progress.json, and with the old layout all files of the record.
    """
    left_out = {record.PROGRESS} if attempt.opened.files else record.OF_AN_ATTEMPT
    found = {}
    for name, seen in _walk(folder, ""):
        top = name.partition("/")[0]
        if top not in left_out and (attempt.opened.files or not top.startswith(".draft-")):
            found[name] = seen
    return found


def _walk(folder: Path, below: str) -> Iterator[tuple[str, Seen]]:
    """What cannot be copied (FIFOs, sockets, devices) is listed too. What vanishes meanwhile is left out."""
    try:
        entries = sorted(os.scandir(folder / below), key=lambda one: one.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        name = f"{below}/{entry.name}" if below else entry.name
        try:
            seen = Seen.of(entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            continue
        yield name, seen
        if stat.S_ISDIR(seen.mode):
            yield from _walk(folder, name)


def _matching(found: Mapping[str, Seen], globs: tuple[str, ...]) -> dict[str, Seen]:
    """What a glob fits, or a directory above it, and the directories that lead there. `*` also matches `/`."""
    kept: set[str] = set()
    for name in found:
        above = [str(part) for part in PurePosixPath(name).parents][:-1]
        if any(fnmatchcase(part, glob) for part in (name, *above) for glob in globs):
            kept.update(above, [name])
    return {name: seen for name, seen in found.items() if name in kept}


# ------------------------------------------------------------------------------------------------------- copying


class _Copy:
    """One copy of an attempt's files into a draft."""

    def __init__(self, claimed: ClaimedAttempt, source: Attempt, draft: Path) -> None:
        self._claimed, self._source, self._draft = claimed, source, draft
        self._folder = record.files_directory(claimed.directory, source)
        self._copied: dict[str, tuple[Seen, CarriedFile | None]] = {}

    def make(self) -> dict[str, CarriedFile] | None:
        """Copy everything; what changed meanwhile is copied again. None: it changed each time."""
        recent: set[str] = set()
        for left in reversed(range(TRIES)):
            os.utime(self._draft)
            now = os.stat(self._draft).st_mtime_ns  # by the file server's clock
            found = self._wanted(report=left == TRIES - 1)
            for name in [one for one in self._copied if one in recent or self._copied[one][0] != found.get(one)][::-1]:
                _remove(self._draft / name)  # a directory after what is in it
                del self._copied[name]
            for name, seen in found.items():
                if name not in self._copied:
                    self._copy(name, seen)
            # A file that changed just now may have changed once more without getting another time.
            recent = {name for name, seen in found.items() if 0 <= seen.mtime_ns - now < _SECOND}
            complete = not recent and found == self._wanted() and found.keys() == self._copied.keys()
            if complete and all(self._is_still(name, seen) for name, seen in found.items()):
                self._finish_directories()
                return {name: one for name, (_, one) in self._copied.items() if one is not None}
            time.sleep(PAUSE if left else 0)
        return None

    def _wanted(self, report: bool = False) -> dict[str, Seen]:
        """What is to be copied, each directory before its content."""
        globs, found = self._claimed.attempt.opened.carry, _listed(self._folder, self._source)
        found = found if globs is None else _matching(found, globs)
        special = [name for name, seen in found.items() if not _can_be_copied(seen.mode)]
        for name in special:
            del found[name]
            if report:
                print(f"roundhouse: {name!a} is not copied: it is not a file, directory or link", flush=True)
        return found

    def _is_still(self, name: str, seen: Seen) -> bool:
        """Whether a file is unchanged. It is opened, because network file systems answer a listing from a cache."""
        if not stat.S_ISREG(seen.mode):
            return True
        try:
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            return Seen.of(os.fstat(descriptor)) == seen
        finally:
            os.close(descriptor)

    def _copy(self, name: str, seen: Seen) -> None:
        """Copy one file, link or directory. If it has vanished, it is not added to what was copied."""
        self._check_stop()
        target = self._draft / name
        if stat.S_ISDIR(seen.mode):
            target.mkdir()
            self._copied[name] = seen, None
            return
        try:
            if stat.S_ISLNK(seen.mode):
                copied = self._copy_link(self._folder / name, target)
            else:
                copied = self._copy_file(self._folder / name, target, seen)
        except OSError as error:
            if error.errno not in _CHANGED:
                raise
            _remove(target)
            return
        self._copied[name] = seen, copied

    def _copy_link(self, source: Path, target: Path) -> CarriedFile:
        """A link into the attempt's own files, with an absolute path, leads to the copied files afterwards."""
        leads_to = os.readlink(source)
        for folder in (self._folder, self._folder.resolve()):
            if Path(leads_to).is_relative_to(folder):
                leads_to = str(self._claimed.files / Path(leads_to).relative_to(folder))
                break
        target.symlink_to(leads_to)
        status = os.lstat(target)
        return CarriedFile(status.st_size, status.st_mtime_ns, _sha256(target))

    def _copy_file(self, source: Path, target: Path, seen: Seen) -> CarriedFile:
        reads = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if Seen.of(os.fstat(reads)) != seen:
                raise FileNotFoundError(errno.ENOENT, "it was replaced", str(source))
            writes = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                self._copy_content(reads, writes)
                digest = _digest(writes, self._check_stop)
                os.fchmod(writes, stat.S_IMODE(seen.mode))
                os.utime(writes, ns=(seen.mtime_ns, seen.mtime_ns))
                os.fsync(writes)
                status = os.fstat(writes)
                return CarriedFile(status.st_size, status.st_mtime_ns, digest)
            finally:
                os.close(writes)
        finally:
            os.close(reads)

    def _copy_content(self, reads: int, writes: int) -> None:
        """Share the blocks if the file system can; else let it copy them; else copy what is left through memory."""
        with suppress(OSError):
            fcntl.ioctl(writes, _FICLONE, reads)
            return
        try:
            while os.copy_file_range(reads, writes, _CHUNK):
                self._check_stop()
        except AttributeError:
            pass  # this Python was built for systems without it
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
        while chunk := memoryview(os.read(reads, _CHUNK)):
            while chunk:
                chunk = chunk[os.write(writes, chunk) :]
            self._check_stop()

    def _finish_directories(self) -> None:
        """Give the directories their modes and make them durable, the inner ones first."""
        for name in [name for name, (_, copied) in self._copied.items() if copied is None][::-1]:
            with suppress(FileNotFoundError):
                os.chmod(self._draft / name, stat.S_IMODE(os.stat(self._folder / name).st_mode))
            files.sync_directory(self._draft / name)
        files.sync_directory(self._draft)

    def _check_stop(self) -> None:
        if self._claimed.stop_reason:
            raise Leave(JobExitCode.STOPPED, "stopped before the command was started")


def _can_be_copied(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
