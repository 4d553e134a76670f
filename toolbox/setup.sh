#!/usr/bin/env bash
# Sets up an account on a cluster: the environment and data sets; and checks all that rounds need there.
set -euo pipefail

# shellcheck source=toolbox/util.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/util.sh"

usage() {
    cat <<'END'
usage: toolbox/setup.sh --data NAME... [--study STUDY] [--to DIR] [--site NAME] [--check]
       toolbox/setup.sh [--site NAME] [--check]

Without --data: creates .venv with `make install` if there is none, then checks Python, packages, PyTorch, site (its
modules and setup lines are run), scheduler, queue, GPUs, experiments/ (files, locks, space) and the data sets of all
rounds. Each check prints a line: ok, missing (nothing runs without it) or warning, with what to do. It does not load
PyTorch, submits no job, and needs no network.

  --data NAME...  fetch and verify data sets: cifar10, cifar100, svhn, tinyimagenet, digits; celeba, whose files you
                  fetch yourself (it says from where): they are verified, and the images decoded; or inception, the
                  weights of the network for FID
  --study STUDY   the study whose data sets they are; default: the one whose studies/STUDY/fetch.py has these NAMES
  --to DIR        the data directory; default: that of the site, otherwise data/ of the repository
  --site NAME     sites/NAME.yaml; default: the site whose hosts match this host
  --check         only check: nothing is installed or fetched. Locks are tested in a directory in experiments/, which is
                  removed again. With --data, every byte is read

$PYTHON is the interpreter; default: .venv/bin/python of the repository.

exit codes:
  0  nothing is missing; with --data: all data sets exist and are valid
  1  something is missing
  2  usage or settings are wrong
END
}

take_options() {
    names=() to="" site="" study="" check="" data=""
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help)
                usage
                exit 0
                ;;
            --data) data=yes ;;
            --check) check=yes ;;
            --to | --site | --study)
                if [ -z "${2:-}" ]; then
                    fail "$1 needs a $([ "$1" = --to ] && echo directory || echo name)"
                fi
                printf -v "${1#--}" %s "$2"
                shift
                ;;
            *)
                if [ -z "$data" ] || [[ $1 = -* ]]; then
                    fail "unknown option $1; see toolbox/setup.sh --help"
                fi
                names+=("$1")
                ;;
        esac
        shift
    done
    [ -z "$data" ] || [ ${#names[@]} -gt 0 ] || fail "--data needs the name of a data set; see toolbox/setup.sh --help"
    [ -z "$to" ] || [ -n "$data" ] || fail "--to requires --data"
    [ -z "$study" ] || [ -n "$data" ] || fail "--study requires --data"
    [ -z "$to" ] || [[ $to = /* ]] || to=$PWD/$to
}

# The data directory of jobs on this host; empty if its site file names none.
data_of_site() {
    "$python" - "$site" <<'END'
import socket
import sys
from pathlib import Path

from roundhouse import missing_package

missing_package.report_in_one_line("setup.sh")

from roundhouse.errors import RoundhouseError
from roundhouse.config.site import load_site

try:
    print(load_site(sys.argv[1] or None, Path("sites"), socket.gethostname()).data or "")
except RoundhouseError as error:
    print(f"setup.sh: {error}", file=sys.stderr)
    sys.exit(2)
END
}

# The study that fetches the data: the one that is named, or the one whose fetch.py has all the names.
fetching_study() {
    if [ -z "$study" ]; then
        study=$("$python" -c "$FIND_STUDY" "${names[@]}") || exit 2
    fi
    [ -f "studies/$study/fetch.py" ] || fail "--study $study: there is no studies/$study/fetch.py"
}

FIND_STUDY='
import importlib, sys
from pathlib import Path
from roundhouse import missing_package
missing_package.report_in_one_line("setup.sh")
from roundhouse.errors import RoundhouseError
from roundhouse.options import choose
owners = {}
for path in sorted(Path("studies").glob("*/fetch.py")):
    for name in getattr(importlib.import_module(f"studies.{path.parent.name}.fetch"), "NAMES", ()):
        owners.setdefault(name, path.parent.name)
try:
    found = {owners[choose("dataset", name, owners)] for name in sys.argv[1:]}
except RoundhouseError as error:
    sys.exit(f"--data: {error}")
if len(found) > 1:
    listed = ", ".join(f"{name}: {owners[name]}" for name in sys.argv[1:])
    sys.exit(f"--data: these belong to several studies ({listed}); call this once for each study")
print(*found)
'

# Runs the module that its first argument names; a package that is missing is one line.
RUN_MODULE='
import runpy, sys
from roundhouse import missing_package
missing_package.report_in_one_line("setup.sh")
sys.argv.pop(0)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
'

fetch_data() {
    local options=()
    [ -n "$to" ] || to=$(data_of_site)
    [ -z "$to" ] || options+=(--to "$to")
    [ -z "$check" ] || options+=(--check)
    fetching_study
    exec "$python" -c "$RUN_MODULE" "studies.$study.fetch" "${names[@]}" ${options[@]+"${options[@]}"}
}

make_environment() {
    [ -z "${PYTHON:-}" ] && [ ! -x .venv/bin/python ] || return 0
    command -v make >/dev/null || fail "make is not installed: run python3 -m venv .venv && .venv/bin/pip install" \
        "-c constraints.txt -e ."
    make install || fail "make install failed: see above, fix it, and call this again"
}

# Without an environment, another Python checks what it can.
check_account() {
    local options=()
    [ -z "$site" ] || options+=(--site "$site")
    if [ -z "${PYTHON:-}" ] && [ ! -x .venv/bin/python ]; then
        python=python3
    else
        find_python
    fi
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        printf 'missing  Python: %s does not exist or is older than 3.10: load a module that has it, then run %s\n' \
            "$python" "make install PYTHON=/path/to/it"
        exit 1
    fi
    exec "$python" -B -m roundhouse.doctor.checks ${options[@]+"${options[@]}"}
}

take_options "$@"
if [ -n "$data" ]; then
    find_python
    cd -- "$repository"
    fetch_data
else
    [ -z "${PYTHON:-}" ] || [[ $PYTHON != */* || $PYTHON = /* ]] || PYTHON=$PWD/$PYTHON
    cd -- "$repository"
    [ -n "$check" ] || make_environment
    check_account
fi
