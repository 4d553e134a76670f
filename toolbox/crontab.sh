# shellcheck shell=bash disable=SC2154  # `repository` is set by util.sh, `scratch` by the script that sources this
# The crontab entry that calls chpc_train.sh at intervals, or a systemd timer that does. To be sourced after util.sh.

# Minutes that cron can use as equal intervals.
INTERVALS="1 2 3 4 5 6 10 12 15 20 30 60 120 180 240 360 480 720"
ENTRY_LENGTH=990 # bytes of an entry; cron cuts off longer ones

script=$(cd -- "$repository" && pwd -P)/toolbox/chpc_train.sh

# ---------------------------------------------------------------------------------------------- the entry

# tag SCRIPT: the comment at the end of the entry that calls this script, which identifies it.
tag() {
    local hash
    hash=$(printf %s "$1" | sha256sum)
    printf '# roundhouse %s' "${hash:0:16}"
}

# schedule MIN: the five fields of an entry.
schedule() {
    if (($1 < 60)); then echo "*/$1 * * * *"; else echo "0 */$(($1 / 60)) * * *"; fi
}

# interval LINE: the minutes of an entry; nothing if its fields were edited to a schedule that is not an interval.
interval() {
    local every
    for every in $INTERVALS; do
        [[ $1 != "$(schedule "$every") "* ]] || echo "$every"
    done
}

# Sets `words` to the command to call, with its environment: cron and systemd set almost none.
command_words() {
    local word path=":" parts
    IFS=: read -r -a parts <<<"$PATH"
    for word in "${parts[@]}"; do
        [[ $word != /* || $path = *":$word:"* || ! -d $word ]] || path+=$word:
    done
    path=${path#:}
    words=(/usr/bin/env "PATH=${path%:}")
    for word in SSH_AUTH_SOCK ROUNDHOUSE_CLUSTER_ENV PYTHON; do
        [ -z "${!word:-}" ] || words+=("$word=$(absolute "${!word}")")
    done
    words+=("$script" cron)
    for word in "${words[@]}"; do
        [[ $word != *[\\[:cntrl:]]* ]] || fail "cron cannot call a path with a backslash or control character: $word"
    done
}

# absolute PATH: relative to the current folder, unless it is a name that is looked up in PATH.
absolute() {
    if [[ $1 = */* && $1 != /* ]]; then printf '%s/%s' "$PWD" "$1"; else printf %s "$1"; fi
}

# entry MIN: the line for the crontab. There, a % ends the command unless \ stands before it.
entry() {
    local LC_ALL=C word words quote="'\"'\"'" line=""
    command_words
    for word in "${words[@]}"; do
        line+="'${word//\'/$quote}' "
    done
    line=${line//%/\\%}$(tag "$script")
    ((${#line} <= ENTRY_LENGTH)) || fail "the entry would be too long for cron: shorten PATH and call this again"
    printf '%s %s\n' "$(schedule "$1")" "$line"
}

# filter_crontab PROGRAM [LINE]: the crontab on stdin through awk, which knows `new`, the LINE, and whether a line is
# this checkout's own(). An entry that was commented out is not.
filter_crontab() {
    NEW="${2:-}" TAG=" $(tag "$script")" LC_ALL=C awk '
        BEGIN { new = ENVIRON["NEW"]; tag = ENVIRON["TAG"] }
        function own() { return substr($0, length($0) - length(tag) + 1) == tag && $0 !~ /^[ \t\v\f\r]*#/ }
        '"$1"
}

# own_entry: this checkout's entry in the crontab on stdin, if there is one.
own_entry() {
    filter_crontab 'own() && !found++'
}

# stale_script LINE: the script that an entry of any checkout calls, if it does not exist.
stale_script() {
    local LC_ALL=C called=${1#"${1%%[![:space:]]*}"} quote="'\"'\"'"
    [[ $called = [!#]*"' 'cron' # roundhouse "* ]] || return 0
    called=${called%"' 'cron' # roundhouse "*}
    called=${called//"$quote"/$'\n'}
    called=${called##*\'}
    called=${called//$'\n'/\'}
    called=${called//\\%/%}
    # The hash shows that this is the whole path, and that the line is an entry of this tool.
    [[ $1 != *" $(tag "$called")" || -e $called ]] || printf '%s\n' "$called"
}

# stale_scripts: the scripts of all such entries in the crontab on stdin.
stale_scripts() {
    local line
    while IFS= read -r line || [ -n "$line" ]; do
        stale_script "$line"
    done
}

# without_stale: the crontab on stdin without such entries.
without_stale() {
    local LC_ALL=C line
    while IFS= read -r line || [ -n "$line" ]; do
        [ -n "$(stale_script "$line")" ] || printf '%s\n' "$line"
    done
}

# edited [LINE]: the crontab on stdin with LINE in place of this checkout's entry, or else at the end; without LINE,
# without an entry. All other lines stay as they are; the last one gets a newline if it has none, as cron requires.
edited() {
    filter_crontab '
        !own() { print; next }
        new != "" { print new; new = "" }
        END { if (new != "") print new }' "$@"
}

# ---------------------------------------------------------------------------------------------- the crontab

# read_crontab FILE: writes the crontab into FILE; no crontab is an empty one. If it cannot be read, prints why and
# returns 1.
read_crontab() {
    if ! command -v crontab >/dev/null; then
        echo "the command crontab does not exist"
    elif LC_ALL=C crontab -l >"$1" 2>"$scratch/errors"; then
        return
    elif grep -qi 'no crontab for' "$scratch/errors"; then
        : >"$1"
        return
    else
        echo "crontab: $(head -n 1 "$scratch/errors")"
    fi
    return 1
}

# change_crontab [LINE | --stale]: installs what `edited` prints, or `without_stale`, if that is a change, and verifies
# it. $scratch/old and $scratch/new are the crontab before and after. Exits with 1 where cron is not available.
change_crontab() {
    local why
    exec 7<"${HOME:-/}"
    flock --timeout 10 7 || true # for other checkouts; where there are no locks, it is verified below
    why=$(read_crontab "$scratch/old") || no_cron "$why"
    if [ "${1:-}" = --stale ]; then without_stale; else edited "$@"; fi <"$scratch/old" >"$scratch/new"
    cmp -s "$scratch/old" "$scratch/new" && return
    if [ -s "$scratch/new" ]; then set -- "$scratch/new"; else set -- -r; fi
    crontab "$@" 2>"$scratch/errors" || no_cron "crontab: $(head -n 1 "$scratch/errors")"
    why=$(read_crontab "$scratch/now") || no_cron "$why"
    cmp -s "$scratch/new" "$scratch/now" || no_cron "the crontab differs from what was installed: see crontab -l"
}

no_cron() {
    error "cron is not available: $1. Use a systemd user timer (chpc_train.sh timer prints it), or, on the login node" \
        "of the cluster in tmux: python runner.py --round NAME --watch 1800"
    exit 1
}

# Whether a cron daemon runs; systemd knows it where processes of other users are hidden.
cron_runs() {
    grep -q -x -s -E 'cron|crond|fcron' /proc/[0-9]*/comm ||
        systemctl is-active --quiet cron crond cronie fcron 2>/dev/null
}

# ---------------------------------------------------------------------------------------------- a timer

print_timer() {
    local word words line="" times="*:0/$every"
    command_words
    for word in "${words[@]}"; do # systemd expands % everywhere, and $ in arguments
        word=${word//\"/\\\"} word=${word//%/%%}
        line+=" \"${word//\$/\$\$}\""
    done
    ((every < 60)) || times="0/$((every / 60)):00"
    cat <<END_OF_UNITS
# Write these two files to ~/.config/systemd/user/.
# To start: systemctl --user daemon-reload && systemctl --user enable --now roundhouse.timer
# To let it run while you are logged out: loginctl enable-linger
# To stop: systemctl --user disable --now roundhouse.timer

# ~/.config/systemd/user/roundhouse.service
[Unit]
Description=Roundhouse: pull, queue and plot

[Service]
Type=oneshot
ExecStart=${line# }

# ~/.config/systemd/user/roundhouse.timer
[Unit]
Description=Roundhouse: pull, queue and plot

[Timer]
OnCalendar=$times

[Install]
WantedBy=timers.target
END_OF_UNITS
}
