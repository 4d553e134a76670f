"""Check whether this account is ready for rounds: environment, site, scheduler, GPUs, files, data (toolbox/setup.sh).

Nothing is changed, except for a temporary folder in experiments/, where locks and links are tried. The modules and
setup lines of the site are run. Without the packages of the environment, only what needs none of them is checked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from roundhouse.doctor.account import Account, Finding, missing, warning
from roundhouse.doctor.cluster import check_queue, check_scheduler, check_site
from roundhouse.doctor.environment import check_packages, check_python, check_setup
from roundhouse.doctor.filesystem import check_files, check_space
from roundhouse.doctor.gpus import check_gpus, check_pytorch
from roundhouse.doctor.rounds import check_rounds
from roundhouse.errors import RoundhouseError

REPOSITORY = Path(__file__).resolve().parents[2]

Check = Callable[[Account], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    check_python, check_packages, check_pytorch, check_site, check_setup, check_scheduler, check_queue, check_gpus,
    check_files, check_space, check_rounds,
)  # fmt: skip


def run_checks(account: Account) -> Iterator[Finding]:
    """All findings. A check that a missing package or a wrong file prevents is one; each error is reported once."""
    reported = set()
    for check in CHECKS:
        what = check.__name__.removeprefix("check_")
        try:
            yield from check(account)
        except ImportError as error:
            yield warning(what, f"not checked, since packages are missing ({error})")
        except RoundhouseError as error:
            if str(error) not in reported:
                yield missing(what, str(error))
            reported.add(str(error))
        except OSError as error:
            yield warning(what, f"not checked: {error}")


def main(arguments: Sequence[str] | None = None) -> int:
    """0: nothing essential is missing; 1: something is."""
    parser = argparse.ArgumentParser(prog="python -m roundhouse.doctor.checks", description=str(__doc__))
    parser.add_argument("--site", metavar="NAME", help="sites/NAME.yaml; default: the site whose `hosts` match")
    essential = True
    for finding in run_checks(Account(REPOSITORY, parser.parse_args(arguments).site)):
        print(f"{finding.level:<8} {finding.what}: {' '.join(finding.text.split())}", flush=True)
        essential = essential and finding.level != "missing"
    return 0 if essential else 1


if __name__ == "__main__":
    sys.exit(main())
