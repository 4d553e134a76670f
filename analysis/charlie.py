#!/usr/bin/env python3
"""The analysis of experiment charlie: measures, comparisons, figures and a written summary of a distillation round.

It analyses the completed runs and lists what is missing. It is the short way to `suite.py --round charlie`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from roundhouse import missing_package

    missing_package.report_in_one_line()

from analysis.cli import run_script
from analysis.suite import add_options, run_round


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="charlie.py", description=__doc__)
    parser.add_argument("--round", metavar="NAME", default="charlie", help="a round of the study distillation")
    parser.add_argument("--control", metavar="NAME", help="its control round; default: control for charlie, "
                        "control_smoke for charlie_smoke, and so on")  # fmt: skip
    add_options(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    return run_round(options, "charlie.py", "distillation", **({"control": options.control} if options.control else {}))


def main(argv: list[str] | None = None) -> int:
    return run_script(parser(), argv, run, broken_pipe=1)


if __name__ == "__main__":
    sys.exit(main())
