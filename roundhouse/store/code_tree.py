"""The files of the code, as listed by git or found on disk, and one hash of their state."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from roundhouse.errors import RoundhouseError
from roundhouse.store import git

MOST_FILES = 20_000
MOST_BYTES = 1 << 30
MOST_LINKS = 1000  # to files that are not copied
_GIT_LIMIT = 120.0  # seconds
_BLOCK = 1 << 20
_NEVER = {".git", "__pycache__"}
_NO_CODE = {"experiments", "data", "build", "dist"}  # at the top of a tree outside git


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the tree, with its content in `source`; or a symbolic link, with its target in `link`."""

    path: str  # within the tree
    source: Path
    status: os.stat_result
    link: str | None = None

    @property
    def kind(self) -> str:
        if self.link is not None:
            return "link"
        return "program" if self.status.st_mode & stat.S_IXUSR else "file"


def entries_of(tree: Path, left_out: tuple[str, ...] = ()) -> list[Entry]:
    """The files of the code in `tree`, sorted by path: tracked files, and files that git neither tracks nor ignores.

    Outside git: all files except hidden ones, caches, virtual environments, and experiments/, data/, build/ and dist/
    at the top. `left_out`: prefixes of absolute paths that are not code. Links that lead out of the tree are followed,
    other links are entries. RoundhouseError: too many or too large files.
    """
    found: dict[str, Entry] = {}
    _collect(Path(os.path.realpath(tree)), "", left_out, frozenset(), found)
    if len(found) > MOST_FILES or sum(entry.status.st_size for entry in found.values()) > MOST_BYTES:
        raise _too_much(tree, found)
    return [found[path] for path in sorted(found)]


def _collect(
    folder: Path, prefix: str, left_out: tuple[str, ...], within: frozenset[Path], found: dict[str, Entry]
) -> None:
    """Add the files of `folder`, a path without links, to `found`, with paths that begin with `prefix`."""
    within = within | {folder}
    for name in _names(folder, top=not prefix):
        source, path = folder / name, f"{prefix}{name}"
        if f"{source}/".startswith(left_out) or len(found) > MOST_FILES:
            continue
        try:
            status = source.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue  # deleted, but still tracked
        target = Path(os.path.realpath(source))
        if stat.S_ISLNK(status.st_mode) and target.exists() and not target.is_relative_to(folder):
            if target in within:
                found[path] = Entry(path, source, status, str(target))
                continue
            source, status = target, target.stat()
        if stat.S_ISDIR(status.st_mode):  # a link to a directory, or a repository within this one
            _collect(source, f"{path}/", left_out, within, found)
        elif stat.S_ISREG(status.st_mode):
            found[path] = Entry(path, source, status)
        elif stat.S_ISLNK(status.st_mode):
            link = os.path.relpath(target, source.parent) if target.exists() else os.readlink(source)
            found[path] = Entry(path, source, status, link)


def _names(folder: Path, top: bool) -> set[str]:
    """Paths within the folder: of files, links, and nested repositories."""
    try:
        listed = git.ask(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard", limit=_GIT_LIMIT)
    except subprocess.TimeoutExpired:
        raise RoundhouseError(
            f"git did not list the files of {folder} within {_GIT_LIMIT:g} s: call runner.py again"
        ) from None
    if listed.refusal:
        raise RoundhouseError(f"the code in {folder} cannot be copied, since git does not list it: {listed.refusal}")
    return {os.fsdecode(name).rstrip("/") for name in listed.out.split(b"\0") if name} or set(_walk(folder, top))


def _walk(folder: Path, top: bool) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        at_top = top and place == str(folder)
        folders[:] = [name for name in folders if _may_hold_code(Path(place, name), at_top)]
        for name in [*names, *(name for name in folders if os.path.islink(f"{place}/{name}"))]:
            if not name.startswith("."):
                yield os.path.relpath(f"{place}/{name}", folder)


def _may_hold_code(folder: Path, at_top: bool) -> bool:
    if folder.name.startswith(".") or folder.name in _NEVER or folder.name.endswith(".egg-info"):
        return False
    return not (at_top and folder.name in _NO_CODE) and not (folder / "pyvenv.cfg").exists()


def _too_much(tree: Path, found: dict[str, Entry]) -> RoundhouseError:
    sizes: dict[str, int] = {}
    for path, entry in found.items():
        top = path.partition("/")[0]
        sizes[top] = sizes.get(top, 0) + entry.status.st_size
    largest = max(sizes, key=lambda name: sizes[name])
    count = f"more than {MOST_FILES:,}" if len(found) > MOST_FILES else str(len(found))
    return RoundhouseError(
        f"the code in {tree} cannot be copied: {count} files, {sum(sizes.values()) / 1e6:.0f} MB, most of "
        f"them in {largest}. Let git ignore files that are not code (.gitignore), or move them elsewhere"
    )


def left_behind(tree: Path, entries: Sequence[Entry], left_out: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths within the tree that are not entries, such as data/, in all directories that contain entries.

    Python's caches and `left_out` are not among them. RoundhouseError: there are too many.
    """
    root = os.path.realpath(tree)
    folders = {""}
    for entry in entries:
        folders.update(str(parent) for parent in Path(entry.path).parents if str(parent) != ".")
    known = folders | {entry.path for entry in entries}
    count = 0
    for folder in sorted(folders):
        for name in sorted(os.listdir(f"{root}/{folder}")):
            path = f"{folder}/{name}" if folder else name
            if path in known or name in _NEVER or name.endswith(".pyc"):
                continue
            if f"{root}/{path}/".startswith(left_out):
                continue
            count += 1
            if count > MOST_LINKS:
                raise RoundhouseError(
                    f"{tree}/{folder} holds more than {MOST_LINKS:,} files that are not code, next to code: "
                    "move the data to a directory of its own"
                )
            yield path


def stamp_of(entries: Sequence[Entry]) -> str:
    """A hash of sizes and times. If it is unchanged, so are the files, unless one changed within the last seconds."""
    digest = hashlib.sha256()
    for entry in entries:
        status = entry.status
        known = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_mode, entry.link)
        digest.update(b"%s\0%s\0" % (os.fsencode(entry.path), repr(known).encode(errors="surrogateescape")))
    return digest.hexdigest()


def state_of(entries: Sequence[Entry], copy: Path | None = None) -> str:
    """SHA-256 over paths, kinds and contents of the entries; with `copy`, they are copied there too, and synced.

    FileNotFoundError: one of them was removed.
    """
    digest = hashlib.sha256()
    for entry in entries:
        target = copy / entry.path if copy is not None else None
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
        if entry.link is None:
            content = _content(entry, target)
        else:
            content = hashlib.sha256(os.fsencode(entry.link)).hexdigest()
            if target is not None:
                target.symlink_to(entry.link)
        digest.update(b"%s\0%s\0%s\0" % (os.fsencode(entry.path), entry.kind.encode(), content.encode()))
    return digest.hexdigest()


def _content(entry: Entry, target: Path | None) -> str:
    """The SHA-256 of a file. With `target`, it is copied there too, and made read-only."""
    digest = hashlib.sha256()
    mode = stat.S_IMODE(entry.status.st_mode) & 0o555 | stat.S_IRUSR
    with entry.source.open("rb") as source:
        if target is None:
            while block := source.read(_BLOCK):
                digest.update(block)
            return digest.hexdigest()
        with target.open("xb") as file:
            while block := source.read(_BLOCK):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
    return digest.hexdigest()
