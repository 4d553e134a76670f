#!/usr/bin/env bash
# Keeps the cluster busy and the results at home: one entry in the crontab, which pulls, plots and queues.
set -euo pipefail

# shellcheck source=toolbox/util.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/util.sh"
# shellcheck source=toolbox/crontab.sh
. "$repository/toolbox/crontab.sh"

# Seconds that a step may last, and all of them together; and from being asked to end until being killed.
PULL_LIMIT=3600
DRAW_LIMIT=1800
QUEUE_LIMIT=900
RUN_LIMIT=7200
GRACE=30

LOG_SIZE=1000000 # bytes, from which on a log is put aside
OLD_LOGS=3
SHOWN=40         # lines of what a failing step said
OF_OURS=72       # exit code of what we run there, where runner.py was not reached

logs=$repository/toolbox/logs
log=$logs/chpc_train.log

usage() {
    cat <<END_OF_USAGE
usage: toolbox/chpc_train.sh on [--every MIN] | off | status | now | cron | timer [--every MIN]

  on      put one entry into your crontab, which calls "chpc_train.sh cron" every 30 minutes, or every MIN. Twice is the
          same as once, but for another MIN
  off     take exactly this entry out
  status  whether it is on, how the last run ended, when the next is due
  now     pull the records, draw plots and reports of them, queue what is to run on the cluster
  cron    the same, but all that is said goes to the log only
  timer   print the units of a systemd user timer, for where there is no cron

Settings are in toolbox/cluster.env. The log is toolbox/logs/chpc_train.log, older ones are beside it. What lasts
too long is ended: the pull after $PULL_LIMIT s, plots and each report after $DRAW_LIMIT s, queueing a round
after $QUEUE_LIMIT s, and all of it after $RUN_LIMIT s.

exit codes:
  0    done. status: it is on, and the last run went well, or there was none yet
  1    now, cron: a step failed, or wants to be looked at
       status: it is on, but so was the last run; or none came when it was due
       on, off: cron is refused, nothing was changed; or the entry is in place, but no cron runs here
  2    usage or settings are wrong
  3    status: it is off. now: another run is at work
  130  interrupted
END_OF_USAGE
}

# ---------------------------------------------------------------------------------------------- on and off

switch_on() {
    local line
    find_python
    (load_settings)
    for line in ssh rsync flock timeout; do
        command -v "$line" >/dev/null || fail "$line is not installed"
    done
    line=$(entry "$every")
    mkdir -p -- "$logs"
    change_crontab "$line"
    tell "on: every $(minutes "$every")" >>"$log"
    printf 'on: every %s, next at %s. The log is %s\n' "$(minutes "$every")" "$(next_run "$every")" "$log"
    cron_runs && return
    complain "the entry is in place, but no cron is seen to run on this machine, so nothing will be called." \
        "Instead of it there is: chpc_train.sh timer"
    exit 1
}

switch_off() {
    change_crontab
    [ ! -d "$logs" ] || tell "off" >>"$log"
    cmp -s "$scratch/old" "$scratch/new" && echo "off: there was no entry" || echo "off"
}

# ---------------------------------------------------------------------------------------------- status

minutes() {
    if [ "$1" -eq 1 ]; then echo "minute"; else echo "$1 minutes"; fi
}

# next_run MIN: when cron will call next. It counts from midnight of this machine's time zone.
next_run() {
    local now hour minute second
    now=$(date +%s)
    read -r hour minute second <<<"$(env -u TZ date -d "@$now" '+%H %M %S')"
    now=$((now + $1 * 60 - (10#$hour * 3600 + 10#$minute * 60 + 10#$second) % ($1 * 60)))
    date -u -d "@$now" +%Y-%m-%dT%H:%M:%SZ
}

# The lines of the last run, without what failing steps said.
last_run() {
    [ -f "$log" ] || return 0
    awk '/^[0-9TZ:-]+ begin:/ { text = "" } /^[0-9TZ:-]+ (on|off|busy):?/ { next } /^[0-9]/ { text = text $0 "\n" }
         END { printf "%s", text }' "$log"
}

# Whether a run is at work.
at_work() {
    [ -f "$logs/chpc_train.lock" ] || return 1
    ! flock --nonblock "$logs/chpc_train.lock" true
}

# overdue MIN: whether nothing has happened for longer than two intervals and a run; then says since when.
overdue() {
    local since
    since=$([ ! -f "$log" ] || grep -E '^[0-9TZ:-]+ (on|begin|end):' "$log" | tail -n 1)
    since=${since%% *}
    [ -n "$since" ] && (($(date +%s) - $(date -d "$since" +%s) > 2 * $1 * 60 + 60)) && echo "$since"
}

show_status() {
    local code=0 line="" last since why every=""
    if why=$(read_crontab "$scratch/old"); then
        line=$(entry_in "$scratch/old")
    else
        why="cron is refused on this machine: $why"
    fi
    if [ -z "$line" ]; then
        echo "off${why:+: $why}"
        code=3
    else
        every=$(interval "$line")
        if [ -n "$every" ]; then
            echo "on: every $(minutes "$every"), next at $(next_run "$every")"
        else
            echo "on: at other times than chpc_train.sh on would set, see crontab -l"
        fi
    fi
    last=$(last_run)
    if [ -n "$last" ]; then printf 'last run:\n  %s\n' "${last//$'\n'/$'\n'  }"; else echo "last run: none yet"; fi
    if at_work; then
        echo "a run is at work"
    elif [ -n "$every" ] && since=$(overdue "$every"); then
        echo "none since $since: was this machine off, or does no cron run here?"
        code=1
    elif [[ -n $last && $last != *" end: fine"* ]]; then
        [[ $last = *" end: "* ]] || echo "it did not come to its end: killed, or this machine went down"
        [ $code -ne 0 ] || code=1
    fi
    echo "log: $log"
    exit $code
}

# ---------------------------------------------------------------------------------------------- a run

# note MESSAGE: one line for the log; for the person too, if there is one.
note() {
    local line
    line=$(tell "$*")
    printf '%s\n' "$line" >>"$log" || complain "cannot be logged: $line"
    [ "$mode" != now ] || printf '%s\n' "$line"
}

# show: what the step said, indented, where one line does not say it all.
show() {
    local text
    text=$(cat "$scratch/output" "$scratch/errors" | tr -d '\000-\010\013-\037\177' | tail -n $SHOWN)
    [[ $text = *$'\n'* ]] || return 0
    text=${text//$'\n'/$'\n    '}
    printf '    %s\n' "$text" >>"$log" || true
    [ "$mode" != now ] || printf '    %s\n' "$text"
}

# words_of FILE: its last line that is not empty, without the name of the script that said it.
words_of() {
    LC_ALL=C tr -d '\000-\011\013-\037\177' <"$1" | grep '[^ ]' | tail -n 1 | sed 's/^[a-z_]*\.\(sh\|py\): //' || true
}

# lines_of FILE: its lines, joined.
lines_of() {
    LC_ALL=C tr -d '\000-\010\013-\037\177' <"$1" | sed '$!s/$/;/' | tr '\n' ' ' | sed 's/ $//'
}

# run LIMIT COMMAND...: in a process group of its own, of which nothing is left afterwards. Sets code, took and allowed.
# What a step leaves behind on purpose, such as ssh's shared connection, has left the group and does not hold the lock.
run() {
    local began=$SECONDS
    allowed=$((deadline - SECONDS < $1 ? deadline - SECONDS : $1))
    shift
    code=124 took=0
    : >"$scratch/output"
    echo "there was no time left for it" >"$scratch/errors"
    [ "$allowed" -gt 0 ] || return 0
    code=0
    timeout --kill-after="$GRACE" "$allowed" "$@" >"$scratch/output" 2>"$scratch/errors" </dev/null 8>&- &
    group=$!
    wait "$group" 2>/dev/null || code=$?
    kill -KILL -- "-$group" 2>/dev/null || true
    group=""
    took=$((SECONDS - began))
}

# done_well STEP WORDS
done_well() {
    note "$1: ok, $took s${2:+: $2}"
}

# wants_a_look STEP WORDS
wants_a_look() {
    bad=$((bad + 1))
    note "$1: look, $took s: $2"
    show
}

# failed STEP [WORDS]: the words are those of the step if there are none.
failed() {
    local words=${2:-}
    bad=$((bad + 1))
    if [ -z "$words" ]; then
        words=$(words_of "$scratch/errors")
        case $code in
            124) [ "$allowed" -le 0 ] || words="ended, for it lasted too long" ;;
            2 | "$OF_OURS") ;;
            *) words="ended with $code${words:+: $words}" ;;
        esac
    fi
    note "$1: failed, $took s: $words"
    [ -n "${2:-}" ] || show
}

pull() {
    local round options=()
    for round in "${rounds[@]}"; do
        options+=(--round "$round")
    done
    run $PULL_LIMIT "$repository/toolbox/rsync.sh" "${options[@]}"
    case $code in
        0) done_well pull "$(lines_of "$scratch/output")" ;;
        4) wants_a_look pull "$(words_of "$scratch/errors")" ;;
        5)
            away=yes
            failed pull "$(words_of "$scratch/errors")"
            ;;
        *) failed pull ;;
    esac
}

# Plots and reports of the rounds that have records here.
draw() {
    local round here=()
    for round in "${rounds[@]}"; do
        [ ! -d "$repository/experiments/$round" ] || here+=("$round")
    done
    took=0
    if [ ${#here[@]} -eq 0 ]; then
        done_well plots "no records here yet"
        return
    fi
    if [ -z "$python" ]; then
        failed plots "there is no interpreter here: run make install, or set PYTHON before chpc_train.sh on"
        return
    fi
    run $DRAW_LIMIT "$python" "$repository/analysis/plot_experiments.py" --round "${here[@]}"
    if [ "$code" -eq 0 ]; then done_well plots "$(lines_of "$scratch/output")"; else failed plots; fi
    for round in "${here[@]}"; do
        run $DRAW_LIMIT "$python" "$repository/analysis/report.py" --round "$round"
        if [ "$code" -eq 0 ]; then done_well "report $round" ""; else failed "report $round"; fi
    done
}

# What runs on the cluster, in a login shell: schedulers often come with /etc/profile. Without one, runner.py would
# train right there, on the login node. Its limit holds there too, for ssh's end here is not the end of what it began.
# shellcheck disable=SC2016  # the shell there is to expand it
THERE='say() { printf "%s\n" "$1" >&2; exit '$OF_OURS'; }; '\
'cd -- "$1" || say "REMOTE cannot be entered on the cluster: $1"; '\
'command -v "$2" >/dev/null || say "PYTHON is not there on the cluster: $2 in $1"; '\
'command -v sbatch >/dev/null || command -v qsub >/dev/null || '\
'say "no sbatch and no qsub in a login shell there: nothing was called, for it would train on that machine itself"; '\
'timeout --kill-after="$4" "$3" "$2" runner.py --scheduler cluster --round "$5"; exit $?' # a signal is a code so, and no end of ssh's

# queue ROUND
queue() {
    local ssh folder=$REMOTE limit=$QUEUE_LIMIT
    [[ $folder = /* ]] || folder=./$folder
    ((deadline - SECONDS > limit)) || limit=$((deadline - SECONDS))
    ssh_words
    run $((QUEUE_LIMIT + GRACE)) env SSH_ASKPASS_REQUIRE=never "${ssh[@]}" -- "$HOST" \
        "$(remote_quoted bash -l -c "$THERE" bash "$folder" "$PYTHON" "$limit" "$GRACE" "$1")"
    case $code in
        0) done_well "queue $1" "completed. $(words_of "$scratch/output")" ;;
        3) done_well "queue $1" "work remains. $(words_of "$scratch/output")" ;;
        4) wants_a_look "queue $1" "something failed, is blocked or was cancelled. $(words_of "$scratch/output")" ;;
        5) failed "queue $1" "scheduler or disk failed there, nothing is lost: $(words_of "$scratch/errors")" ;;
        255)
            away=yes
            failed "queue $1" "$(explain_ssh "$scratch/errors")"
            ;;
        *)
            if grep -q "^runner.py: round $1 was archived" "$scratch/errors"; then
                done_well "queue $1" "archived on the cluster: take it out of ROUNDS"
            else
                failed "queue $1"
            fi
            ;;
    esac
}

# All steps. None stops the others, but a host that cannot be reached is not asked again.
work() {
    local round left=()
    pull
    draw
    for round in "${rounds[@]}"; do
        if [ -n "$away" ]; then left+=("$round"); else queue "$round"; fi
    done
    [ ${#left[@]} -eq 0 ] || note "queue ${left[*]}: not tried"
}

# Sets `rounds`, without those that were archived here, which do not go on.
choose_rounds() {
    local round all
    read -r -a all <<<"$ROUNDS"
    rounds=()
    for round in "${all[@]}"; do
        if [ -e "$repository/analysis/experiment_$round/experiments" ]; then
            note "round $round: archived here, so left alone: take it out of ROUNDS"
        else
            rounds+=("$round")
        fi
    done
}

put_logs_aside() {
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

# Takes the lock on fd 8, which no child inherits. Waits a moment, for `status` takes it to look.
lock() {
    command -v flock >/dev/null || fail "flock is not installed"
    { mkdir -p -- "$logs" && : >>"$log"; } 2>/dev/null || fail "$logs cannot be written"
    exec 8>>"$logs/chpc_train.lock"
    flock --timeout 1 8 && return
    note "busy: another run is at work"
    [ "$mode" = now ] || exit 0
    exit 3
}

go() {
    mode=$1 group="" bad=0 away="" deadline=$((SECONDS + RUN_LIMIT))
    lock
    trap interrupted INT TERM HUP
    put_logs_aside
    python=$(find_python 2>/dev/null && printf %s "$python") || python=""
    note "begin: $mode"
    took=0
    if ! (load_settings) 2>"$scratch/errors"; then
        failed settings "$(words_of "$scratch/errors")"
        note "end: nothing was done"
        exit 2
    fi
    load_settings
    choose_rounds
    [ ${#rounds[@]} -eq 0 ] || work
    if [ $bad -eq 0 ]; then
        note "end: fine, $SECONDS s"
    else
        note "end: $bad failed or to be looked at, $SECONDS s"
        exit 1
    fi
}

# ---------------------------------------------------------------------------------------------- usage

# take_interval WORD...: sets `every` from [--every MIN].
take_interval() {
    every=30
    [ $# -gt 0 ] || return 0
    [[ $1 = --every && $# -eq 2 ]] || fail "after on and timer there can only be --every MIN; see chpc_train.sh --help"
    [[ $2 =~ ^[0-9]+$ && " $INTERVALS " = *" $2 "* ]] ||
        fail "cron cannot call at equal distances of '$2' minutes. It can of ${INTERVALS// /, }"
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
