"""Download, verify and prepare data sets, on a host with internet access; `toolbox/setup.sh --data NAME` calls it."""

from __future__ import annotations

import argparse
import http.client
import shutil
import socket
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from roundhouse.errors import RoundhouseError as StudyError
from roundhouse.options import choose
from studies.data_files import data_directory, file_digest, replacing
from studies.distillation.sources import SOURCES, File, damaged, flaw

NAMES = tuple(SOURCES)
_TIMEOUT = 30.0  # seconds without an answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: all data sets are present and valid; 1: some are not; 2: an option is wrong."""
    parser = argparse.ArgumentParser(prog="python -m studies.distillation.fetch", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(SOURCES))
    parser.add_argument("--to", type=Path, metavar="DIR", help="the data directory; default: that of the repository")
    parser.add_argument("--check", action="store_true", help="download nothing, only verify all files")
    options = parser.parse_args(arguments)
    try:
        for name in options.names:
            choose("dataset", name, SOURCES)
    except StudyError as error:
        print(f"--data: {error}", file=sys.stderr)
        return 2
    return max([_one(name, options.to, options.check) for name in options.names])


def _one(name: str, data: Path | None, check: bool) -> int:
    try:
        if not check:
            fetch(name, data)
        elif damage := damaged(name, data):
            raise StudyError(damage)
    except StudyError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    except OSError as error:
        print(f"{name}: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr, flush=True)
        return 1
    print(f"{name}: good, in {data_directory(data)}" if SOURCES[name].files else f"{name}: comes with scikit-learn")
    return 0


def fetch(name: str, data: Path | None) -> None:
    """Download and verify a data set in folder `data` (None: the repository's). Valid files are kept.

    StudyError: the download failed; the message has instructions for a manual download. OSError: a write failed.
    """
    if not damaged(name, data):
        return
    folder = data_directory(data)
    folder.mkdir(parents=True, exist_ok=True)
    for file in SOURCES[name].downloads:
        _download(name, file, folder)
        if file.path.endswith(".tar.gz"):
            _unpack(name, folder / file.path, folder)
        elif file.path.endswith(".zip"):
            _decode(folder / file.path, folder)
    if damage := damaged(name, data):
        raise StudyError(damage)


def _download(name: str, file: File, folder: Path) -> None:
    """Download a published file into the folder, unless a valid one is there."""
    from torchvision.datasets.utils import download_url  # type: ignore[import-untyped]

    path = folder / file.path
    wrong = flaw(file, folder, thorough=True)
    if not wrong:
        return
    print(f"{name}: downloading {file.url}" + (f", because {path} {wrong}" if path.exists() else ""), flush=True)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        with replacing(path) as part:
            download_url(file.url, folder, part.name, file.md5)
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        raise StudyError(f"{name}: {file.url} {_reason(error)}. {_by_hand(name, folder)}") from error
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    if isinstance(error, RuntimeError):  # torchvision's, for a digest that differs
        return "sent something else, or only a part: its MD5 differs"
    return f"could not be fetched ({getattr(error, 'reason', None) or error or type(error).__name__})"


def _by_hand(name: str, folder: Path) -> str:
    lines = ["By hand, where there is a network, fetch"]
    for file in SOURCES[name].downloads:
        if wrong := flaw(file, folder, thorough=True):
            there = f"; the existing file is not used: it {wrong}" if (folder / file.path).exists() else ""
            lines.append(f"  {file.url} (MD5 {file.md5}) as {folder / file.path}{there}")
    return "\n".join([*lines, "and run the same command again"])


def _unpack(name: str, archive: Path, folder: Path) -> None:
    """Extract the files of a data set, and nothing else, from its verified archive."""
    with tarfile.open(archive) as tar:
        for file in SOURCES[name].files:
            if not flaw(file, folder, thorough=True):
                continue
            member = tar.extractfile(file.path)
            assert member is not None
            (folder / file.path).parent.mkdir(exist_ok=True)
            with member, replacing(folder / file.path) as part, part.open("wb") as target:
                shutil.copyfileobj(member, target)


def _decode(archive: Path, folder: Path) -> None:
    """Write the decoded images of TinyImageNet into one file that loads in seconds, and its digest into another."""
    import numpy as np

    from studies.distillation.readers import decode_tinyimagenet

    print("tinyimagenet: decoding the images, which takes a minute or two", flush=True)
    train, test = decode_tinyimagenet(archive)
    path = folder / "tinyimagenet.npz"
    with replacing(path) as part, replacing(Path(f"{path}.sha256")) as digest:
        with part.open("wb") as file:
            np.savez(file, train_images=train[0], train_labels=train[1], test_images=test[0], test_labels=test[1])
        digest.write_text(f"{file_digest(part, 'sha256')}  {path.name}\n")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again")
