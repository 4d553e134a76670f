"""The page of a report: from what is known of a round to one HTML file that needs nothing but its folder."""

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

from analysis.page.rows import amount, is_share, table
from analysis.standing import LOGS, Changes, Failure, Known, Leaders, Prospect, Spread, Use
from roundhouse.formatting import counted, date_and_time, duration
from roundhouse.model.plan import State

HERE = Path(__file__).parent
SYMBOLS = {
    State.PENDING: "·",
    State.SUBMITTING: "↑",
    State.IN_PROGRESS: "▸",
    State.BLOCKED: "■",
    State.COMPLETED: "✓",
    State.PRUNED: "✂",
    State.FAILED: "✕",
    State.CANCELLED: "⊘",
}
MEANINGS = {
    State.PENDING: "not begun, or waits for its next attempt",
    State.SUBMITTING: "being handed to the scheduler",
    State.IN_PROGRESS: "queued or running",
    State.BLOCKED: "waits for a person",
    State.COMPLETED: "done",
    State.PRUNED: "left behind early: others of its group were better",
    State.FAILED: "given up after its tries",
    State.CANCELLED: "stopped by a person",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture of the report: paths relative to its folder. `subject`: the experiment that it is about, if one."""

    title: str
    caption: str
    image: str
    data: str
    subject: str | None
    size: tuple[int, int] | None  # pixels


@dataclass(frozen=True, slots=True)
class Report:
    """All that a page tells. `changes`: None in a first report; `tables`: paths relative to the report's folder."""

    name: str
    generated: datetime  # UTC
    records: Path
    file: Path | None
    known: Sequence[Known]
    counts: Mapping[State, int]
    use: Use
    prospect: Prospect
    failures: Sequence[Failure]
    leaders: Sequence[Leaders]
    changes: Changes | None
    figures: Sequence[Figure]
    tables: Sequence[str]
    summary: str | None
    problems: Sequence[str]


def render(report: Report) -> bytes:
    """The page, as HTML in UTF-8. What records name stands in it as text, and only its own script can run."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "amount": amount, "counted": counted, "duration": duration, "gain": gain, "link": quote, "moment": moment,
        "plus_minus": plus_minus, "rendered": rendered, "spaced": spaced, "word": word,
    }  # fmt: skip
    text = environment.get_template("report.html.jinja").render(
        report=report,
        overviews=[one for one in report.figures if one.subject is None],
        total=sum(report.counts.values()),
        states=[(state, number) for state, number in report.counts.items()],
        through=_through(report),
        symbols=SYMBOLS,
        meanings=MEANINGS,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        data=Markup(embedded(table(report.known, {one.subject: one for one in report.figures if one.subject}))),
        metrics={one.entry.path: one.metric or "" for one in report.known},
        logs=LOGS,
    )
    return text.encode("utf-8", "backslashreplace")  # a name may hold what is no character


def _policy(style: str, script: str) -> str:
    """A content security policy under which only these two run: nothing is loaded, and nothing leaves."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    rules = ("default-src 'none'", "img-src 'self' file: data:", f"style-src 'sha256-{hashes[0]}'",
             f"script-src 'sha256-{hashes[1]}'", "base-uri 'none'", "form-action 'none'")  # fmt: skip
    return "; ".join(rules)


def _through(report: Report) -> datetime | None:
    """When everything may be through."""
    seconds = report.prospect.seconds
    try:
        return report.generated + timedelta(seconds=seconds) if seconds else None
    except OverflowError:
        return None


def embedded(value: Any) -> str:
    """JSON that may stand in a `<script>` element whatever it holds."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def rendered(text: str) -> Markup:
    """Markdown as HTML, its headings below those of the page. HTML in it is text; links and images are none."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
    return Markup(parser.renderer.render(tokens, parser.options, {}))


def png_size(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels of a PNG file, from its header; None if it is none."""
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or not head.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    width, height = struct.unpack(">II", head[16:24])
    return width, height


# -------------------------------------------------------------------------------------------------- how things are told


def word(state: State | str) -> str:
    """A state as people say it."""
    return str(state).replace("_", " ")


def spaced(name: str) -> str:
    """A metric's name as people write it, with places to break."""
    return name.replace("_", " ")


def moment(when: datetime) -> str:
    return f"{date_and_time(when.timestamp())} UTC"


def plus_minus(found: Spread | None, name: str) -> str:
    """A result never stands without its noise: mean ± standard deviation over n seeds. Spaces within do not break."""
    if found is None:
        return "not known"
    if found.deviation is None:
        return f"{amount(name, found.mean)} (one seed, noise not known)"
    factor = 100 if is_share(name) else 1
    unit = "\u00a0%" if is_share(name) else ""
    digits = ".2f" if is_share(name) else ".4g"
    told = f"{factor * found.mean:{digits}}\u00a0±\u00a0{factor * found.deviation:{digits}}{unit}"
    return f"{told} (n\u00a0=\u00a0{found.n})"


def gain(result: Spread, baseline: Spread, name: str) -> str:
    """How far the result lies above the baseline, with the standard error of that where both have more seeds."""
    factor, unit = (100, " percentage points") if is_share(name) else (1, "")
    digits = ".2f" if is_share(name) else ".4g"
    told = f"{factor * (result.mean - baseline.mean):+{digits}}"
    if result.deviation is None or baseline.deviation is None:
        return f"{told}{unit}, noise not known"
    error = math.sqrt(result.deviation**2 / result.n + baseline.deviation**2 / baseline.n)
    return f"{told}\u00a0±\u00a0{factor * error:{digits}}{unit}"
