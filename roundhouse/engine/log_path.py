"""Log paths for the headers of job scripts, without characters that qsub, sbatch or their servers misread.

PBS takes no quotes and no letters beyond ASCII in `-o`, and splits it at a colon; Slurm replaces `%`; Slurm's qsub
takes no blanks. A path with such a character is replaced by a link in the home directory.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

PLAIN = re.compile(r"[A-Za-z0-9_.+=@/-]+")
LINKS = ".roundhouse/links"  # in the home directory


def plain_path(path: Path) -> Path | None:
    """An absolute path as it is, or through a link, with plain characters only; None if that fails."""
    if PLAIN.fullmatch(str(path)):
        return path
    parts = path.parts
    behind = 1 + max(number for number, part in enumerate(parts) if not PLAIN.fullmatch(part))
    try:
        link = _link_to(Path(*parts[:behind]))
    except (OSError, RuntimeError, ValueError):  # no home directory, or one in which no link can be made
        return None
    return link.joinpath(*parts[behind:]) if PLAIN.fullmatch(str(link)) else None


def _link_to(directory: Path) -> Path:
    """The link to a directory; it is made if it does not exist yet."""
    links = Path.home() / LINKS
    link = links / hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    if not link.is_symlink():
        links.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # another pass has just made it
            link.symlink_to(directory)
    return link
