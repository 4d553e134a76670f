#!/usr/bin/env bash
# Pulls the records of rounds from the cluster: only what is new there, and nothing that is newer here is lost.
set -euo pipefail

# shellcheck source=toolbox/util.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/util.sh"

usage() {
    cat <<'END_OF_USAGE'
usage: toolbox/rsync.sh [--round NAME]... [--checkpoints none|best|all] [--to DIR]

Pulls HOST:REMOTE/experiments/ROUND/ into experiments/ROUND/ here, as toolbox/cluster.env says.

  --round NAME        this round, instead of those of cluster.env; may be given more than once
  --checkpoints WHAT  none: no weights; best: best.pth of each experiment; all: checkpoints too. Without it, as
                      cluster.env says
  --to DIR            DIR/ROUND/ instead of experiments/ROUND/

Nothing is ever deleted here. Files arrive in experiments/ROUND/.pull/ and are put in place whole, an experiment's end
after its results. What was cut short goes on there the next time. A file that is newer here than there, or differs and
is just as old, is kept and named; to take theirs, move it away and pull again. Rounds that are archived here are left
alone.

exit codes:
  0  pulled
  1  part of it could not be pulled: call again
  2  usage or settings are wrong
  4  pulled, but files that are newer here were kept
  5  the host could not be reached: nothing happened
END_OF_USAGE
}

MOST=5 # names in one message

take_options() {
    rounds=()
    to=$repository/experiments
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help)
                usage
                exit 0
                ;;
            --round | --checkpoints | --to)
                [ -n "${2:-}" ] || fail "$1 needs a value; see toolbox/rsync.sh --help"
                ;;
            *) fail "unknown option $1; see toolbox/rsync.sh --help" ;;
        esac
        case $1 in
            --round)
                is_round "$2" || fail "$2 is no name of a round: letters, digits, - and _ only"
                rounds+=("$2")
                ;;
            --checkpoints)
                [[ $2 = none || $2 = best || $2 = all ]] || fail "--checkpoints must be none, best or all, not $2"
                checkpoints=$2
                ;;
            --to)
                to=$2
                [[ $to = /* ]] || to=$PWD/$to
                ;;
        esac
        shift 2
    done
}

# Sets `begun` to those of the rounds that have records on the host. Exits where it cannot be reached.
look_there() {
    local code=0 name look
    # For the host's sh, and on one line, since a login shell may be a csh, which knows no quotes over several.
    # shellcheck disable=SC2016
    look='cd -- "$1" || exit 3; command -v rsync >/dev/null || exit 4; shift;'
    # shellcheck disable=SC2016
    look+=' [ -f runner.py ] || exit 5; for name do if [ -d "experiments/$name" ]; then echo "begun $name";'
    # shellcheck disable=SC2016
    look+=' elif [ -e "analysis/experiment_$name/experiments" ]; then echo "archived $name";'
    # shellcheck disable=SC2016
    look+=' elif [ ! -f "rounds/$name.yaml" ]; then echo "unknown $name"; fi; done'
    remote sh -c "$look" sh "$folder" "${rounds[@]}" >"$scratch/begun" 2>"$scratch/errors" || code=$?
    case $code in
        0) ;;
        3) fail "$HOST has no folder $folder that can be entered: see REMOTE in $settings_file" ;;
        5) fail "$folder on $HOST is no checkout of Roundhouse, for it has no runner.py: see REMOTE in $settings_file" ;;
        4) fail "$HOST has no rsync: install it there, or load its module in the file that its shell reads first" ;;
        *)
            complain "$(explain_ssh "$scratch/errors")"
            exit 5
            ;;
    esac
    begun=()
    for name in "${rounds[@]}"; do
        if grep -qx "begun $name" "$scratch/begun"; then
            begun+=("$name")
        elif grep -qx "archived $name" "$scratch/begun"; then
            printf '%s: archived on %s, so not pulled; its records are there in analysis/experiment_%s/experiments\n' \
                "$name" "$HOST" "$name"
        elif grep -qx "unknown $name" "$scratch/begun"; then
            complain "$name: no such round on $HOST: it has neither records nor rounds/$name.yaml there"
            worst=1
        else
            printf '%s: not begun on %s\n' "$name" "$HOST"
        fi
    done
}

# The filter of names in `filters`.
choose_files() {
    filters=(--exclude=/.pull/ --exclude=/.code/ --exclude=.rsync-partial/ "--include=*/" "--exclude=.draft-*" "--exclude=.*.lock")
    case $checkpoints in
        none) filters+=("--exclude=*.pth" "--exclude=checkpoint*.pth*") ;;
        best) filters+=(--include=best.pth "--exclude=*.pth" "--exclude=checkpoint*.pth*") ;;
    esac
}

# fetch ROUND: what differs from here, into .pull/. Returns rsync's exit code.
fetch() {
    local ssh word shell="" twice="''"
    ssh_words
    for word in "${ssh[@]}"; do # rsync takes its -e apart by itself, and knows quotes, but no backslashes
        shell+=" '${word//\'/$twice}'"
    done
    # Times are compared to the nanosecond: a file may be replaced by one of equal size within a second.
    SSH_ASKPASS_REQUIRE=never rsync -e "${shell# }" --recursive --links --safe-links --times --omit-dir-times \
        --modify-window=-1 --protect-args --timeout=120 --partial-dir=.rsync-partial "${filters[@]}" \
        --compare-dest="$to/$1/" -- "$HOST:$folder/experiments/$1/" "$to/$1/.pull/" \
        </dev/null >"$scratch/output" 2>"$scratch/errors"
}

# same FILE OTHER: whether they hold the same, as files or as links.
same() {
    if [ -L "$1" ] || [ -L "$2" ]; then
        [ -L "$1" ] && [ -L "$2" ] && [ "$(readlink -- "$1")" = "$(readlink -- "$2")" ]
    else
        cmp -s -- "$1" "$2"
    fi
}

# newer FILE OTHER: whether FILE is, of which either may be a link.
newer() {
    if [ -L "$1" ] || [ -L "$2" ]; then
        [ -n "$(find "$1" -prune -newer "$2")" ]
    else
        [ "$1" -nt "$2" ]
    fi
}

# take ROUND: puts in place what lies in .pull/ and is chosen by the words for find after it.
take() {
    local from=$to/$1/.pull round=$1 file name here
    shift
    while IFS= read -r -d '' file; do
        name=${file#"$from"/}
        here=$to/$round/$name
        if [ -d "$here" ] && [ ! -L "$here" ]; then
            kept+=("$name")
            rm -f -- "$file"
        elif { [ -e "$here" ] || [ -L "$here" ]; } && ! newer "$file" "$here" && ! same "$file" "$here"; then
            kept+=("$name")
            rm -f -- "$file"
        else
            [ -d "${here%/*}" ] || mkdir -p -- "${here%/*}" || return
            mv -f -- "$file" "$here" || return
            taken=$((taken + 1))
        fi
    done < <(find "$from" -name .rsync-partial -prune -o ! -type d "$@" -print0)
}

# take_all ROUND: data first, then what says that there is data, and last the view.
take_all() {
    take "$1" ! -name history.json ! -name result.json ! -name status.json &&
        take "$1" \( -name history.json -o -name result.json \) &&
        take "$1" -name status.json
}

# pull ROUND: returns 0, 1 or 4 as in the exit codes, 5 once the connection is lost.
pull() {
    local code=0 taken=0 kept=() and=""
    mkdir -p -- "$to/$1/.pull" 2>"$scratch/errors" || {
        complain "$1: $(head -n 1 "$scratch/errors")"
        return 1
    }
    exec 9<"$to/$1"
    flock -n 9 || {
        complain "$1: another pull is at work"
        return 1
    }
    fetch "$1" || code=$?
    case $code in
        0 | 24) ;; # 24: a file went away meanwhile, as drafts do
        23) complain "$1: not all of it could be read: $(first_error)" ;;
        *)
            explain_rsync "$1" "$code"
            return
            ;;
    esac
    take_all "$1" 2>"$scratch/errors" || {
        complain "$1: not all of it could be put in place: $(head -n 1 "$scratch/errors")"
        return 1
    }
    printf '%s: new or changed files: %d\n' "$1" "$taken"
    [ "$code" -eq 23 ] || rm -rf -- "$to/$1/.pull"
    if [ ${#kept[@]} -gt 0 ]; then
        [ ${#kept[@]} -le $MOST ] || and=", and $((${#kept[@]} - MOST)) more"
        complain "$1: kept as they are here, being no older than on $HOST: $(names "${kept[@]:0:MOST}")$and"
    fi
    [ "$code" -ne 23 ] || return 1
    [ ${#kept[@]} -eq 0 ] || return 4
}

names() {
    local list
    printf -v list '%q, ' "$@"
    printf '%s' "${list%, }"
}

first_error() {
    grep -v -E '^ *$|rsync error|rsync warning' "$scratch/errors" | head -n 1
}

# explain_rsync ROUND CODE: one line, and 1 or 5 as its own code. What had arrived waits in .pull/.
explain_rsync() {
    if grep -q 'No space left\|Disk quota exceeded' "$scratch/errors"; then
        complain "$1: the disk of $to is full: nothing was put in place. Make room, and pull again"
        return 1
    fi
    case $2 in
        10 | 12 | 30 | 35 | 255)
            complain "$1: nothing was put in place yet: $(explain_ssh "$scratch/errors")"
            return 5
            ;;
        *)
            complain "$1: nothing was put in place yet: rsync ended with $2: $(first_error)"
            return 1
            ;;
    esac
}

checkpoints=""
take_options "$@"
load_settings
[ ${#rounds[@]} -gt 0 ] || read -r -a rounds <<<"$ROUNDS"
[ -n "$checkpoints" ] || checkpoints=$CHECKPOINTS
folder=$REMOTE
[[ $folder != -* ]] || folder=./$folder
for needed in ssh rsync flock; do
    command -v "$needed" >/dev/null || fail "$needed is not installed"
done
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT

worst=0
look_there
choose_files
for round in ${begun[@]+"${begun[@]}"}; do
    if [ "$to" = "$repository/experiments" ] && [ -e "$repository/analysis/experiment_$round/experiments" ]; then
        printf '%s: archived here: not pulled\n' "$round"
        continue
    fi
    code=0
    pull "$round" || code=$?
    case $code in
        1 | 5) worst=1 ;;
        4) [ $worst -ne 0 ] || worst=4 ;;
    esac
    [ $code -ne 5 ] || break # the others would only wait for the same host
done
exit $worst
