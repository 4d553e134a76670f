#!/usr/bin/env bash
# Keeps the cluster busy and brings the results home: one crontab entry that pulls, queues and plots.
set -euo pipefail

# shellcheck source=toolbox/util.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/util.sh"
# shellcheck source=toolbox/crontab.sh
. "$repository/toolbox/crontab.sh"
# shellcheck source=toolbox/steps.sh
. "$repository/toolbox/steps.sh"

# Seconds that a step may take, and a whole run; and the time between SIGTERM and SIGKILL.
PULL_LIMIT=3600
DRAW_LIMIT=1800
QUEUE_LIMIT=900
RUN_LIMIT=7200
GRACE=30

LOG_SIZE=1000000 # bytes; a larger log is rotated
OLD_LOGS=3

logs=$repository/toolbox/logs
log=$logs/chpc_train.log

usage() {
    cat <<END_OF_USAGE
usage: toolbox/chpc_train.sh on [--every MIN] | off [--stale] | status | now | cron | timer [--every MIN]

  on      add one entry to your crontab, which calls "chpc_train.sh cron" every 30 minutes, or every MIN. If there is
          one already, replace it
  off     remove this entry. off --stale: keep it, and remove the entries of checkouts whose chpc_train.sh is gone
  status  show whether it is on, how the last run ended, when the next is due, and entries whose chpc_train.sh is gone
  now     pull the records, run runner.py for each round on the cluster, then draw plots and reports
  cron    the same, but print to the log. If the outcome differs from that of the last run, print one line, which cron
          sends by mail
  timer   print the units of a systemd user timer, for hosts without cron

Settings are in toolbox/cluster.env, the log is toolbox/logs/chpc_train.log, older logs are next to it. Time limits:
$PULL_LIMIT s for the pull, $DRAW_LIMIT s for the plots and for each report, $QUEUE_LIMIT s for queueing a round, and
$RUN_LIMIT s for a whole run.

exit codes:
  0    success. status: it is on, and the last run succeeded, or there was none yet
  1    now, cron: a step failed or needs attention
       status: it is on, but the last run did not succeed, or none began when it was due
       on, off: cron is not available, nothing was changed; or the entry is there, but no cron daemon runs
  2    usage or settings are wrong
  3    status: it is off. now: another run is in progress
  130  interrupted
END_OF_USAGE
}

# ---------------------------------------------------------------------------------------------- on and off

switch_on() {
    local line
    find_python
    (load_settings)
    need ssh rsync flock timeout
    line=$(entry "$every")
    mkdir -p -- "$logs"
    change_crontab "$line"
    log_line "on: every $(minutes "$every")" >>"$log"
    printf 'on: every %s, next at %s. The log is %s\n' "$(minutes "$every")" "$(next_run "$every")" "$log"
    cron_runs && return
    error "the entry is in the crontab, but no cron daemon seems to run on this host, so nothing will be called." \
        "Use a systemd user timer: chpc_train.sh timer"
    exit 1
}

switch_off() {
    local gone
    if [ -n "$stale" ]; then
        change_crontab --stale
        gone=$(stale_scripts <"$scratch/old")
        if [ -n "$gone" ]; then printf 'removed: %s\n' "${gone//$'\n'/$'\n'removed: }"; else echo "no stale entries"; fi
        return
    fi
    change_crontab
    [ ! -d "$logs" ] || log_line "off" >>"$log"
    if cmp -s "$scratch/old" "$scratch/new"; then echo "off: there was no entry"; else echo "off"; fi
}

# ---------------------------------------------------------------------------------------------- status

minutes() {
    if [ "$1" -eq 1 ]; then echo "minute"; else echo "$1 minutes"; fi
}

# next_run MIN: when cron will call next. It counts from midnight of the host's time zone.
next_run() {
    local now hour minute second
    now=$(date +%s)
    read -r hour minute second <<<"$(env -u TZ date -d "@$now" '+%H %M %S')"
    now=$((now + $1 * 60 - (10#$hour * 3600 + 10#$minute * 60 + 10#$second) % ($1 * 60)))
    date -u -d "@$now" +%Y-%m-%dT%H:%M:%SZ
}

# The lines of the last run, without the output of failed steps.
last_run() {
    [ -f "$log" ] || return 0
    awk '/^[0-9TZ:-]+ begin:/ { text = "" } /^[0-9TZ:-]+ (on|off|busy):?/ { next } /^[0-9]/ { text = text $0 "\n" }
         END { printf "%s", text }' "$log"
}

# Whether a run is in progress.
in_progress() {
    [ -f "$logs/chpc_train.lock" ] || return 1
    ! flock --nonblock "$logs/chpc_train.lock" true
}

# overdue MIN: whether nothing has happened for longer than two intervals and a minute; prints since when.
overdue() {
    local since
    since=$([ ! -f "$log" ] || grep -a -E '^[0-9TZ:-]+ (on|begin|end):' "$log" | tail -n 1)
    since=${since%% *}
    [ -n "$since" ] && (($(date +%s) - $(date -d "$since" +%s) > 2 * $1 * 60 + 60)) && echo "$since"
}

show_status() {
    local code=0 line="" last since why every="" gone=""
    if why=$(read_crontab "$scratch/old"); then
        line=$(own_entry <"$scratch/old")
        gone=$(stale_scripts <"$scratch/old")
    else
        why="cron is not available: $why"
    fi
    if [ -z "$line" ]; then
        echo "off${why:+: $why}"
        code=3
    else
        every=$(interval "$line")
        if [ -n "$every" ]; then
            echo "on: every $(minutes "$every"), next at $(next_run "$every")"
        else
            echo "on: the schedule was edited, see crontab -l"
        fi
    fi
    [ -z "$gone" ] || printf 'stale entries in the crontab, whose script is gone (chpc_train.sh off --stale removes them):\n  %s\n' \
        "${gone//$'\n'/$'\n'  }"
    last=$(last_run)
    if [ -n "$last" ]; then printf 'last run:\n  %s\n' "${last//$'\n'/$'\n'  }"; else echo "last run: none yet"; fi
    if in_progress; then
        echo "a run is in progress"
    elif [ -n "$every" ] && since=$(overdue "$every"); then
        echo "no run since $since: this host was down, or its cron daemon does not run"
        code=1
    elif [[ -n $last && $last != *" end: ok"* ]]; then
        [[ $last = *" end: "* ]] || echo "the last run did not finish: it was killed, or this host went down"
        [ $code -ne 0 ] || code=1
    fi
    echo "log: $log"
    exit $code
}

# ---------------------------------------------------------------------------------------------- a run

# All steps. A failed step does not stop the others, but a host that cannot be reached is not tried again.
work() {
    local round skipped=()
    pull
    for round in "${rounds[@]}"; do
        if [ -n "$unreachable" ]; then skipped+=("$round"); else queue "$round"; fi
    done
    [ ${#skipped[@]} -eq 0 ] || note "queue ${skipped[*]}: skipped, the host cannot be reached"
    draw_all # at the end, because it may take long
}

# Sets `rounds`, without those that are archived locally.
choose_rounds() {
    local round all
    read -r -a all <<<"$ROUNDS"
    rounds=()
    for round in "${all[@]}"; do
        if [ -e "$repository/analysis/experiment_$round/experiments" ]; then
            note "round $round: skipped, it is archived locally: remove it from ROUNDS"
        else
            rounds+=("$round")
        fi
    done
}

rotate_logs() {
    local number
    [ -f "$log" ] && [ "$(stat -c %s -- "$log")" -ge "$LOG_SIZE" ] || return 0
    for ((number = OLD_LOGS - 1; number > 0; number--)); do
        [ ! -f "$log.$number" ] || mv -f -- "$log.$number" "$log.$((number + 1))"
    done
    mv -f -- "$log" "$log.1"
}

interrupted() {
    trap '' INT TERM HUP
    if [ -n "$group" ]; then
        kill -TERM -- "-$group" "$group" 2>/dev/null || true
        for _ in {1..50}; do
            kill -0 -- "-$group" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL -- "-$group" 2>/dev/null || true
    fi
    note "end: interrupted, $SECONDS s"
    exit 130
}

# Takes the lock on fd 8, which no child inherits. Waits for a moment, because `status` takes it briefly.
lock() {
    need flock
    { mkdir -p -- "$logs" && : >>"$log"; } 2>/dev/null || fail "$logs cannot be written: fix its permissions"
    exec 8>>"$logs/chpc_train.lock"
    flock --timeout 1 8 && return
    note "busy: another run is in progress"
    [ "$mode" = now ] || exit 0
    exit 3
}

go() {
    mode=$1 group="" bad=0 code=0 outcome="" printed="" unreachable="" deadline=$((SECONDS + RUN_LIMIT)) took=0
    lock
    trap interrupted INT TERM HUP
    rotate_logs
    python=$(find_python 2>/dev/null && printf %s "$python") || python=""
    note "begin: $mode"
    if ! (load_settings) 2>"$scratch/errors"; then
        failed settings "$(last_line "$scratch/errors")"
        note "end: nothing was done"
        print_change
        exit 2
    fi
    load_settings
    choose_rounds
    [ ${#rounds[@]} -eq 0 ] || work
    print_change
    if [ $bad -eq 0 ]; then
        note "end: ok, $SECONDS s"
    else
        note "end: $bad failed or need attention, $SECONDS s"
        exit 1
    fi
}

# ---------------------------------------------------------------------------------------------- usage

# take_stale WORD...: sets `stale` from [--stale].
take_stale() {
    stale=${1:-}
    [[ $# -eq 0 || $* = --stale ]] || fail "off has one option, --stale; see chpc_train.sh --help"
}

# take_interval WORD...: sets `every` from [--every MIN].
take_interval() {
    every=30
    [ $# -gt 0 ] || return 0
    [[ $1 = --every && $# -eq 2 ]] || fail "on and timer have one option, --every MIN; see chpc_train.sh --help"
    [[ $2 =~ ^[0-9]+$ && " $INTERVALS " = *" $2 "* ]] || fail "--every must be one of ${INTERVALS// /, } (got $2)"
    every=$2
}

main() {
    local command=${1:-}
    [ $# -eq 0 ] || shift
    case $command in
        -h | --help)
            usage
            exit 0
            ;;
        on | timer) take_interval "$@" ;;
        off) take_stale "$@" ;;
        status | cron | now) [ $# -eq 0 ] || fail "$command takes no options; see chpc_train.sh --help" ;;
        "")
            usage >&2
            exit 2
            ;;
        *) fail "unknown command $command; see chpc_train.sh --help" ;;
    esac
    scratch=$(mktemp -d)
    trap 'rm -rf -- "$scratch"' EXIT
    case $command in
        on) switch_on ;;
        off) switch_off ;;
        status) show_status ;;
        timer) print_timer ;;
        *) go "$command" ;;
    esac
}

[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"
