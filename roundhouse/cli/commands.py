"""What runner.py's options do: each is a function from a round and a workplace to an exit code."""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TextIO

from roundhouse.config.round import Round, json_schema, load_round
from roundhouse.config.site import Site, load_site
from roundhouse.engine import one_pass, user_actions
from roundhouse.engine.context import PassContext
from roundhouse.engine.report import PassReport
from roundhouse.errors import RoundhouseError
from roundhouse.files import umask_for
from roundhouse.model.experiment import Experiment
from roundhouse.model.plan import State
from roundhouse.model.status import goes_on
from roundhouse.names import nearest
from roundhouse.schedulers.command import runner as command_runner
from roundhouse.schedulers.environment import without_effect
from roundhouse.schedulers.local import Local
from roundhouse.schedulers.user import user_name
from roundhouse.store import record
from roundhouse.store.archive import Archive, make_directory, refuse_archived
from roundhouse.views import eta, tables

DONE, USAGE, WORK_REMAINS, FAILED, TROUBLE, INTERRUPTED = 0, 2, 3, 4, 5, 130
LOCK_PATIENCE = 120.0  # seconds to wait for another pass over the same round
HERE_PATIENCE = 5.0  # the same where a pass lasts as long as the training does
WIDE = 160  # columns of a table that goes into a file or a pipe


class Busy(RoundhouseError):
    """Another runner is at work on the round: nothing is wrong, and there is nothing to do but wait."""


Only = Callable[[Experiment], bool]


def main(options: argparse.Namespace, repository: Path) -> int:
    """Carry out one call of runner.py, and tell what went wrong in a line. Returns the exit code."""
    gc.disable()  # a pass over a large round makes little but objects that stay; looking through them takes an eighth
    try:
        code = run(options, repository)
        sys.stdout.flush()
        return code
    except RoundhouseError as error:
        print(f"runner.py: {error}", file=sys.stderr)
        return WORK_REMAINS if isinstance(error, Busy) else USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: say nothing more, at exit too
        return TROUBLE
    except OSError as error:
        print(f"runner.py: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        return TROUBLE


def run(options: argparse.Namespace, repository: Path) -> int:
    """Carry out one call of runner.py. RoundhouseError: bad input."""
    if options.schema:
        print(json.dumps(json_schema(), indent=2))
        return DONE
    if not options.round:
        raise RoundhouseError("say which round: --round NAME, a file rounds/NAME.yaml")
    _check(options)
    loaded = load_round(options.round, options.rounds)
    put_away = Archive.of(loaded.name, options.experiments.absolute(), options.analysis.absolute())
    if options.archive:
        _set_umask(_site(options, repository), put_away.folder)
        return _archive(put_away, loaded, options.force)
    only = _chooser(loaded, options.only)
    if put_away.there and (options.why or options.status):
        return _look_back(put_away, loaded, only, options)
    refuse_archived(put_away)
    _check_studies(loaded, repository)
    _check_code(options, loaded)
    place = _workplace(options, repository, loaded)
    if isinstance(place.scheduler, Local):
        # What goes into an allocation elsewhere has a slot to itself here.
        slots = [replace(one, resources=one.resources.in_a_slot()) for one in loaded.experiments]
        loaded = replace(loaded, experiments=slots)
    if options.why:
        return _why(_told(place, loaded), loaded, put_away.source, options.why)
    if options.status:
        return _status(one_pass.run_pass(place, loaded.experiments, act=False, only=only), loaded, options.json)
    if options.dry_run:
        return _dry_run(place, loaded, only, options.limit)
    make_directory(put_away)
    if options.cancel:  # without the lock, which a runner in the foreground holds to its end
        return _cancel(place, loaded, only)
    with _lock(place.experiments, loaded.name, HERE_PATIENCE if isinstance(place.scheduler, Local) else LOCK_PATIENCE):
        if options.retry:
            _tell(
                user_actions.retry(
                    (row for row in _told(place, loaded).rows if only(row.experiment)), bool(options.only)
                )
                or ["nothing to retry"]
            )
            if not options.code and any(experiment.snapshot for experiment in loaded.experiments):
                print("What has run goes on with the code that it ran. For the present code: --retry --code current")
        if isinstance(place.scheduler, Local):
            return _run_here(place, place.scheduler, loaded, only, options.limit)
    return _run_there(place, loaded, only, options.limit) if options.watch is None else _watch(place, loaded, options)


def _check(options: argparse.Namespace) -> None:
    for name in ("limit", "jobs_per_gpu", "watch"):
        value = getattr(options, name)
        least, most = 0 if name == "limit" else 1, 10**7
        if value is not None and not least <= value < most:
            advice = f"below {most:,}" if value >= most else f"from {least} on"
            raise RoundhouseError(f"--{name.replace('_', '-')} {value} makes no sense: give a number {advice}")
    if options.json and not options.status:
        raise RoundhouseError("--json goes with --status")
    if options.watch is not None:
        instead = ("dry_run", "status", "why", "cancel", "archive")
        if given := [f"--{name.replace('_', '-')}" for name in instead if getattr(options, name)]:
            raise RoundhouseError(f"--watch goes with passes, and {given[0]} makes none")
    if options.force and not options.archive:
        raise RoundhouseError("--force goes with --archive")
    if options.archive and (options.only or options.limit is not None):
        raise RoundhouseError("--archive puts the whole round away: --only and --limit make no sense with it")
    if options.archive and options.code:
        raise RoundhouseError("--archive submits nothing: --code makes no sense with it")


def _check_studies(loaded: Round, repository: Path) -> None:
    known = sorted(path.parent.name for path in repository.glob("studies/*/__init__.py"))
    for study in {experiment.study for experiment in loaded.experiments if experiment.study} - set(known):
        raise RoundhouseError(
            f"{loaded.file}: there is no study {study!r} in {repository}/studies: {nearest(study, known)}"
        )


def _check_code(options: argparse.Namespace, loaded: Round) -> None:
    if options.code and not any(experiment.snapshot for experiment in loaded.experiments):
        raise RoundhouseError(
            f"--code goes with rounds that run copies of the code, and {loaded.file} does not say snapshot: true"
        )
    if options.code and (options.status or options.why or options.cancel):
        raise RoundhouseError("--code says what a pass submits: it goes with a pass, --dry-run or --retry")


def _chooser(loaded: Round, glob: str | None) -> Only:
    if glob is None:
        return lambda experiment: True
    if not any(fnmatchcase(experiment.path, glob) for experiment in loaded.experiments):
        hint = nearest(glob, [experiment.path for experiment in loaded.experiments])
        raise RoundhouseError(f"--only {glob!r} matches no experiment of round {loaded.name}; {hint}")
    return lambda experiment: fnmatchcase(experiment.path, glob)


def _site(options: argparse.Namespace, repository: Path) -> Site:
    return load_site(options.site, repository / "sites", socket.gethostname())


def _set_umask(site: Site, directory: Path) -> Site:
    """Set the umask of this process: the site's, else that for `directory`. Returns the site with it, for its jobs."""
    mask = int(site.umask, 8) if site.umask else umask_for(directory, os.umask(0o077))
    os.umask(mask)
    return site.model_copy(update={"umask": f"{mask:03o}"})


def _workplace(options: argparse.Namespace, repository: Path, loaded: Round) -> PassContext:
    from roundhouse.machine.pool import make_pool
    from roundhouse.schedulers.detect import detect

    site = _set_umask(_site(options, repository), options.experiments.absolute())
    run = command_runner(site.command_limit)
    kind = options.scheduler if options.scheduler not in (None, "auto") else site.scheduler
    if kind == "cluster" and site.scheduler in ("slurm", "pbs"):
        kind = site.scheduler
    scheduler, remark = detect(kind, user_name(), run)
    if scheduler is not None and scheduler.kind == "slurm":
        for message in without_effect(os.environ, {key for key in Site.model_fields if getattr(site, key)}):
            print(f"runner.py: {message}", file=sys.stderr)
    if remark:
        print(f"runner.py: {remark}; running on this machine", file=sys.stderr)
    experiments, python = options.experiments.absolute(), site.python or sys.executable
    if scheduler is not None:
        settle = max(120.0, 2 * site.command_limit)
        made = PassContext(experiments, repository, site, scheduler, run, python, site.max_jobs, settle)
        made.analysis, made.rounds = options.analysis.absolute(), options.rounds.absolute()
        made.current_code, made.only = options.code == "current", options.only
        return made
    cores = max((one.resources.in_a_slot().ncpus for one in loaded.experiments), default=1)
    shared = max((one.resources.pack.per_gpu for one in loaded.experiments if one.resources.pack), default=1)
    pool = make_pool(cores, options.jobs_per_gpu or shared)
    place = PassContext(experiments, repository, site, Local(pool), run, python, settle=5.0, backoff=0.0)
    place.room, place.analysis = pool.room, options.analysis.absolute()
    place.current_code = options.code == "current"
    return place


@contextmanager
def _lock(experiments: Path, name: str, patience: float = LOCK_PATIENCE) -> Iterator[None]:
    """One pass over a round at a time. It only keeps passes orderly: where locks do not work, nothing depends on it."""
    import filelock

    experiments.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(experiments / f".{name}.lock")
    try:
        lock.acquire(timeout=patience)
    except filelock.Timeout:
        raise Busy(
            f"another runner is at work on round {name} ({lock.lock_file} is locked). --status shows how it stands"
        ) from None
    except (NotImplementedError, OSError) as error:
        print(
            f"runner.py: no lock could be taken ({error}); going on, the record keeps order by itself", file=sys.stderr
        )
    try:
        yield
    finally:
        lock.release()


def _told(place: PassContext, loaded: Round) -> PassReport:
    return one_pass.run_pass(place, loaded.experiments, act=False)


def _run_here(place: PassContext, scheduler: Local, loaded: Round, only: Only, limit: int | None) -> int:
    records = (record.read(place.directory(experiment)) for experiment in loaded.experiments)
    if all(rec.folded for rec in records):
        report, interrupted = one_pass.run_pass(place, loaded.experiments, only=only), False
    else:
        from roundhouse.engine.local_loop import run_here

        gc.enable()  # for days, maybe
        report, interrupted = run_here(place, scheduler.pool, loaded.experiments, only, limit)
    _print(loaded, report)
    return INTERRUPTED if interrupted else exit_code(report)


def _run_there(place: PassContext, loaded: Round, only: Only, limit: int | None) -> int:
    with _lock(place.experiments, loaded.name):
        report = one_pass.run_pass(place, loaded.experiments, only=only, limit=limit)
    _print(loaded, report)
    return exit_code(report)


def _watch(place: PassContext, loaded: Round, options: argparse.Namespace) -> int:
    """Passes until nothing is left to do, each over the round as its file says then."""
    from roundhouse.engine.watch import Latest, NoPass, Passed, Watch, say

    def read() -> Round:
        found = load_round(options.round, options.rounds)
        _check_studies(found, place.repository)
        _chooser(found, options.only)
        return found

    def next_pass() -> Passed:
        current = latest.look()
        only = _chooser(current, options.only)
        try:
            with _lock(place.experiments, current.name):
                began = time.monotonic()
                report = one_pass.run_pass(place, current.experiments, only=only, limit=options.limit)
                took = time.monotonic() - began
        except (Busy, OSError) as error:
            raise NoPass(str(error)) from None
        code = exit_code(report)
        return Passed(current, report, took, code, over=code in (DONE, FAILED), failed=code == TROUBLE)

    latest = Latest(loaded, read)
    try:
        every = None if options.watch is True else options.watch
        return Watch(next_pass, lambda passed: _print(passed.round, passed.report), every).run()
    except KeyboardInterrupt:
        say("The watch has ended; the jobs go on. The same call takes it up again.")
        return INTERRUPTED


def exit_code(report: PassReport) -> int:
    states = {row.action.state for row in report.rows}
    if report.trouble:
        return TROUBLE
    if states <= {State.COMPLETED, State.PRUNED}:
        return DONE
    return WORK_REMAINS if any(goes_on(row) for row in report.rows) else FAILED


def _print(loaded: Round, report: PassReport) -> None:
    if len(report.rows) > tables.MANY and exit_code(report) == DONE:
        _tell(eta.told(report.rows, time.time()))
        print(tables.summary(loaded.name, report.rows, len(loaded.experiments)), flush=True)
        return
    from rich.console import Console

    from roundhouse.views import results

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    rows = report.rows
    if len(rows) > tables.MANY:
        if any(row.action.state is not State.COMPLETED for row in rows):
            console.print(tables.groups(rows))
            _tell(tables.limits(rows))
    table = tables.table(rows)
    if table.row_count:
        console.print(table)
    settings = results.settings_of(rows) if len(rows) <= tables.MANY else []
    if settings:
        console.print("", results.table(settings), sep="\n")
    _tell(tables.choices(rows) + report.notes)
    _tell(tables.refusals(rows) + report.trouble, sys.stderr)
    _tell(eta.told(rows, time.time()))
    print(tables.summary(loaded.name, rows, len(loaded.experiments)), flush=True)


def _tell(lines: Sequence[str], stream: TextIO | None = None) -> None:
    for line in lines:
        print(line, file=stream or sys.stdout)


def _status(report: PassReport, loaded: Round, as_json: bool) -> int:
    if as_json:
        print(json.dumps([tables.as_dict(row) for row in report.rows], indent=1))
        _tell(report.trouble, sys.stderr)
    else:
        _print(loaded, report)
    return TROUBLE if report.trouble else DONE


def _dry_run(place: PassContext, loaded: Round, only: Only, limit: int | None) -> int:
    """What a pass would do, with the job scripts rendered into a temporary folder."""
    from roundhouse.engine import dry_run

    report = one_pass.run_pass(place, loaded.experiments, act=False, only=only, limit=limit)
    folder, told = dry_run.write(report.foreseen, loaded.name)
    _tell([*map(tables.prospect, report.rows), *told, *dry_run.notes(report.foreseen), *report.notes])
    _tell(tables.refusals(report.rows) + report.trouble, sys.stderr)
    print(tables.summary(loaded.name, report.rows, len(loaded.experiments)))
    through = f"through {place.scheduler.kind} (site {place.site.name})"
    more = dry_run.followers(report.rows, report.foreseen, limit)
    jobs = f"{dry_run.summary(report.foreseen)} would be submitted {through}{more}."
    print(jobs + f" Scripts: {folder}" * bool(folder))
    return TROUBLE if report.trouble else DONE


def _look_back(put_away: Archive, loaded: Round, only: Only, options: argparse.Namespace) -> int:
    """--why and --status of a round that was archived: as its records tell, for no scheduler has anything of it."""
    from roundhouse.engine import offline

    places = {one.path: put_away.records / one.path for one in loaded.experiments}
    rows = [row for row in offline.rows(loaded.experiments, places).values() if options.why or only(row.experiment)]
    print(f"runner.py: round {loaded.name} was archived, into {put_away.folder}", file=sys.stderr)
    if options.why:
        return _why(PassReport(rows), loaded, put_away.records, options.why)
    return _status(PassReport(rows), loaded, options.json)


def _why(report: PassReport, loaded: Round, records: Path, asked: str) -> int:
    rows = {row.experiment.path: row for row in report.rows}
    path = asked
    if asked not in rows:
        relative = os.path.relpath(os.path.abspath(asked), records)
        path = relative if relative in rows else asked.strip("/")
    if path not in rows:
        raise RoundhouseError(f"round {loaded.name} has no experiment {asked!r}; {nearest(asked, rows)}")
    print(tables.story(rows[path]))
    _tell(report.trouble, sys.stderr)
    return DONE


def _archive(put_away: Archive, loaded: Round, force: bool) -> int:
    from roundhouse.engine import archive_round

    refuse_archived(put_away)
    experiments = put_away.source.parent
    with _lock(experiments, loaded.name, HERE_PATIENCE):
        _tell(archive_round.put_away(put_away, loaded, force))
        (experiments / f".{loaded.name}.lock").unlink(missing_ok=True)
    return DONE


def _cancel(place: PassContext, loaded: Round, only: Only) -> int:
    rows = [row for row in _told(place, loaded).rows if only(row.experiment)]
    told, failed = user_actions.cancel(place, rows)
    _tell(told or ["nothing to cancel: all is over already"] * (not failed))
    report = one_pass.run_pass(place, loaded.experiments, only=only, limit=0)
    _tell(failed + report.trouble, sys.stderr)
    return TROUBLE if failed or report.trouble else DONE
