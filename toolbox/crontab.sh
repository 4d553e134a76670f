# shellcheck shell=bash disable=SC2154  # `repository` is util.sh's, `scratch` a folder for files of who sources this
# What calls chpc_train.sh again and again: its entry in the crontab, or a timer of systemd. To be sourced.

# Minutes, of which cron can make equal distances.
INTERVALS="1 2 3 4 5 6 10 12 15 20 30 60 120 180 240 360 480 720"
ENTRY_LENGTH=990 # bytes of a command; what is longer, cron cuts off

script=$(cd -- "$repository" && pwd -P)/toolbox/chpc_train.sh

# ---------------------------------------------------------------------------------------------- the entry

# The comment that ends this checkout's entry, by which it is known.
entry_tag() {
    local hash
    hash=$(printf %s "$script" | sha256sum)
    printf '# roundhouse %s' "${hash:0:16}"
}

# schedule MIN: the five fields of an entry.
schedule() {
    if (($1 < 60)); then echo "*/$1 * * * *"; else echo "0 */$(($1 / 60)) * * *"; fi
}

# interval LINE: the minutes of an entry; nothing if somebody has changed its fields to others than ours.
interval() {
    local every
    for every in $INTERVALS; do
        [[ $1 != "$(schedule "$every") "* ]] || echo "$every"
    done
}

# Sets `words` to the command that is to be called. Cron and systemd give it next to no environment.
command_words() {
    local part path=":" parts
    IFS=: read -r -a parts <<<"$PATH"
    for part in "${parts[@]}"; do
        [[ $part != /* || $path = *":$part:"* || ! -d $part ]] || path+=$part:
    done
    path=${path#:}
    words=(/usr/bin/env "PATH=${path%:}")
    for part in SSH_AUTH_SOCK ROUNDHOUSE_CLUSTER_ENV PYTHON; do
        [ -z "${!part:-}" ] || words+=("$part=$(absolute "${!part}")")
    done
    words+=("$script" cron)
    for part in "${words[@]}"; do
        [[ $part != *[\\[:cntrl:]]* ]] || fail "cannot be called by cron, for a backslash or control character: $part"
    done
}

# absolute PATH: counted from here, unless it is a name to be found in the PATH.
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
    line=${line//%/\\%}$(entry_tag)
    ((${#line} <= ENTRY_LENGTH)) || fail "the entry would be too long for cron: call it with a shorter PATH"
    printf '%s %s\n' "$(schedule "$1")" "$line"
}

# is_entry LINE TAG: whether it is this checkout's entry, and nobody has made a comment of it.
is_entry() {
    [[ $1 = *" $2" && ! $1 =~ ^[[:space:]]*'#' ]]
}

# entry_in FILE: this checkout's entry in a crontab, if there is one.
entry_in() {
    local LC_ALL=C line tag
    tag=$(entry_tag)
    while IFS= read -r line || [ -n "$line" ]; do
        ! is_entry "$line" "$tag" || printf '%s\n' "$line"
    done <"$1" | head -n 1
}

# edited [LINE]: the crontab on stdin with LINE as this checkout's entry, where the old one stood, or at the end;
# without LINE, with none. No other byte changes; a newline is added only if LINE comes after a line that has none.
edited() {
    local LC_ALL=C line end=$'\n' last=$'\n' new=${1:-} tag
    tag=$(entry_tag)
    while [ -n "$end" ]; do
        IFS= read -r line || end=""
        [ -n "$line$end" ] || break
        if is_entry "$line" "$tag"; then
            [ -z "$new" ] || printf '%s\n' "$new"
            new=""
        else
            printf '%s%s' "$line" "$end"
            last=$end
        fi
    done
    if [ -n "$new" ]; then
        [ -n "$last" ] || echo
        printf '%s\n' "$new"
    fi
}

# ---------------------------------------------------------------------------------------------- the crontab

# read_crontab FILE: the crontab into FILE. Returns 1 and says why on stdout if it cannot be read: not the same as none.
read_crontab() {
    command -v crontab >/dev/null || {
        echo "there is no command crontab"
        return 1
    }
    LC_ALL=C crontab -l >"$1" 2>"$scratch/errors" && return
    grep -qi 'no crontab for' "$scratch/errors" && : >"$1" && return
    echo "crontab says: $(head -n 1 "$scratch/errors")"
    return 1
}

# change_crontab [LINE]: as `edited` has it, and looked at afterwards. Exits with 1 where cron is refused.
change_crontab() {
    local why
    why=$(read_crontab "$scratch/old") || refused "$why"
    edited "$@" <"$scratch/old" >"$scratch/new"
    cmp -s "$scratch/old" "$scratch/new" && return
    if [ -s "$scratch/new" ]; then
        crontab "$scratch/new" 2>"$scratch/errors" || refused "crontab says: $(head -n 1 "$scratch/errors")"
    else
        crontab -r 2>"$scratch/errors" || refused "crontab says: $(head -n 1 "$scratch/errors")"
    fi
    why=$(read_crontab "$scratch/now") || refused "$why"
    cmp -s "$scratch/new" "$scratch/now" || refused "the crontab is not what was put there: see crontab -l"
}

refused() {
    complain "cron is refused on this machine: $1. Instead of it: a systemd user timer (chpc_train.sh timer prints" \
        "it), or, on the cluster's login node in tmux: python runner.py --round NAME --watch 1800"
    exit 1
}

# Whether a cron is seen to run; systemd knows where other users' processes are hidden.
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
# Two files in ~/.config/systemd/user/. Then: systemctl --user daemon-reload
#                                             systemctl --user enable --now roundhouse.timer
# It goes on while you are logged out only after: loginctl enable-linger
# To end it: systemctl --user disable --now roundhouse.timer

# ~/.config/systemd/user/roundhouse.service
[Unit]
Description=Roundhouse: pull, plot and queue

[Service]
Type=oneshot
ExecStart=${line# }

# ~/.config/systemd/user/roundhouse.timer
[Unit]
Description=Roundhouse: pull, plot and queue

[Timer]
OnCalendar=$times

[Install]
WantedBy=timers.target
END_OF_UNITS
}
