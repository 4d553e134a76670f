# shellcheck shell=bash disable=SC2034,SC2153,SC2154  # variables are shared with chpc_train.sh, which sources this
# The steps of a run of chpc_train.sh: pull, queue, draw; and how each ended, for the log and for cron. To be sourced after
# util.sh.

SHOWN=40    # lines of output of a failed step that are kept
SIZE=20000  # bytes that they have at most
LONGEST=500 # bytes of a message
NOT_RUN=72  # exit code of the program on the cluster if it did not call runner.py

# ---------------------------------------------------------------------------------------------- messages

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
    text=$(cat "$scratch/output" "$scratch/errors" | tr -d '\000-\010\013-\037\177' | tail -n $SHOWN | tail -c $SIZE)
    [[ $text = *$'\n'* ]] || return 0
    text=${text//$'\n'/$'\n    '}
    printf '    %s\n' "$text" >>"$log" || true
    [ "$mode" != now ] || printf '    %s\n' "$text"
}

# last_line FILE: its last line that is not empty, without the name of the script in front of a message. A progress bar
# overwrites its line: what is there in the end counts.
last_line() {
    local -x LC_ALL=C
    tr '\r' '\n' <"$1" | tr -d '\000-\011\013-\037\177' | grep -a '[^ ]' | tail -n 1 |
        sed 's/^[a-z_]*\.\(sh\|py\): //' | cut -b "-$LONGEST" || true
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

# part STEP STATE TEXT: adds to the outcome of the run. TEXT is printed, but not compared with the last run: it contains
# counts and names of files.
part() {
    outcome+="$1: $2, exit code $code"$'\n'
    printed+="${printed:+; }$1: $2: $3"
}

# print_change: under cron, a line if the outcome differs from that of the last run.
print_change() {
    local before="" state="ok"
    [ ! -f "$logs/chpc_train.outcome" ] || before=$(cat "$logs/chpc_train.outcome")
    [ "$before" != "${outcome%$'\n'}" ] || return 0
    printf '%s' "$outcome" >"$logs/chpc_train.outcome" || error "cannot write to $logs"
    [ "$bad" -eq 0 ] || state="$bad failed or need attention"
    [ "$mode" != cron ] || printf '%s: %s. See %s\n' "$repository" "$state${printed:+: $printed}" "$log"
}

# ok STEP TEXT
ok() {
    note "$1: ok, $took s${2:+: $2}"
}

# attention STEP TEXT
attention() {
    bad=$((bad + 1))
    part "$1" "needs attention" "$2"
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
    part "$1" failed "$text"
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
    took=0 code=0
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
'CDPATH="" cd -- "$1" || say "REMOTE cannot be entered on the cluster: $1"; '\
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

# queued ROUND STATE
queued() {
    part "queue $1" "$2" "$(last_line "$scratch/output")"
    ok "queue $1" "$2. $(last_line "$scratch/output")"
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
        0) queued "$1" completed ;;
        3) queued "$1" "work remains" ;;
        4) attention "queue $1" "experiments failed, are blocked or were cancelled. $(last_line "$scratch/output")" ;;
        5) failed "queue $1" "scheduler or disk failed there, nothing is lost: $(last_message)" ;;
        126 | 127) failed "queue $1" "PYTHON cannot be started on the cluster: exit code $code: $(last_message)" ;;
        *)
            if grep -q "^runner.py: round $1 was archived" "$scratch/errors"; then
                part "queue $1" archived "remove it from ROUNDS"
                ok "queue $1" "archived on the cluster: remove it from ROUNDS"
            else
                failed "queue $1"
            fi
            ;;
    esac
}
