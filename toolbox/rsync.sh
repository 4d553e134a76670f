#!/usr/bin/env bash
# Pulls the records of rounds from the cluster: only what is new there, and no file that is newer here is replaced.
set -euo pipefail

# shellcheck source=toolbox/util.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/util.sh"

usage() {
    cat <<'END_OF_USAGE'
usage: toolbox/rsync.sh [--round NAME]... [--checkpoints none|best|all] [--to DIR]

Pulls HOST:REMOTE/experiments/ROUND/ into the local experiments/ROUND/. Settings are in toolbox/cluster.env.

  --round NAME        this round instead of those of cluster.env; may be given more than once
  --checkpoints WHAT  none: no weights; best: best.pth of each experiment; all: checkpoints too. Default: see
                      cluster.env
  --to DIR            DIR/ROUND/ instead of experiments/ROUND/

No local file is ever deleted. Files arrive in experiments/ROUND/.pull/ and are moved into place when they are complete,
the end of an experiment after its results. The next pull continues an interrupted one. A local file that is newer, or
differs and is as old, is kept and named; to replace it, move it away and pull again. Rounds that are archived locally
are skipped.

exit codes:
  0  pulled
  1  part of it could not be pulled: call again
  2  usage or settings are wrong
  4  pulled, but local files that are newer were kept
  5  the host could not be reached or queried: nothing was changed
END_OF_USAGE
}

SHOWN=5 # names in one message

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
                is_round "$2" || fail "--round must consist of letters, digits, - and _ (got $2)"
                rounds+=("$2")
                ;;
            --checkpoints)
                [[ $2 = none || $2 = best || $2 = all ]] || fail "--checkpoints must be none, best or all (got $2)"
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

# Sets `begun` to the rounds that have records on the host, and `shell` to the shell that ssh calls there. Exits if the
# host cannot be queried.
query_host() {
    local code=0 started ended name program
    # shellcheck disable=SC2016
    program='echo "shell ${SHELL:-}"; CDPATH="" cd -- "$1" || exit 3; shift; command -v rsync >/dev/null || exit 4; '
    # shellcheck disable=SC2016
    program+='rsync --version >/dev/null || exit; [ -f runner.py ] || exit 5; '
    # shellcheck disable=SC2016
    program+='for name do if [ -d "experiments/$name" ]; then echo "begun $name"; '
    # shellcheck disable=SC2016
    program+='elif [ -e "analysis/experiment_$name/experiments" ]; then echo "archived $name"; '
    # shellcheck disable=SC2016
    program+='elif [ -f "rounds/$name.yaml" ]; then echo "empty $name"; else echo "unknown $name"; fi; done'
    remote sh -c "$(marked "$program")" sh "$folder" "${rounds[@]}" >"$scratch/begun" 2>"$scratch/errors" || code=$?
    read_answer "$scratch/begun" "$scratch/errors"
    if [ -z "$started" ]; then
        error "$(explain_start $code "$scratch/begun" "$scratch/errors")"
        exit 5
    elif [ -z "$ended" ]; then
        error "$(explain_end $code "$scratch/begun" "$scratch/errors")"
        exit 5
    fi
    case $code in
        0) ;;
        3) fail "$HOST has no accessible directory $folder: see REMOTE in $settings_file" ;;
        5) fail "$folder on $HOST is no checkout of Roundhouse, it has no runner.py: see REMOTE in $settings_file" ;;
        4) fail "$HOST has no rsync: install it there, or load its module in the startup file of the shell there" ;;
        126) fail "rsync on $HOST cannot start: exit code 126, it is not executable there: $(first_error "$scratch/begun")" ;;
        127) fail "rsync on $HOST cannot start: exit code 127, a program or library is missing there: $(first_error "$scratch/begun")" ;;
        *) fail "rsync on $HOST cannot start: exit code $code: $(first_error "$scratch/begun")" ;;
    esac
    shell=$(_plain "$scratch/begun" | sed -n '1s/^shell //p')
    begun=()
    for name in "${rounds[@]}"; do
        case $(grep -E -x "(begun|archived|empty|unknown) $name" "$scratch/begun") in
            begun*) begun+=("$name") ;;
            archived*) printf '%s: skipped, archived on %s: its records are in %s there\n' \
                "$name" "$HOST" "analysis/experiment_$name/experiments" ;;
            empty*) printf '%s: no records on %s yet\n' "$name" "$HOST" ;;
            unknown*)
                error "$name: no such round on $HOST: there are neither records nor rounds/$name.yaml"
                worst=1
                ;;
            *)
                error "$name: not pulled: $HOST did not report whether it has records"
                worst=1
                ;;
        esac
    done
}

# Sets `filters` to rsync's options for which files to pull.
choose_files() {
    filters=(--exclude=/.pull/ --exclude=/.code/ --exclude=.rsync-partial/ --exclude=.files.draft/ "--include=*/")
    filters+=("--exclude=.draft-*" "--exclude=.*.lock")
    case $checkpoints in
        none) filters+=("--exclude=*.pth" "--exclude=checkpoint*.pth*") ;;
        best) filters+=(--include=best.pth "--exclude=*.pth" "--exclude=checkpoint*.pth*") ;;
    esac
}

# fetch ROUND: pulls the files that differ from the local ones into .pull/. Returns rsync's exit code.
fetch() {
    local ssh word shell="" twice="''"
    ssh_words
    for word in "${ssh[@]}"; do # rsync splits its -e itself, and supports quotes, but no backslashes
        shell+=" '${word//\'/$twice}'"
    done
    # Times are compared to the nanosecond: a file may be replaced by one of equal size within a second.
    SSH_ASKPASS_REQUIRE=never rsync -e "${shell# }" --recursive --links --safe-links --times --omit-dir-times \
        --modify-window=-1 --protect-args --timeout=120 --partial-dir=.rsync-partial "${filters[@]}" \
        --compare-dest="$to/$1/" -- "$HOST:$folder/experiments/$1/" "$to/$1/.pull/" \
        </dev/null >"$scratch/output" 2>"$scratch/errors"
}

# same FILE OTHER: whether they have the same content, as files or as links.
same() {
    if [ -L "$1" ] || [ -L "$2" ]; then
        [ -L "$1" ] && [ -L "$2" ] && [ "$(readlink -- "$1")" = "$(readlink -- "$2")" ]
    else
        cmp -s -- "$1" "$2"
    fi
}

# newer FILE OTHER: whether FILE is newer. Either may be a link.
newer() {
    if [ -L "$1" ] || [ -L "$2" ]; then
        [ -n "$(find "$1" -prune -newer "$2")" ]
    else
        [ "$1" -nt "$2" ]
    fi
}

# place ROUND FIND_OPTION...: moves the files in .pull/ that find selects into place.
place() {
    local from=$to/$1/.pull round=$1 file name target
    shift
    while IFS= read -r -d '' file; do
        name=${file#"$from"/}
        target=$to/$round/$name
        if { [ -d "$target" ] && [ ! -L "$target" ]; } || {
            { [ -e "$target" ] || [ -L "$target" ]; } && ! newer "$file" "$target" && ! same "$file" "$target"
        }; then
            kept+=("$name")
            rm -f -- "$file"
        else
            [ -d "${target%/*}" ] || mkdir -p -- "${target%/*}" || return
            mv -f -- "$file" "$target" || return
            placed=$((placed + 1))
        fi
    done < <(find "$from" -name .rsync-partial -prune -o ! -type d "$@" -print0)
}

# place_all ROUND: data first, then the files that say that there is data, and the view last.
place_all() {
    place "$1" ! -name history.json ! -name result.json ! -name status.json &&
        place "$1" \( -name history.json -o -name result.json \) &&
        place "$1" -name status.json
}

# pull ROUND: returns 0, 1 or 4 as in the exit codes, 5 if the connection is lost.
pull() {
    local code=0 placed=0 kept=() and=""
    mkdir -p -- "$to/$1/.pull" 2>"$scratch/errors" || {
        error "$1: $(head -n 1 "$scratch/errors")"
        return 1
    }
    exec 9<"$to/$1"
    flock -n 9 || {
        error "$1: another pull is in progress"
        return 1
    }
    fetch "$1" || code=$?
    case $code in
        0 | 24) ;; # 24: a file was removed meanwhile, as drafts are
        23) error "$1: not all files could be read: $(first_error)" ;;
        *)
            explain_rsync "$1" "$code"
            return
            ;;
    esac
    place_all "$1" 2>"$scratch/errors" || {
        error "$1: not all files could be moved into place: $(head -n 1 "$scratch/errors")"
        return 1
    }
    printf '%s: new or changed files: %d\n' "$1" "$placed"
    [ "$code" -eq 23 ] || rm -rf -- "$to/$1/.pull"
    if [ ${#kept[@]} -gt 0 ]; then
        [ ${#kept[@]} -le $SHOWN ] || and=", and $((${#kept[@]} - SHOWN)) more"
        error "$1: local files kept, which differ and are not older than on $HOST: $(names "${kept[@]:0:SHOWN}")$and"
    fi
    [ "$code" -ne 23 ] || return 1
    [ ${#kept[@]} -eq 0 ] || return 4
}

names() {
    local list
    printf -v list '%q, ' "$@"
    printf '%s' "${list%, }"
}

# first_error [OUTPUT]: the first line of the errors that says something; without any, of OUTPUT.
first_error() {
    grep -h -v -E '^ *$|^shell |rsync error|rsync warning' "$scratch/errors" "$@" | head -n 1
}

# The file on the host that its shell reads before a command.
startup_file() {
    case ${shell##*/} in
        bash) echo "the file ~/.bashrc" ;;
        zsh) echo "the file ~/.zshenv" ;;
        tcsh) echo "the file ~/.tcshrc or ~/.cshrc" ;;
        csh) echo "the file ~/.cshrc" ;;
        fish) echo "the file ~/.config/fish/config.fish" ;;
        *) echo "the startup file of its shell, such as ~/.bashrc," ;;
    esac
}

# explain_rsync ROUND CODE: prints one line and returns 1 or 5. What arrived stays in .pull/ for the next pull.
explain_rsync() {
    local printed why code=1
    printed=$(_plain "$scratch/begun.before" | grep '[^ ]' | tail -n 1) || printed="an empty line, or not every time"
    if grep -q 'No space left\|Disk quota exceeded' "$scratch/errors"; then
        error "$1: the disk of $to is full, no file was changed: free some space and pull again"
        return 1
    elif grep -q 'is your shell clean\|protocol version mismatch' "$scratch/errors"; then
        why="the login shell on $HOST prints text before a command ($printed), which rsync cannot read: change"
        why+=" $(startup_file) there so that only interactive shells print"
    else
        case $2 in
            10 | 12 | 30 | 35 | 255) why=$(explain_ssh "$scratch/errors") && code=5 ;;
        esac
        [ $code -eq 5 ] || why="rsync failed with exit code $2: $(first_error)"
    fi
    error "$1: no file was changed yet: $why"
    return $code
}

checkpoints=""
take_options "$@"
load_settings
[ ${#rounds[@]} -gt 0 ] || read -r -a rounds <<<"$ROUNDS"
[ -n "$checkpoints" ] || checkpoints=$CHECKPOINTS
folder=$REMOTE
[[ $folder != -* ]] || folder=./$folder
need ssh rsync flock timeout
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT

worst=0
query_host
choose_files
for round in ${begun[@]+"${begun[@]}"}; do
    if [ "$to" = "$repository/experiments" ] && [ -e "$repository/analysis/experiment_$round/experiments" ]; then
        printf '%s: skipped, archived locally\n' "$round"
        continue
    fi
    code=0
    pull "$round" || code=$?
    case $code in
        1 | 5) worst=1 ;;
        4) [ $worst -ne 0 ] || worst=4 ;;
    esac
    [ $code -ne 5 ] || break # the same host would fail for the other rounds too
done
exit $worst
