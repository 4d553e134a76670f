#!/usr/bin/env python3
"""The tables of a round, into analysis/experiment_NAME/tables: all results, the matrix, failed jobs, and one for LaTeX.

A row is a setting: what experiments share that differ in seed and data set alone. A cell is the mean over the completed
seeds. Bold is only what beats every rival by a difference that holds up (see comparison.py); rivals are the rows of a
group that have the same baseline, and that baseline. Groups that only serve others, teachers and baselines, hold no
contest of their own.

all_results.json: {version, round, problems, experiments: [{path, group, study, state, cause, reason, command, config,
after, baseline, attempts, final, used, best, hours, ..., files}]}; what is no number is null, files are relative to
the round's records. failed_jobs.json: {version, round, jobs: [{path, group, state, cause, reason, requeued, attempts,
log}]}, of all that failed, is blocked, was cancelled, or ran more than once.

performance_matrix.csv: `group`, `setting`, `role` (baseline, chance, or nothing), the config keys that vary, `metric`;
then for each data set DATASET_mean, DATASET_sd (n - 1; empty for one seed) and DATASET_n, named after the metric where
there are no data sets; `mean_over_data_sets` where there are several and the row has all. Units are the metric's own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.frames import HEAD, facts_of, moment
from analysis.gallery import csv_of, write_bytes
from analysis.results import Line, Results, contests, verdict, winners
from analysis.rounds import Entry, RoundRecords, newest_file, read_round, varying_keys
from analysis.script import add_folders, carry_out, place_from
from roundhouse.model.attempt import Claim
from roundhouse.model.causes import Cause
from roundhouse.store import logs
from roundhouse.views.status_json import as_dict

VERSION = 1

# ---------------------------------------------------------------------------------------------- performance_matrix.csv


def matrix(results: Results) -> list[dict[str, Any]]:
    """The rows of performance_matrix.csv; the module's docstring tells the columns."""
    entries, measure, serving = results.found.entries, results.measure, set(results.found.baselines.values())
    varying = varying_keys(entries) - {"dataset"}
    keys = dict.fromkeys(key for entry in entries for key in entry.config if key in varying)
    spreads = [_spread(line, results) for line in results.lines]
    taken = {"group", "setting", "role", "metric", *(name for spread in spreads for name in spread)}
    columns = {key: f"config_{key}" if key in taken else key for key in keys}
    rows = []
    for line, spread in zip(results.lines, spreads, strict=True):
        head = {"group": line.group, "setting": line.name, "role": "baseline" if line.group in serving else ""}
        config = {name: _cell(line.config.get(key)) for key, name in columns.items()}
        rows.append({**head, **config, "metric": measure.name, **spread})
    if results.chance:
        shown = {f"{data_set or measure.name}_mean": value for data_set, value in results.chance.items()}
        rows.append({"group": "", "setting": "chance", "role": "chance", "metric": measure.name, **shown})
    return rows


def _spread(line: Line, results: Results) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for data_set in results.data_sets:
        name, values = data_set or results.measure.name, line.on(data_set)
        told[f"{name}_mean"] = statistics.fmean(values) if values else None
        told[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        told[f"{name}_n"] = len(values)
    if len(results.data_sets) > 1:
        told["mean_over_data_sets"] = line.mean(results.data_sets)
    return told


def _cell(value: Any) -> Any:
    return json.dumps(value, default=str) if isinstance(value, (list, dict, bool)) else value


# ---------------------------------------------------------------------------------------------- table.tex

_SPECIAL = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "_%&#${}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        **{sign: f"{{{sign}}}" for sign in "[]*"},  # an option of \\ where they begin a line
    }
)


def escaped(text: str) -> str:
    """Text as LaTeX prints it, whatever it holds."""
    return "".join(sign if sign.isprintable() else " " for sign in text).translate(_SPECIAL)


def latex(results: Results) -> str:
    """The table for LaTeX, with booktabs."""
    measure, lines = results.measure, results.lines
    percent = "accuracy" in measure.name and all(0 <= one <= 1 for line in lines for one in line.values.values())
    unit = r" (\%)" if percent else ""
    heads = [escaped(one or measure.name) + unit for one in results.data_sets]
    heads += [f"Mean{unit}"] * (len(heads) > 1)
    body, marked = _body(results, percent)
    name, completed = results.found.name, f"{len(results.completed)} of {len(results.found.entries)}"
    what = escaped(measure.name.replace("_", " "))
    caption = rf"Round {escaped(name)}: {what}{unit}, mean $\pm$ standard deviation over seeds ($n$)."
    note = escaped(f"{verdict(results, marked)} {completed} experiments are completed.")
    return rf"""% Needs \usepackage{{booktabs}}.
\begin{{table}}
\centering
\caption{{{caption}}}
\label{{tab:{name}}}
\begin{{tabular}}{{ll{"r" * len(heads)}}}
\toprule
{" & ".join(["Group", "Setting", *heads])} \\
\midrule
{body}
\bottomrule
\end{{tabular}}

\smallskip
\parbox{{\linewidth}}{{\footnotesize {note}}}
\end{{table}}
"""


def _body(results: Results, percent: bool) -> tuple[str, bool]:
    """The lines between the rules, and whether anything in them is bold."""
    data_sets, sign = results.data_sets, results.measure.sign
    several = len(data_sets) > 1
    rivals = contests(results) if sign else []
    pooled = winners(rivals, sign, data_sets)
    best = {data_set: winners(rivals, sign, [data_set]) for data_set in data_sets}
    told: list[str] = []
    group = None
    for line in results.lines:
        served = "baseline" * (line.group in results.found.baselines.values())
        name = escaped(served if line.name == line.group else f"{line.name} ({served})" if served else line.name)
        cells = [_bold(_told(line.on(one), percent), line.key in best[one]) for one in data_sets]
        cells += [_bold(_figure(line.mean(data_sets), percent), line.key in pooled)] * several
        first = line.group != group
        told += [r"\midrule"] * (first and bool(told))
        shown = escaped(line.group) if first else ""
        told.append(" & ".join([shown, _bold(name, line.key in pooled), *cells]) + r" \\")
        group = line.group
    if results.chance:
        chance = [_figure(results.chance.get(one), percent) for one in data_sets]
        told += [r"\midrule", " & ".join(["", "chance", *chance, *["--"] * several]) + r" \\"]
    return "\n".join(told), bool(pooled.union(*best.values()))


def _bold(cell: str, marked: bool) -> str:
    return rf"\textbf{{{cell}}}" if marked and cell else cell


def _told(values: Sequence[float], percent: bool) -> str:
    """A cell: mean, standard deviation and n; of one seed no deviation, and nothing of none."""
    if not values:
        return "--"
    mean = _figure(statistics.fmean(values), percent)
    if len(values) == 1:
        return f"{mean} ($n=1$)"
    return rf"{mean} $\pm$ {_figure(statistics.stdev(values), percent)} ({len(values)})"


def _figure(value: float | None, percent: bool) -> str:
    if value is None:
        return "--"
    return (f"{100 * value:.2f}" if percent else f"{value:.4g}").replace("-", "$-$")


# ---------------------------------------------------------------------------------------------- the JSON files


def all_results(results: Results) -> dict[str, Any]:
    """The content of all_results.json."""
    root = results.found.directory
    told = []
    for entry, metrics in zip(results.found.entries, results.metrics, strict=True):
        one, facts = entry.row.experiment, facts_of(entry, metrics)
        head = {key: facts.pop(key) for key in HEAD}
        del facts["directory"]  # says where the records lay, not what they are
        paths = {"metrics": entry.metrics_file, "outputs": entry.outputs_file}
        paths["weights"] = newest_file(entry.row, "best.pth")
        body = {
            "command": one.command,
            "config": one.config,
            "after": one.after,
            "baseline": [beside.path for beside in results.found.baseline_of(entry)],
            "attempts": attempts_of(entry),
            "mode": metrics.mode if metrics.metric else None,
            "best_epoch": metrics.best_epoch,
            "final": metrics.final,
            "used": metrics.used,
            "files": {name: path.relative_to(root).as_posix() for name, path in paths.items() if path},
        }
        told.append({**head, **facts, **body})
    problems = [one.replace(f"{root}{os.sep}", "") for one in results.problems]
    return {"version": VERSION, "round": results.found.name, "problems": problems, "experiments": told}


def failed_jobs(results: Results) -> dict[str, Any]:
    """The content of failed_jobs.json: what failed, is blocked or was cancelled, and what ran more than once."""
    told = []
    for entry in results.found.entries:
        shown, seen = entry.row.shown, as_dict(entry.row)
        runs = sum(one.cause not in (Cause.LIMIT, Cause.RUNG) for one in entry.row.record.runs)
        if not entry.state.needs_user and runs < 2:
            continue
        head = {"path": entry.path, "group": entry.group, **{key: seen[key] for key in ("state", "cause", "reason")}}
        log = logs.tail(entry.directory, shown.number) if shown else ""
        told.append({**head, "requeued": max(runs - 1, 0), "attempts": attempts_of(entry), "log": log})
    return {"version": VERSION, "round": results.found.name, "jobs": told}


def attempts_of(entry: Entry) -> list[dict[str, Any]]:
    """Its attempts, marks too, as JSON-like objects. `ended` is null while one is open."""
    told = []
    for one in entry.row.record.attempts:
        claim, result = one.claim or Claim(), one.result
        told.append(
            {
                "number": one.number,
                "mark": one.opened.mark,
                "job_id": one.job_id,
                "scheduler": one.opened.scheduler.get("kind"),
                "server": one.opened.scheduler.get("server"),
                "host": claim.host or None,
                "cause": one.cause,
                "why": one.why or None,
                "started": None if claim.void else moment(claim.started),
                "ended": moment(result.at if result else claim.started if claim.void else None),
            }
        )
    return told


def as_json(value: Any) -> bytes:
    """Any of these contents as strictly valid JSON: what is no finite number is null."""
    return (json.dumps(_plain(value), indent=1, allow_nan=False) + "\n").encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or type(value) in (bool, int, str):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


# ---------------------------------------------------------------------------------------------- files and the script


def write_tables(found: RoundRecords, folder: Path) -> list[Path]:
    """Write all tables of a round into a folder; what could not be read of it is left out. Returns the files."""
    return write_results(Results.of(found), folder)


def write_results(results: Results, folder: Path) -> list[Path]:
    """`write_tables`, of results that have been read. More that is wrong may be added to their problems."""
    content = {
        "performance_matrix.csv": csv_of(matrix(results)),
        "table.tex": latex(results).encode(),
        "failed_jobs.json": as_json(failed_jobs(results)),
        "all_results.json": as_json(all_results(results)),
    }
    for name, data in content.items():
        write_bytes(folder / name, data)
    return [folder / name for name in content]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="tables.py", description=str(__doc__).split("\n\n")[0])
    made.add_argument("--round", metavar="NAME", required=True, help="whatever its state, archived ones too")
    add_folders(made)
    return made


def work(asked: argparse.Namespace) -> int:
    place = place_from(asked)
    results = Results.of(read_round(asked.round, place))
    written = write_results(results, place.results(asked.round) / "tables")
    for problem in results.problems:
        print(f"tables.py: {problem}", file=sys.stderr)
    print(*written, sep="\n")
    return 0


def main(argv: list[str] | None = None) -> int:
    return carry_out(parser(), argv, work)


if __name__ == "__main__":
    sys.exit(main())
