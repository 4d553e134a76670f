#!/usr/bin/env bash
# Prepares on a login node what jobs need and cannot fetch: compute nodes have no internet.
set -euo pipefail

usage() {
    cat <<'END'
usage: toolbox/setup.sh --data NAME... [--to FOLDER] [--check]

  --data NAME...  fetch and verify data sets: cifar10, cifar100, svhn, tinyimagenet, digits
  --to FOLDER     the data folder; without it that of this host's site file, else data/ of the repository
  --check         fetch nothing, only look

$PYTHON is the interpreter; without it, .venv/bin/python of the repository.
END
}

fail() {
    echo "setup.sh: $*" >&2
    exit 2
}

# The data folder that jobs of this host are given; empty where its site file names none.
data_of_site() {
    "$python" - <<'END'
import socket
import sys
from pathlib import Path

from roundhouse.errors import RoundhouseError
from roundhouse.site import load_site

try:
    print(load_site(None, Path("sites"), socket.gethostname()).data or "")
except RoundhouseError as error:
    sys.exit(f"setup.sh: {error}")
END
}

fetch_data() {
    local names=() to="" options=()
    while [ $# -gt 0 ]; do
        case $1 in
            --to)
                [ $# -gt 1 ] || fail "--to needs a folder"
                to=$2
                shift
                [[ $to = /* ]] || to=$from/$to
                ;;
            --check) options+=(--check) ;;
            -*) fail "unknown option $1; see toolbox/setup.sh --help" ;;
            *) names+=("$1") ;;
        esac
        shift
    done
    [ ${#names[@]} -gt 0 ] || fail "--data needs the name of a data set; see toolbox/setup.sh --help"
    [ -n "$to" ] || to=$(data_of_site)
    [ -z "$to" ] || options+=(--to "$to")
    exec "$python" -m studies.distillation.fetch "${names[@]}" ${options[@]+"${options[@]}"}
}

from=$PWD
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$PWD/.venv/bin/python}
[[ $python != */* || $python = /* ]] || python=$from/$python

case ${1:-} in
    -h | --help) usage ;;
    --data)
        command -v "$python" >/dev/null || fail "there is no $python: run make install, or set PYTHON"
        shift
        fetch_data "$@"
        ;;
    *)
        usage >&2
        exit 2
        ;;
esac
