#!/usr/bin/env python3
"""Write a methods chapter, from what jobs recorded, to analysis/experiment_NAME/methodology.md and .tex.

Its paragraphs can be pasted into a text. What they leave out is in the lists and tables below them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from roundhouse import missing_package

    missing_package.report_in_one_line()

from analysis.cli import add_folders, folders_from, run_script
from analysis.figure_store import write_bytes
from analysis.methods_prose import paragraphs
from analysis.methods_sections import FactTable, sections
from analysis.provenance import Facts
from analysis.rounds import read_round
from analysis.tables import escaped

EXPLAINED = "A run is one start of a job. Experiments of one setting differ in the seed alone."
_SPECIAL = re.compile(r"[\\`*\[\]<|~$#]|&(?=[#\w])|(?<![^\W_])_|_(?![^\W_])")


def in_markdown(text: str) -> str:
    """Text in one line, escaped for Markdown. It must not be placed at the beginning of a line."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return _SPECIAL.sub(r"\\\g<0>", line)


def markdown(facts: Facts) -> str:
    """The chapter as a page of Markdown."""
    parts = [f"# Methods of round {in_markdown(facts.found.name)}", *map(in_markdown, paragraphs(facts)), EXPLAINED]
    for section in sections(facts):
        parts += [f"## {section.title}", " ".join(map(in_markdown, section.sentences))]
        parts.append("\n".join(f"- {in_markdown(item)}" for item in section.items))
        if section.table:
            table, rules = section.table, ["---:" if one == "r" else "---" for one in section.table.columns]
            rows = [map(in_markdown, table.head), rules, *(map(in_markdown, row) for row in table.rows)]
            parts += [f"{in_markdown(table.title)}:", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(facts: Facts) -> str:
    """The chapter as LaTeX paragraphs and tables."""
    name = facts.found.name
    parts = [
        f"% Methods of round {name}, from its records. Needs \\usepackage{{booktabs,longtable}}.",
        *map(escaped, paragraphs(facts)),
        escaped(EXPLAINED),
    ]
    for section in sections(facts):
        items = [rf"\item {escaped(item)}" for item in section.items]
        parts.append(rf"\paragraph{{{section.title}.}} {' '.join(map(escaped, section.sentences))}".rstrip())
        parts += ["\n".join([r"\begin{itemize}", *items, r"\end{itemize}"])] if items else []
        parts += [latex_table(section.table, name, section.title.split()[0].lower())] if section.table else []
    return "\n\n".join(parts) + "\n"


def latex_table(table: FactTable, name: str, label: str) -> str:
    number = len(table.columns)
    width = (
        0.45 if number < 4 else 0.3 if number < 6 else 0.15
    )  # of the text; other columns are as wide as their content
    columns = table.columns.replace("p", rf"p{{{width}\linewidth}}")
    head, *rows = [" & ".join(map(escaped, row)) + r" \\" for row in (table.head, *table.rows)]
    body = "\n".join(rows)
    return rf"""{{\footnotesize\setlength{{\tabcolsep}}{{3pt}}
\begin{{longtable}}{{{columns}}}
\caption{{{escaped(table.title)} (round {escaped(name)}).}}\label{{tab:{name}-{label}}} \\
\toprule
{head}
\midrule
\endfirsthead
\toprule
{head}
\midrule
\endhead
\bottomrule
\endfoot
{body}
\end{{longtable}}}}"""


# ---------------------------------------------------------------------------------------------- files and the script


RENDERERS = {"methodology.md": markdown, "methodology.tex": latex}
FORMATS = {"md": ("methodology.md",), "latex": ("methodology.tex",), "both": tuple(RENDERERS)}


def write_methodology(facts: Facts, folder: Path, names: Sequence[str] = FORMATS["both"]) -> list[Path]:
    """Write methodology.md and methodology.tex, or one of them, into a folder. Returns the files."""
    for name in names:
        write_bytes(folder / name, RENDERERS[name](facts).encode())
    return [folder / name for name in names]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="methodology.py", description=str(__doc__).split("\n\n")[0])
    made.add_argument("--round", metavar="NAME", required=True, help="a round in any state, archived or not")
    made.add_argument("--format", choices=list(FORMATS), default="both", help="default: both")
    add_folders(made)
    return made


def run(options: argparse.Namespace) -> int:
    folders = folders_from(options)
    facts = Facts.of(read_round(options.round, folders))
    written = write_methodology(facts, folders.results(options.round), FORMATS[options.format])
    for line in (*facts.found.notes, *facts.problems):
        print(f"methodology.py: {line}", file=sys.stderr)
    print(*written, sep="\n")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_script(parser(), argv, run)


if __name__ == "__main__":
    sys.exit(main())
