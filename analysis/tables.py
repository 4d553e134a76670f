#!/usr/bin/env python3
"""Write the tables of a round to analysis/experiment_NAME/tables/: all results, performance matrix, failed jobs, LaTeX.

A row is a setting: experiments that differ in seed and data set alone. A cell is the mean over the completed
seeds. A row is bold only if it is significantly better than every rival (see comparison.py); rivals are the rows of a
group that have the same baseline, and that baseline. Groups that only serve others, teachers and baselines, are not
compared within themselves.

all_results.json: {version, round, notes, problems, experiments: [{path, group, study, state, cause, reason, command,
config, after, baseline, attempts, final, used, best, hours, ..., files}]}; values that are no numbers are null, files
are relative to the records. failed_jobs.json: {version, round, jobs: [{path, group, state, cause, reason, requeued,
attempts, log}]}, of all experiments that failed, are blocked, were cancelled, or ran more than once.

performance_matrix.csv: `group`, `setting`, `role` (baseline; or what the declared baseline is called, such as
chance), the config keys that vary, `metric`; then for each data set DATASET_mean, DATASET_sd (n - 1; empty for one
seed) and DATASET_n, named after the metric where there are no data sets; `mean_over_data_sets` where there are several
and the row has all. Units are the metric's own. A data set is a combination of values of the config keys that the
study or the round file keeps apart.
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
    from roundhouse import missing_package

    missing_package.report_in_one_line()

from analysis.cli import add_folders, folders_from, run_script
from analysis.dataframes import HEAD, facts_of, moment
from analysis.figure_store import csv_of, write_bytes
from analysis.result_metric import result_metrics
from analysis.rounding import fixed, places
from analysis.rounds import RoundEntry, RoundRecords, newest_file, read_round, varying_keys
from analysis.table_rows import RoundResults, TableRow, bold_note, comparison_groups, winners
from roundhouse.formatting import number
from roundhouse.model.attempt import Claim
from roundhouse.store import logs
from roundhouse.views.status_json import as_dict

VERSION = 1


# ---------------------------------------------------------------------------------------------- performance_matrix.csv


def matrix(results: RoundResults) -> list[dict[str, Any]]:
    """The rows of performance_matrix.csv; the docstring of the module explains the columns."""
    entries, metric, serving = results.found.entries, results.metric, set(results.found.baselines.values())
    varying = varying_keys(entries) - {*results.found.declared.apart}
    keys = dict.fromkeys(key for entry in entries for key in entry.config if key in varying)
    spreads = [_spread(row, results) for row in results.rows]
    taken = {"group", "setting", "role", "metric", *(name for spread in spreads for name in spread)}
    columns = {key: f"config_{key}" if key in taken else key for key in keys}
    rows = []
    for row, spread in zip(results.rows, spreads, strict=True):
        head = {"group": row.group, "setting": row.name, "role": "baseline" if row.group in serving else ""}
        config = {name: _cell(row.config.get(key)) for key, name in columns.items()}
        rows.append({**head, **config, "metric": metric.result, **spread})
    if results.references:
        shown = {f"{data_set or metric.result}_mean": value for data_set, value in results.references.items()}
        label = results.reference_label
        rows.append({"group": "", "setting": label, "role": label, "metric": metric.result, **shown})
    return rows


def _spread(row: TableRow, results: RoundResults) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for data_set in results.data_sets:
        name, values = data_set or results.metric.result, row.on(data_set)
        made[f"{name}_mean"] = statistics.fmean(values) if values else None
        made[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        made[f"{name}_n"] = len(values)
    if len(results.data_sets) > 1:
        made["mean_over_data_sets"] = row.mean(results.data_sets)
    return made


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
        **{sign: f"{{{sign}}}" for sign in "[]*"},  # at the beginning of a line they would be options of \\
    }
)


def escaped(text: str) -> str:
    """Text escaped for LaTeX."""
    return "".join(sign if sign.isprintable() else " " for sign in text).translate(_SPECIAL)


def latex(results: RoundResults) -> str:
    """The table for LaTeX, with booktabs."""
    metric = results.metric
    declared = results.found.declared.of(metric.result)
    unit = escaped(f" ({declared.shown_unit})") if declared.shown_unit else ""
    heads = [escaped(one or metric.result) + unit for one in results.data_sets]
    heads += [f"Mean{unit}"] * (len(heads) > 1)
    body, marked = _body(results, declared.percent)
    name, completed = results.found.name, f"{len(results.completed)} of {len(results.found.entries)}"
    what = escaped(results.found.declared.label(metric.result))
    caption = rf"Round {escaped(name)}: {what}{unit}, mean $\pm$ standard deviation over seeds ($n$)."
    note = escaped(f"{bold_note(results, marked)} {completed} experiments are completed.")
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


def _body(results: RoundResults, percent: bool) -> tuple[str, bool]:
    """The lines between the rules, and whether anything in them is bold."""
    data_sets, sign = results.data_sets, results.metric.sign
    several = len(data_sets) > 1
    rivals = comparison_groups(results) if sign else []
    pooled = winners(rivals, sign, data_sets)
    best = {data_set: winners(rivals, sign, [data_set]) for data_set in data_sets}
    made: list[str] = []
    group = None
    for row in results.rows:
        served = "baseline" * (row.group in results.found.baselines.values())
        name = escaped(served if row.name == row.group else f"{row.name} ({served})" if served else row.name)
        cells = [_bold(_mean_and_deviation(row.on(one), percent), row.key in best[one]) for one in data_sets]
        cells += [_bold(_figure(row.mean(data_sets), percent), row.key in pooled)] * several
        first = row.group != group
        made += [r"\midrule"] * (first and bool(made))
        shown = escaped(row.group) if first else ""
        made.append(" & ".join([shown, _bold(name, row.key in pooled), *cells]) + r" \\")
        group = row.group
    if results.references:
        values = [_figure(results.references.get(one), percent) for one in data_sets]
        label = escaped(results.reference_label)
        made += [r"\midrule", " & ".join(["", label, *values, *["--"] * several]) + r" \\"]
    return "\n".join(made), bool(pooled.union(*best.values()))


def _bold(cell: str, marked: bool) -> str:
    return rf"\textbf{{{cell}}}" if marked and cell else cell


def _mean_and_deviation(values: Sequence[float], percent: bool) -> str:
    """A cell: mean, standard deviation and n; no deviation for one seed, `--` without values.

    Both have as many decimals as show two digits of the deviation; percentages always have two decimals.
    """
    if not values:
        return "--"
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{_figure(mean, percent)} ($n=1$)"
    deviation = statistics.stdev(values)
    digits = None if percent or not 1e-4 < deviation < 1e4 else places(deviation, 2)
    return rf"{_figure(mean, percent, digits)} $\pm$ {_figure(deviation, percent, digits)} ({len(values)})"


def _figure(value: float | None, percent: bool, digits: int | None = None) -> str:
    """A number: a percentage with two decimals, another with `digits`, or with four significant digits."""
    if value is None:
        return "--"
    text = fixed(100 * value, 2) if percent else number(value) if digits is None else fixed(value, digits)
    return text.replace("-", "$-$")


# ---------------------------------------------------------------------------------------------- the JSON files


def all_results(results: RoundResults) -> dict[str, Any]:
    """The content of all_results.json."""
    root = results.found.directory
    members = list(zip(results.found.entries, results.metrics, strict=True))
    shown, made = result_metrics(members, results.found), []
    for entry, metrics in members:
        one, facts = entry.experiment, facts_of(entry, metrics, shown[entry.group])
        head = {key: facts.pop(key) for key in HEAD}
        del facts["directory"]  # depends on where the records are stored
        paths = {"metrics": entry.metrics_file, "outputs": entry.outputs_file}
        paths["weights"] = newest_file(entry.record, "best.pth")
        body = {
            "command": one.command,
            "config": one.config,
            "after": one.after,
            "baseline": [one.path for one in results.found.baseline_of(entry)],
            "attempts": attempts_of(entry),
            "mode": metrics.mode,
            "best_epoch": metrics.best_epoch,
            "final": metrics.final,
            "used": metrics.used,
            "files": {name: path.relative_to(root).as_posix() for name, path in paths.items() if path},
        }
        made.append({**head, **facts, **body})
    problems = [one.replace(f"{root}{os.sep}", "") for one in results.problems]
    head = {"version": VERSION, "round": results.found.name, "notes": results.found.notes}
    return {**head, "problems": problems, "experiments": made}


def failed_jobs(results: RoundResults) -> dict[str, Any]:
    """The content of failed_jobs.json: experiments that failed, are blocked, were cancelled or ran more than once."""
    made = []
    for entry in results.found.entries:
        shown, seen = entry.status.shown, as_dict(entry.status)
        if not entry.state.needs_user and entry.counted_attempts < 2:
            continue
        head = {"path": entry.path, "group": entry.group, **{key: seen[key] for key in ("state", "cause", "reason")}}
        log = logs.tail(entry.directory, shown.number) if shown else ""
        made.append(
            {**head, "requeued": max(entry.counted_attempts - 1, 0), "attempts": attempts_of(entry), "log": log}
        )
    return {"version": VERSION, "round": results.found.name, "jobs": made}


def attempts_of(entry: RoundEntry) -> list[dict[str, Any]]:
    """Its attempts and markers as JSON-like objects. `ended` is null while an attempt is open."""
    made = []
    for one in entry.record.attempts:
        claim, result = one.claim or Claim(), one.result
        made.append(
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
    return made


def as_json(value: Any) -> bytes:
    """Strictly valid JSON: a number that is not finite becomes null."""
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
    """Write all tables of a round into a folder, without what cannot be read. Returns the files."""
    return write_results(RoundResults.of(found), folder)


def write_results(results: RoundResults, folder: Path) -> list[Path]:
    """`write_tables` for results that are already loaded. May append to their problems."""
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
    made.add_argument("--round", metavar="NAME", required=True, help="a round in any state, archived or not")
    add_folders(made)
    return made


def run(options: argparse.Namespace) -> int:
    folders = folders_from(options)
    results = RoundResults.of(read_round(options.round, folders))
    written = write_results(results, folders.results(options.round) / "tables")
    for line in (*results.found.notes, *results.problems):
        print(f"tables.py: {line}", file=sys.stderr)
    print(*written, sep="\n")
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_script(parser(), argv, run)


if __name__ == "__main__":
    sys.exit(main())
