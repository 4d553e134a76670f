"""Delete old kept checkpoints of a run by hand, but never the newest one whose losses are sound.

`python -m studies.genegan.prune --keep 2 DIRECTORY` keeps the newest two, and the newest that is finite and has not
exploded. DIRECTORY is that of an experiment, of one of its attempts, or a folder `snapshots`. A file that
cannot be read is never deleted.
"""

from __future__ import annotations

import argparse
import math
import sys
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from roundhouse.errors import described
from roundhouse.training import StudyError
from roundhouse.training.checkpoint import read_whole
from roundhouse.training.keep import SNAPSHOTS
from studies.commands import whole_number

_EXPLODED = 1000.0  # times the running median of the absolute values


@dataclass(frozen=True)
class Checkpoint:
    """A kept checkpoint. `sound`: its losses were finite and had not exploded, and its weights are finite."""

    name: str
    step: int
    sound: bool


def to_delete(checkpoints: Iterable[Checkpoint], keep: int) -> list[Checkpoint]:
    """All but the newest `keep` and the newest sound one, oldest first."""
    ordered = sorted(checkpoints, key=lambda one: (one.step, one.name))
    kept = set(ordered[max(0, len(ordered) - keep) :]) | set([one for one in ordered if one.sound][-1:])
    return [one for one in ordered if one not in kept]


def exploded(values: Iterable[float]) -> bool:
    """Whether the last of these values of a loss is not finite, or above 1,000 times the running median.

    The median is that of the absolute values before it that have not exploded themselves, so that a loss that stays
    large does not become normal.
    """
    normal: list[float] = []
    wrong = False
    for value in map(abs, values):
        middle = normal[len(normal) // 2] if normal else 0.0
        wrong = not math.isfinite(value) or (middle > 0 and value > _EXPLODED * middle)
        if not wrong:
            insort(normal, value)
    return wrong


def sound(history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no loss has exploded in the last of the recorded rows. A loss is a metric with `loss` in its name."""
    names = {name for row in history for name in row if "loss" in name}
    return not any(exploded(float(row[name]) for row in history if name in row) for name in names)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 1: a file cannot be deleted; 2: the directory has no checkpoints, or an option is wrong."""
    parser = argparse.ArgumentParser(prog="python -m studies.genegan.prune", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("directory", type=Path, help=f"an experiment, an attempt, or a folder {SNAPSHOTS}")
    parser.add_argument("--keep", type=whole_number, default=2, help="how many of the newest to keep; default: 2")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be deleted")
    options = parser.parse_args(arguments)
    files = files_in(options.directory)
    if not files:
        print(f"{options.directory} has no kept checkpoints ({SNAPSHOTS}/*.pth)", file=sys.stderr)
        return 2
    found = [one for name, paths in files.items() if (one := _read(name, paths[-1])) is not None]
    deleted = to_delete(found, options.keep)
    try:
        for one in sorted(found, key=lambda one: (one.step, one.name)):
            what = "keep" if one not in deleted else "would delete" if options.dry_run else "delete"
            print(f"{what:12} {one.name}  step {one.step}{'' if one.sound else '  (not finite, or exploded)'}")
            for path in files[one.name] if what == "delete" else ():
                path.unlink(missing_ok=True)
    except OSError as error:
        print(f"cannot delete {described(error)}", file=sys.stderr)
        return 1
    return 0


def files_in(directory: Path) -> dict[str, list[Path]]:
    """The files of each kept checkpoint by its name, that of the newest attempt last; they are links to the same file.

    A pointer such as `latest.pth`, a symbolic link, is none of them.
    """
    attempts = sorted(
        (one for one in directory.glob("attempts/*") if one.name.isdigit()), key=lambda one: int(one.name)
    )
    folders = [one / SNAPSHOTS for one in (*attempts, directory) if (one / SNAPSHOTS).is_dir()]
    if not folders and directory.resolve().name == SNAPSHOTS:  # never the best.pth of a folder of another kind
        folders = [directory]
    files: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.pth")):
            if not path.is_symlink():
                files.setdefault(path.name, []).append(path)
    return files


def _read(name: str, path: Path) -> Checkpoint | None:
    """What is known of a checkpoint; None if it cannot be read, and the reason on stderr."""
    try:
        content = read_whole(path)
    except StudyError as error:
        print(f"not counted, and not deleted: {error}", file=sys.stderr)
        return None
    return Checkpoint(name, int(content["step"]), sound(content["history"]) and _finite(content["parts"]))


def _finite(value: Any) -> bool:
    """Whether all numbers in tensors, at any depth, are finite."""
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, (list, tuple)) else True


if __name__ == "__main__":
    sys.exit(main())
