#!/usr/bin/env python3
"""Run a round of experiments: one pass queries the scheduler, decides, submits and reports."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    from roundhouse import missing_package

    missing_package.report_in_one_line()

from roundhouse.cli import main as cli

REPOSITORY = Path(__file__).resolve().parent


def main(argv: list[str] | None = None) -> int:
    return cli.main(REPOSITORY, argv)


if __name__ == "__main__":
    sys.exit(main())
