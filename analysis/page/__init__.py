"""The page of a report: from the summary of a round to one HTML file that needs only its folder."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from analysis.page.project_paths import shortened, shortener
from analysis.page.sortable_table import amount, digits, spaced, table
from analysis.round_summary import (
    LOGS_SHOWN,
    Changes,
    ExperimentSummary,
    Failure,
    Ranking,
    RemainingTime,
    Spread,
    Usage,
)
from analysis.rounding import with_spread
from roundhouse.formatting import counted, date_and_time, duration
from roundhouse.metrics import Declarations, Metric
from roundhouse.model.plan import State

HERE = Path(__file__).parent
SCRIPTS = ("report.js", "figure_viewer.js")
SYMBOLS = {
    State.PENDING: "·",
    State.SUBMITTING: "↑",
    State.IN_PROGRESS: "▸",
    State.BLOCKED: "■",
    State.COMPLETED: "✓",
    State.PRUNED: "✂",
    State.DIVERGED: "↯",
    State.FAILED: "✕",
    State.CANCELLED: "⊘",
}
MEANINGS = {
    State.PENDING: "not started, or waiting for its next attempt",
    State.SUBMITTING: "being submitted to the scheduler",
    State.IN_PROGRESS: "queued or running",
    State.BLOCKED: "needs an action of the user",
    State.COMPLETED: "finished successfully",
    State.PRUNED: "stopped early: others of its group were better",
    State.DIVERGED: "ended early: the training diverged",
    State.FAILED: "retry limit reached",
    State.CANCELLED: "cancelled by the user",
}


@dataclass(frozen=True, slots=True)
class ReportFigure:
    """A figure of the report: paths relative to its folder. `subject`: the experiment it shows, if it is only one.

    `section`: the heading that it stands under; `alt`: the alternative text of its image.
    """

    section: str
    title: str
    caption: str
    alt: str
    image: str
    data: str
    subject: str | None
    size: tuple[int, int] | None  # pixels


@dataclass(frozen=True, slots=True)
class ReportPage:
    """The content of a page. `changes`: None in a first report; `tables`: paths relative to the report's folder.

    `declared`: how the metrics of the round are shown; `folders`: those of the project, shown by their names.
    """

    name: str
    generated: datetime  # UTC
    records: Path
    file: Path | None
    summaries: Sequence[ExperimentSummary]
    declared: Declarations
    counts: Mapping[State, int]
    usage: Usage
    remaining_time: RemainingTime
    failures: Sequence[Failure]
    rankings: Sequence[Ranking]
    changes: Changes | None
    figures: Sequence[ReportFigure]
    tables: Sequence[str]
    summary: str | None
    problems: Sequence[str]
    folders: Sequence[Path]
    notes: Sequence[str] = ()
    advice: Sequence[str] = ()  # on the use of the GPUs


def render(report: ReportPage) -> bytes:
    """The page as HTML in UTF-8. Names from records are escaped, and only the page's own script can run."""
    style, *scripts = ((HERE / name).read_text(encoding="utf-8") for name in ("report.css", *SCRIPTS))
    script, shorten = "\n".join(scripts), shortener(report.folders)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: shortened(value, shorten),
    )
    environment.filters |= {
        "amount": amount, "counted": counted, "duration": duration, "gain": gain, "link": quote, "utc_time": utc_time,
        "plus_minus": plus_minus, "rendered": rendered, "shorten": shorten, "word": word,
    }  # fmt: skip
    curves: dict[str | None, ReportFigure] = {one.subject: one for one in report.figures if one.subject}
    text = environment.get_template("report.html.jinja").render(
        report=report,
        sections=_sections(report.figures),
        total=sum(report.counts.values()),
        states=[(state, number) for state, number in report.counts.items()],
        end=_estimated_end(report),
        symbols=SYMBOLS,
        meanings=MEANINGS,
        style=Markup(style),
        script=Markup(script),
        policy=Markup(_policy(style, script)),
        data=Markup(embedded(shortened(table(report.summaries, report.declared, curves), shorten))),
        metrics={one.entry.path: one.entry.declared.of(one.metric or "") for one in report.summaries},
        logs=LOGS_SHOWN,
    )
    return text.encode("utf-8", "backslashreplace")  # a name may contain lone surrogates


def _sections(figures: Sequence[ReportFigure]) -> dict[str, list[ReportFigure]]:
    """The figures of more than one experiment by their section, in the order of the first of each."""
    made: dict[str, list[ReportFigure]] = {}
    for one in figures:
        if one.subject is None:
            made.setdefault(one.section, []).append(one)
    return made


def _policy(style: str, script: str) -> str:
    """A content security policy that allows only this style and this script: nothing is loaded, nothing is sent."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    rules = ("default-src 'none'", "img-src 'self' file: data:", f"style-src 'sha256-{hashes[0]}'",
             f"script-src 'sha256-{hashes[1]}'", "base-uri 'none'", "form-action 'none'")  # fmt: skip
    return "; ".join(rules)


def _estimated_end(report: ReportPage) -> datetime | None:
    """When the round is estimated to end."""
    seconds = report.remaining_time.seconds
    try:
        return report.generated + timedelta(seconds=seconds) if seconds else None
    except OverflowError:
        return None


def embedded(value: Any) -> str:
    """JSON that is safe inside a `<script>` element, whatever it contains."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def rendered(text: str) -> Markup:
    """Markdown as HTML, with headings below those of the page. HTML in it is escaped; links and images are disabled."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
    return Markup(parser.renderer.render(tokens, parser.options, {}))


def png_size(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels of a PNG file, from its header; None if it is not a PNG."""
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or not head.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    width, height = struct.unpack(">II", head[16:24])
    return width, height


# -------------------------------------------------------------------------------------------------- formatting


def word(state: State | str) -> str:
    """The name of a state with spaces."""
    return str(state).replace("_", " ")


def utc_time(when: datetime) -> str:
    return f"{date_and_time(when.timestamp())} UTC"


def plus_minus(found: Spread | None, metric: Metric) -> str:
    """Mean ± standard deviation over n seeds, with non-breaking spaces."""
    if found is None:
        return "unknown"
    if found.deviation is None:
        return f"{amount(metric, found.mean)} (one seed, deviation unknown)"
    numbers = with_spread(metric.factor * found.mean, metric.factor * found.deviation).replace(" ", "\u00a0")
    return f"{spaced(numbers, metric.shown_unit)} (n\u00a0=\u00a0{found.n})"


def gain(result: Spread, baseline: Spread, metric: Metric) -> str:
    """The difference to the baseline, with its standard error if both have more than one seed."""
    unit = " percentage points" if metric.percent else f" {metric.shown_unit}" * bool(metric.shown_unit)
    difference = metric.factor * (result.mean - baseline.mean)
    if result.deviation is None or baseline.deviation is None:
        return f"{difference + 0.0:+{digits(metric)}}{unit}, deviation unknown"
    error = metric.factor * math.sqrt(result.deviation**2 / result.n + baseline.deviation**2 / baseline.n)
    return f"{with_spread(difference, error, sign=True)}{unit}".replace(" ± ", "\u00a0±\u00a0")
