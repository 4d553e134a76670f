"""The problems of a period and the queue at its end, grouped and counted, in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from analysis.methodology import in_markdown
from analysis.methods_sections import LEAST_SHOWN, figure, tally
from roundhouse.formatting import counted
from roundhouse.views import eta
from toolbox.weekly.history import Event, lost_in
from toolbox.weekly.rounds import Activity

ROUNDS_SHOWN = 3  # rounds with problems, or with a queue; the others are counted
DAMAGED_SHOWN = 2  # rounds whose records have problems
WORDS_SHOWN = 90  # characters of a reason


def problems_section(rounds: Sequence[Activity], unreadable: Sequence[str]) -> Iterator[str]:
    """A line for each round with failures, one for all interruptions, and what could not be read."""
    failing = [(one.found.name, line) for one in rounds if (line := failures(one))]
    lines = [f"- **{in_markdown(name)}**: {line}" for name, line in failing[:ROUNDS_SHOWN]]
    if len(failing) > ROUNDS_SHOWN:
        lines.append(f"- and {counted(len(failing) - ROUNDS_SHOWN, 'more round')} with failures")
    lines += [f"- {in_markdown(line)}" for line in interruptions(rounds)]
    damaged = sorted((one for one in rounds if one.problems), key=lambda one: one.found.file is not None)
    for one in damaged[:DAMAGED_SHOWN]:
        number = f"{counted(len(one.problems), 'problem')} in its records, first: " if len(one.problems) > 1 else ""
        lines.append(f"- **{in_markdown(one.found.name)}**: {number}{in_markdown(one.problems[0])}")
    if len(damaged) > DAMAGED_SHOWN:
        lines.append(f"- and {counted(len(damaged) - DAMAGED_SHOWN, 'more round')} with problems in the records")
    lines += [f"- {line}" for line in unreadable]
    yield "\n".join(lines) if lines else "None."


def failures(one: Activity) -> str:
    """`4 failed (3 memory, 1 error), 1 of them retried since, first PATH (WHY); 12 blocked; 1 diverged`."""
    failed = {path: last for path, several in one.events.items() if (last := _last(several, "failed"))}
    states = Counter(one.states.values())
    retried = sum(one.states[path] != "failed" for path in failed)
    earlier = states["failed"] - (len(failed) - retried)
    parts = []
    if failed:
        path, event = next(iter(failed.items()))
        why = f" ({event.why[:WORDS_SHOWN].strip()})" if event.why.strip() else ""
        causes = tally(Counter(event.cause for event in failed.values()))
        again = f", {retried:,} of them retried since" if retried else ""
        parts.append(f"{len(failed):,} failed ({causes}){again}, first {path}{why}")
    parts += [f"{earlier:,} failed earlier and not retried"] if earlier else []
    parts += [f"{states['blocked']:,} blocked"] if states["blocked"] else []
    parts += [f"{number:,} diverged"] if (number := one.number("diverged")) else []
    return in_markdown("; ".join(parts))


def _last(events: Sequence[Event], kind: str) -> Event | None:
    return next((event for event in reversed(events) if event.kind == kind), None)


def interruptions(rounds: Sequence[Activity]) -> Iterator[str]:
    """How many runs were started again, after what, and the hours that were lost."""
    events = [event for one in rounds for several in one.events.values() for event in several]
    causes = Counter(event.cause for event in events if event.kind == "requeued")
    lost: dict[str, float] = {}
    for one in rounds:
        lost[one.unit] = lost.get(one.unit, 0.0) + sum(lost_in(each, one.period, one.unit) for each in one.known)
    if causes:
        yield f"{counted(causes.total(), 'restart', ',')}, after: {tally(causes)}"
    hours = " and ".join(f"{figure(amount)} {unit}" for unit, amount in lost.items() if amount >= LEAST_SHOWN)
    if hours:
        yield f"About {hours} lost: used by runs that failed, or computed again after a restart"


def queue_section(rounds: Sequence[Activity], now: float | None) -> Iterator[str]:
    """What runs and waits at the end of the period, most first; with the ETA if that is `now`."""
    waiting = []
    for one in rounds:
        states = Counter() if one.archived else Counter(one.states.values())
        numbers = [f"{states[state]:,} {state}" for state in ("running", "queued", "waiting") if states[state]]
        if numbers:
            estimate = eta.estimate([eta.workload_of(each.entry.status) for each in one.known])
            text = f". {eta.sentence(estimate, now)}" if now is not None and eta.sentence(estimate, now) else ""
            total = states["running"] + states["queued"] + states["waiting"]
            waiting.append((-total, f"- **{in_markdown(one.found.name)}**: {', '.join(numbers)}{in_markdown(text)}"))
    waiting.sort(key=lambda item: item[0])
    lines = [line for _, line in waiting[:ROUNDS_SHOWN]]
    if rest := waiting[ROUNDS_SHOWN:]:
        number = -sum(total for total, _ in rest)
        lines.append(f"- and {counted(number, 'experiment', ',')} of {counted(len(rest), 'more round')}")
    yield "\n".join(lines) if lines else "No experiment is running or waiting."
