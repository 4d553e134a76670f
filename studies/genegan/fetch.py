"""Prepares what runs need besides the code: the user's own CelebA, and the weights of the standard Inception network.

`toolbox/setup.sh --data celeba`, or `--data inception`, calls it on a login node.
"""

from __future__ import annotations

import argparse
import http.client
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from roundhouse.errors import RoundhouseError as StudyError
from roundhouse.options import choose
from studies.genegan import celeba
from studies.genegan.options import Options

NAMES = ("celeba", "inception")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: all data sets are present and valid; 1: some are not; 2: an option is wrong."""
    parser = argparse.ArgumentParser(prog="python -m studies.genegan.fetch", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--to", type=Path, metavar="DIR", help="the data directory; default: that of the repository")
    parser.add_argument("--check", action="store_true", help="write nothing, only verify all files")
    options = parser.parse_args(arguments)
    try:
        for name in options.names:
            choose("dataset", name, NAMES)
    except StudyError as error:
        print(f"--data: {error}", file=sys.stderr)
        return 2
    prepare = {"celeba": _celeba, "inception": _inception}
    good = [_reported(name, prepare[name], options.to, options.check) for name in dict.fromkeys(options.names)]
    return 0 if all(good) else 1


def _reported(name: str, prepare: Callable[[Path | None, bool], Path], data: Path | None, check: bool) -> bool:
    """Prepare one, and print where it is, or what is wrong."""
    try:
        print(f"{name}: good, in {prepare(data, check)}", flush=True)
    except StudyError as error:
        print(error, file=sys.stderr, flush=True)
        return False
    except OSError as error:
        print(f"{name}: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr, flush=True)
        return False
    return True


def _celeba(data: Path | None, check: bool) -> Path:
    """Verify lists, archive, names and samples of the images; decode them, unless `check` forbids it."""
    from studies.genegan import celeba_images

    sizes = Options().sizes
    if lack := celeba.missing(data, sizes):
        raise StudyError(lack)
    celeba.read_labels(data, Options().attribute)
    if (celeba.folder_of(data) / celeba.ARCHIVE).is_file():
        celeba.check_digest(data, celeba.ARCHIVE)
    if not check:
        celeba_images.prepare(data, sizes)
    for size in sizes:
        if not celeba.is_cached(data, size):
            raise StudyError(
                f"dataset 'celeba': {celeba.cache_of(data, size)}, the decoded images, is missing or too short; run on "
                f"a login node: {celeba.command(data)}"
            )
        celeba_images.check_samples(data, size)
    return celeba.folder_of(data)


def _inception(data: Path | None, check: bool) -> Path:
    """Download the weights if they are missing, unless `check` forbids it, and verify them."""
    import torch

    from studies.genegan.extractors import SHA256, URL, damage_of, weights_path

    path = weights_path(data)
    if not path.is_file() and not check:
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"inception: downloading {URL}", flush=True)
        try:
            torch.hub.download_url_to_file(URL, str(path), hash_prefix=SHA256, progress=False)
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            why = getattr(error, "reason", None) or error
            raise StudyError(
                f"inception: the download failed: {why}. Download {URL} (SHA-256 {SHA256}) on another host, copy it to "
                f"{path}, and run this again"
            ) from None
    if problem := damage_of(path):
        raise StudyError(f"inception: {problem}")
    return path


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again")
