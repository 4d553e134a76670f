"""Verify and prepare the user's own files of a data set; `toolbox/setup.sh --data NAME` calls it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from roundhouse.errors import RoundhouseError as StudyError
from roundhouse.options import choose
from studies.genegan import celeba
from studies.genegan.options import Options

NAMES = ("celeba",)


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
    try:
        _celeba(options.to, options.check)
    except StudyError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    except OSError as error:
        print(f"celeba: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr, flush=True)
        return 1
    print(f"celeba: good, in {celeba.folder_of(options.to)}")
    return 0


def _celeba(data: Path | None, check: bool) -> None:
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


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again")
