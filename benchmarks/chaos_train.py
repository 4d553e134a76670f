#!/usr/bin/env python3
"""A command for chaos.py: a chain of SHA-256, one link for each epoch. It can be killed at any time, and resumes.

With `--resume earlier` it knows Roundhouse: it looks for its state in ROUNDHOUSE_EARLIER and reports its progress. With
`--resume here` it does not, as an ordinary script: it continues if there is a state in its own output directory. It
keeps a file for each epoch there, and checks these files when it continues.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from chaos_journal import Journal

PART = 4096  # times 64 bytes: the size of a file of one epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="duration of an epoch")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", choices=["earlier", "here"], required=True)
    options = parser.parse_args()
    journal = Journal(options.path, int(os.environ["ROUNDHOUSE_ATTEMPT"]))
    journal.hold()
    knows = options.resume == "earlier"
    folders = os.environ["ROUNDHOUSE_EARLIER"].split(os.pathsep) if knows else [str(options.out)]
    first = link(f"{options.seed} {inputs()}")
    epoch, value = resumed(folders) or (0, first)
    started = epoch
    journal.note("start", epoch=started)
    if not knows:
        check_parts(options.out, first, epoch, journal)
    while epoch < options.epochs:
        time.sleep(options.seconds)
        epoch, value = epoch + 1, link(f"{value} {epoch}")
        if not knows:
            write_part(options.out, epoch, value)
        replace(options.out / "state.json", [epoch, value])
        if knows:
            progress = {"epoch": epoch, "epochs": options.epochs, "started_epoch": started}
            replace(options.out / "progress.json", {"version": 1, **progress})
        journal.note("saved", epoch=epoch)
    replace(options.out / "metrics.json", {"hash": value})
    journal.note("end", hash=value)


def resumed(folders: list[str]) -> tuple[int, str] | None:
    """(epoch, value) of the newest state."""
    for folder in filter(None, folders):
        if (state := Path(folder, "state.json")).exists():
            epoch, value = json.loads(state.read_text())
            return epoch, value
    return None


def write_part(folder: Path, epoch: int, value: str) -> None:
    (folder / "parts").mkdir(exist_ok=True)
    (folder / "parts" / str(epoch)).write_text(value * PART)


def check_parts(folder: Path, value: str, epochs: int, journal: Journal) -> None:
    """Note each file of an epoch that is missing or has another content than the one written."""
    for epoch in range(1, epochs + 1):
        value = link(f"{value} {epoch - 1}")
        part = folder / "parts" / str(epoch)
        if not part.exists() or part.read_text() != value * PART:
            journal.note("damaged", file=str(part))


def inputs() -> str:
    """The results that this experiment depends on."""
    names = sorted(name for name in os.environ if name.startswith("ROUNDHOUSE_INPUT_"))
    folders = [folder for name in names for folder in os.environ[name].split(os.pathsep)]
    return " ".join(json.loads(Path(folder, "metrics.json").read_text())["hash"] for folder in folders)


def link(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def replace(file: Path, content: Any) -> None:
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps(content))
    os.replace(draft, file)


if __name__ == "__main__":
    main()
