"""A Python package that is not installed is reported in one line, with the command that installs it.

Scripts call `report_in_one_line` before they import anything that needs a package; so this module needs none.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

REPOSITORY = Path(__file__).resolve().parents[1]
EXIT_CODE = 2
PACKAGES = {"PIL": "pillow", "markdown_it": "markdown-it-py", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Packages whose module has another name."""


def report_in_one_line(program: str | None = None) -> None:
    """From now on, a missing package ends this process with one line on stderr and EXIT_CODE.

    `program`: the name in front of the line; default: that of the script.
    """
    name = program or Path(sys.argv[0]).name

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        line = message(error)
        if line is None:
            sys.__excepthook__(kind, error, traceback)
            return
        print(f"{name}: {line}", file=sys.stderr)
        sys.exit(EXIT_CODE)

    sys.excepthook = hook


def message(error: BaseException) -> str | None:
    """The line for an error; None if it is not that of a missing package. A module of this repository is none."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    module = error.name.partition(".")[0]
    if (REPOSITORY / module).is_dir() or (REPOSITORY / f"{module}.py").is_file():
        return None
    package, own = PACKAGES.get(module, module.replace("_", "-")), REPOSITORY / ".venv"
    other = (own / "bin/python").exists() and Path(sys.prefix).resolve() != own.resolve()
    advice = f"use {own}/bin/python" if other else f"run make install in {REPOSITORY}"
    return f"the package {package} is not installed for {sys.executable}: {advice}"
