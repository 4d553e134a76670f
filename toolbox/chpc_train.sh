#!/usr/bin/env bash
# Keeps the cluster busy and brings the results home: one crontab entry that pulls, plots and queues.
set -euo pipefail

# shellcheck source=toolbox/util.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/util.sh"
# shellcheck source=toolbox/crontab.sh
. "$repository/toolbox/crontab.sh"

# Seconds that a step may take, and a whole run; and the time between SIGTERM and SIGKILL.
PULL_LIMIT=3600
DRAW_LIMIT=1800
QUEUE_LIMIT=900
RUN_LIMIT=7200
GRACE=30

LOG_SIZE=1000000 # bytes; a larger log is rotated
OLD_LOGS=3
SHOWN=40    # lines of output of a failed step that are kept
NOT_RUN=72  # exit code of the program on the cluster if it did not call runner.py

logs=$repository/toolbox/logs
log=$logs/chpc_train.log

usage() {
    cat <<END_OF_USAGE
usage: toolbox/chpc_train.sh on [--every MIN] | off | status | now | cron | timer [--every MIN]

  on      add one entry to your crontab, which calls "chpc_train.sh cron" every 30 minutes, or every MIN. If there is
          one already, replace it
  off     remove this entry
  status  show whether it is on, how the last run ended, and when the next is due
  now     pull the records, draw plots and reports, and run runner.py for each round on the cluster
  cron    the same, but print to the log only
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
    since=$([ ! -f "$log" ] || grep -E '^[0-9TZ:-]+ (on|begin|end):' "$log" | tail -n 1)
    since=${since%% *}
    [ -n "$since" ] && (($(date +%s) - $(date -d "$since" +%s) > 2 * $1 * 60 + 60)) && echo "$since"
}

show_status() {
    local code=0 line="" last since why every=""
    if why=$(read_crontab "$scratch/old"); then
        line=$(own_entry <"$scratch/old")
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

# note MESSAGE: one line for the log, and for the terminal if there is one.
note() {
    local line
    line=$(log_line "$*")
    printf '%s\n' "$line" >>"$log" || error "cannot write to the log: $line"
    [ "$mode" != now ] || printf '%s\n' "$line"
}

# show_output: the output of the step, indented, if it is more than one line.
show_output() {
    local text
    text=$(cat "$scratch/output" "$scratch/errors" | tr -d '\000-\010\013-\037\177' | tail -n $SHOWN)
    [[ $text = *$'\n'* ]] || return 0
    text=${text//$'\n'/$'\n    '}
    printf '    %s\n' "$text" >>"$log" || true
    [ "$mode" != now ] || printf '    %s\n' "$text"
}

# last_line FILE: its last line that is not empty, without the name of the script in front of a message.
last_line() {
    LC_ALL=C tr -d '\000-\011\013-\037\177' <"$1" | grep '[^ ]' | tail -n 1 | sed 's/^[a-z_]*\.\(sh\|py\): //' || true
}

# last_message: the last line of the errors of the step; without any, of its output.
last_message() {
    local text
    text=$(last_line "$scratch/errors")
    printf '%s\n' "${text:-$(last_line "$scratch/output")}"
}

# joined FILE: its lines as one.
joined() {
    LC_ALL=C tr -d '\000-\010\013-\037\177' <"$1" | sed '$!s/$/;/' | tr '\n' ' ' | sed 's/ $//'
}

# run LIMIT COMMAND...: in a process group of its own, which is killed afterwards. Sets code, took and allowed.
# What a step leaves running on purpose, such as ssh's shared connection, has left the group and does not hold the lock.
run() {
    local began=$SECONDS
    allowed=$((deadline - SECONDS < $1 ? deadline - SECONDS : $1))
    shift
    code=124 took=0
    : >"$scratch/output"
    echo "not started: the run has reached its time limit of $RUN_LIMIT s" >"$scratch/errors"
    [ "$allowed" -gt 0 ] || return 0
    code=0
    timeout --kill-after="$GRACE" "$allowed" "$@" >"$scratch/output" 2>"$scratch/errors" </dev/null 8>&- &
    group=$!
    wait "$group" 2>/dev/null || code=$?
    kill -KILL -- "-$group" 2>/dev/null || true
    group=""
    took=$((SECONDS - began))
    [ "$code" -ne 137 ] || [ "$took" -lt "$allowed" ] || code=124 # it ignored SIGTERM
}

# ok STEP TEXT
ok() {
    note "$1: ok, $took s${2:+: $2}"
}

# attention STEP TEXT
attention() {
    bad=$((bad + 1))
    note "$1: needs attention, $took s: $2"
    show_output
}

# failed STEP [TEXT]: without a text, the error that the step printed.
failed() {
    local text=${2:-}
    bad=$((bad + 1))
    if [ -z "$text" ]; then
        text=$(last_message)
        case $code in
            124) [ "$allowed" -le 0 ] || text="stopped at its time limit of $allowed s" ;;
            2 | "$NOT_RUN") ;;
            *) text="exit code $code${text:+: $text}" ;;
        esac
    fi
    note "$1: failed, $took s: $text"
    [ -n "${2:-}" ] || show_output
}

pull() {
    local round options=()
    for round in "${rounds[@]}"; do
        options+=(--round "$round")
    done
    run $PULL_LIMIT "$repository/toolbox/rsync.sh" "${options[@]}"
    case $code in
        0) ok pull "$(joined "$scratch/output")" ;;
        4) attention pull "$(last_line "$scratch/errors")" ;;
        5)
            unreachable=yes
            failed pull "$(last_line "$scratch/errors")"
            ;;
        *) failed pull ;;
    esac
}

# draw STEP COMMAND...
draw() {
    run $DRAW_LIMIT "$python" "${@:2}"
    if [ "$code" -eq 0 ]; then ok "$1" "$(joined "$scratch/output")"; else failed "$1"; fi
}

# Plots and reports of the rounds that have local records.
draw_all() {
    local round begun=()
    for round in "${rounds[@]}"; do
        [ ! -d "$repository/experiments/$round" ] || begun+=("$round")
    done
    took=0
    if [ ${#begun[@]} -eq 0 ]; then
        ok plots "no local records yet"
    elif [ -z "$python" ]; then
        failed plots "there is no local interpreter: run make install, or set PYTHON before chpc_train.sh on"
    else
        draw plots "$repository/analysis/plot_experiments.py" --round "${begun[@]}"
        for round in "${begun[@]}"; do
            draw "report $round" "$repository/analysis/report.py" --round "$round"
        done
    fi
}

# The program that runs on the cluster, in a login shell, because /etc/profile often adds the scheduler's commands to
# PATH. Without a scheduler, runner.py would train on the login node. The time limit applies there too, because the end
# of the local ssh does not end the program.
# shellcheck disable=SC2016  # the remote shell expands it
ON_CLUSTER='say() { printf "%s\n" "$1" >&2; exit '$NOT_RUN'; }; '\
'cd -- "$1" || say "REMOTE cannot be entered on the cluster: $1"; '\
'command -v "$2" >/dev/null || say "PYTHON does not exist on the cluster: $2 in $1"; '\
'command -v sbatch >/dev/null || command -v qsub >/dev/null || '\
'say "no sbatch and no qsub in a login shell there: not called, because it would train on the login node"; '\
'timeout --kill-after="$4" "$3" "$2" runner.py --scheduler cluster --round "$5"'

# not_queued ROUND: reports that ssh ended with `code`, and the cluster did not report how runner.py ended.
not_queued() {
    local text
    if [ "$code" -eq 124 ] && { [ -n "$started" ] || [ "$allowed" -le 0 ]; }; then
        failed "queue $1"
        return
    fi
    if text=$("explain_$([ -n "$started" ] && echo end || echo start)" "$code" "$scratch/output" "$scratch/errors"); then
        unreachable=yes
    fi
    failed "queue $1" "$text"
}

# queue ROUND
queue() {
    local ssh started ended folder=$REMOTE limit=$QUEUE_LIMIT
    [[ $folder = /* ]] || folder=./$folder
    ((deadline - SECONDS > limit)) || limit=$((deadline - SECONDS))
    ssh_words
    run $((QUEUE_LIMIT + GRACE)) env SSH_ASKPASS_REQUIRE=never "${ssh[@]}" -- "$HOST" "$(remote_quoted sh -c \
        "$(in_login_shell "$(marked "$ON_CLUSTER")")" sh "$folder" "$PYTHON" "$limit" "$GRACE" "$1")"
    read_answer "$scratch/output" "$scratch/errors"
    if [ -z "$ended" ]; then
        not_queued "$1"
        return
    fi
    allowed=$limit
    case $code in
        0) ok "queue $1" "completed. $(last_line "$scratch/output")" ;;
        3) ok "queue $1" "work remains. $(last_line "$scratch/output")" ;;
        4) attention "queue $1" "experiments failed, are blocked or were cancelled. $(last_line "$scratch/output")" ;;
        5) failed "queue $1" "scheduler or disk failed there, nothing is lost: $(last_message)" ;;
        126 | 127) failed "queue $1" "PYTHON cannot be started on the cluster: exit code $code: $(last_message)" ;;
        *)
            if grep -q "^runner.py: round $1 was archived" "$scratch/errors"; then
                ok "queue $1" "archived on the cluster: remove it from ROUNDS"
            else
                failed "queue $1"
            fi
            ;;
    esac
}

# All steps. A failed step does not stop the others, but a host that cannot be reached is not tried again.
work() {
    local round skipped=()
    pull
    draw_all
    for round in "${rounds[@]}"; do
        if [ -n "$unreachable" ]; then skipped+=("$round"); else queue "$round"; fi
    done
    [ ${#skipped[@]} -eq 0 ] || note "queue ${skipped[*]}: skipped, the host cannot be reached"
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
    mode=$1 group="" bad=0 unreachable="" deadline=$((SECONDS + RUN_LIMIT)) took=0
    lock
    trap interrupted INT TERM HUP
    rotate_logs
    python=$(find_python 2>/dev/null && printf %s "$python") || python=""
    note "begin: $mode"
    if ! (load_settings) 2>"$scratch/errors"; then
        failed settings "$(last_line "$scratch/errors")"
        note "end: nothing was done"
        exit 2
    fi
    load_settings
    choose_rounds
    [ ${#rounds[@]} -eq 0 ] || work
    if [ $bad -eq 0 ]; then
        note "end: ok, $SECONDS s"
    else
        note "end: $bad failed or need attention, $SECONDS s"
        exit 1
    fi
}

# ---------------------------------------------------------------------------------------------- usage

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
        off | status | cron | now) [ $# -eq 0 ] || fail "$command takes no options; see chpc_train.sh --help" ;;
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
