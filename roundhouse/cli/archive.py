"""--archive: move the records of a finished round to analysis/experiment_NAME/."""

from __future__ import annotations

import argparse
from pathlib import Path

from roundhouse.cli import context
from roundhouse.cli.exit_codes import ExitCode
from roundhouse.cli.output import print_lines
from roundhouse.engine import archive_round
from roundhouse.store.archive import refuse_archived


def run(options: argparse.Namespace, repository: Path) -> ExitCode:
    target = context.load_target(options)
    context.site_with_umask(options, repository, target.archive.folder)
    refuse_archived(target.archive)
    experiments, name = target.archive.source.parent, target.round.name
    with context.lock(experiments, name, context.LOCAL_LOCK_TIMEOUT):
        print_lines(archive_round.archive_round(target.archive, target.round, options.force))
        (experiments / f".{name}.lock").unlink(missing_ok=True)
    return ExitCode.DONE
