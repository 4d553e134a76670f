"""Checks whether the experiments of all rounds could start: configs and data sets, by their studies."""

from __future__ import annotations

from collections.abc import Iterator

from roundhouse.config.named_files import named_files
from roundhouse.doctor.account import Account, Finding, ok, warning
from roundhouse.errors import RoundhouseError


def check_rounds(account: Account) -> Iterator[Finding]:
    """Of data sets, files and their sizes are checked, not every byte."""
    from roundhouse.config.round import load_round
    from roundhouse.engine.study_check import StudyChecks

    readiness = StudyChecks(account.repository, account.site)
    problems: dict[str, list[str]] = {}  # the rounds that have each
    ready = []
    for file in named_files(account.repository / "rounds"):
        try:
            experiments = load_round(file.stem, file.parent).experiments
        except RoundhouseError as error:
            problems[str(error)] = [file.stem]
            continue
        refusals = dict.fromkeys(filter(None, map(readiness.refusal, experiments)))
        for refusal in refusals:
            problems.setdefault(refusal, []).append(file.stem)
        ready += [] if refusals else [file.stem]
    if ready:
        yield ok("rounds", f"all experiments can start in {', '.join(ready)}; their data sets were found")
    for problem, names in problems.items():
        yield warning("rounds", f"in {', '.join(names)}: {problem}")
