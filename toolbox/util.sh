# shellcheck shell=bash disable=SC2034  # what is set here is read by the scripts that source it
# What the scripts of the toolbox share. To be sourced: by itself it only sets `repository`, this checkout's folder.

repository=$(CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# ---------------------------------------------------------------------------------------------- telling

# complain MESSAGE: one line on stderr, in the name of the script.
complain() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# fail MESSAGE: a mistake of usage or settings. Exits with 2.
fail() {
    complain "$@"
    exit 2
}

# tell MESSAGE: one line on stdout, with the time in UTC, for logs.
tell() {
    printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*"
}

# ---------------------------------------------------------------------------------------------- settings

# is_round NAME: whether a round may be called so, as roundhouse/names.py has it.
is_round() {
    local LC_ALL=C
    [[ $1 =~ ^[A-Za-z0-9_][A-Za-z0-9_-]*$ ]]
}

# load_settings: sets HOST, REMOTE, ROUNDS, CHECKPOINTS, PYTHON and SSH_CONFIG from toolbox/cluster.env, or from the
# file that $ROUNDHOUSE_CLUSTER_ENV names, and settings_file to its path. Nothing in it is executed or expanded.
# Exits with 2 on any mistake.
load_settings() {
    local line number=0 seen=" " key
    settings_file=${ROUNDHOUSE_CLUSTER_ENV:-$repository/toolbox/cluster.env}
    [ -f "$settings_file" ] || fail "there is no $settings_file: copy toolbox/cluster.env.example to it, and fill it in"
    [ -r "$settings_file" ] || fail "$settings_file cannot be read: mend its permissions"
    HOST="" REMOTE="" ROUNDS="" CHECKPOINTS=none PYTHON=.venv/bin/python SSH_CONFIG=""
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        _trim "${line%$'\r'}"
        [[ -z $_trimmed || $_trimmed = \#* ]] || _read_setting "$_trimmed" "$settings_file, line $number"
    done <"$settings_file"
    for key in HOST REMOTE ROUNDS; do
        [ -n "${!key}" ] || fail "$settings_file: $key is missing"
    done
    # A ~ is not expanded inside quotes; ssh and rsync start in the home folder anyway.
    [[ $REMOTE != \~ && $REMOTE != \~/ ]] || REMOTE=.
    REMOTE=${REMOTE#\~/}
}

_trim() {
    _trimmed=${1#"${1%%[![:space:]]*}"}
    _trimmed=${_trimmed%"${_trimmed##*[![:space:]]}"}
}

# One line KEY=VALUE; `seen` are the keys before it.
_read_setting() {
    local key value
    [[ $1 = *=* ]] || fail "$2: not KEY=VALUE: $1"
    _trim "${1%%=*}"
    key=$_trimmed
    case $key in
        HOST | REMOTE | ROUNDS | CHECKPOINTS | PYTHON | SSH_CONFIG) ;;
        *) fail "$2: unknown key $key; there are HOST, REMOTE, ROUNDS, CHECKPOINTS, PYTHON, SSH_CONFIG" ;;
    esac
    [[ $seen != *" $key "* ]] || fail "$2: $key is given twice"
    seen+="$key "
    _trim "${1#*=}"
    _read_value "$_trimmed" "$2"
    value=$_trimmed
    [ -n "$value" ] || fail "$2: $key has no value"
    _check_setting "$key" "$value" "$2"
    printf -v "$key" %s "$value"
}

# A value without its quotes, and without a comment after it, in `_trimmed`.
_read_value() {
    local quote=${1:0:1} rest
    if [[ $quote = [\"\'] ]]; then
        rest=${1:1}
        [[ $rest = *"$quote"* ]] || fail "$2: the quote $quote is not closed"
        _trim "${rest#*"$quote"}"
        [[ -z $_trimmed || $_trimmed = \#* ]] || fail "$2: after the closing quote there is $_trimmed"
        _trimmed=${rest%%"$quote"*}
    else
        _trim "${1%%[[:space:]]#*}"
        [[ $_trimmed != \#* ]] || _trimmed=""
    fi
}

_check_setting() {
    local name
    [[ $2 != *[[:cntrl:]]* ]] || fail "$3: $1 holds a control character"
    case $1 in
        HOST) [[ $2 =~ ^[A-Za-z0-9_]([A-Za-z0-9_.@+-]*[A-Za-z0-9_])?$ ]] ||
            fail "$3: HOST must be a host of ~/.ssh/config or user@host, not $2" ;;
        CHECKPOINTS) [[ $2 = none || $2 = best || $2 = all ]] ||
            fail "$3: CHECKPOINTS must be none, best or all, not $2" ;;
        ROUNDS) for name in ${2//[*?[]/!}; do
            is_round "$name" || fail "$3: $name is no name of a round: letters, digits, - and _ only"
        done ;;
        PYTHON) [[ $2 != \~* ]] || fail "$3: PYTHON must be a path from / or from REMOTE, not $2" ;;
        SSH_CONFIG) [ -f "$2" ] || fail "$3: SSH_CONFIG: there is no file $2" ;;
    esac
}

# find_python: sets `python` to the interpreter of this machine: $PYTHON, or .venv/bin/python of the repository.
# To be called before load_settings, whose PYTHON is that of the cluster. Exits with 2 where there is none.
find_python() {
    python=${PYTHON:-$repository/.venv/bin/python}
    [[ $python != */* || $python = /* ]] || python=$PWD/$python
    command -v "$python" >/dev/null || fail "there is no $python: run make install, or set PYTHON"
}

# ---------------------------------------------------------------------------------------------- ssh

# ssh_words: sets the array `ssh` to the command by which HOST is reached: one that never asks and never hangs. The
# user's configuration holds (names, jumps, shared connections), but for what is no use to a script.
ssh_words() {
    ssh=(ssh -T)
    [ -z "$SSH_CONFIG" ] || ssh+=(-F "$SSH_CONFIG")
    ssh+=(-o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=15 -o ConnectionAttempts=1)
    ssh+=(-o ServerAliveInterval=15 -o ServerAliveCountMax=4 -o LogLevel=ERROR)
    ssh+=(-o ClearAllForwardings=yes -o RemoteCommand=none)
}

# remote_quoted WORD...: the words for a POSIX shell, each in quotes, on one line.
remote_quoted() {
    local word quote="'\\''" text=""
    for word in "$@"; do
        text+=" '${word//\'/$quote}'"
    done
    printf '%s\n' "${text# }"
}

# remote WORD...: runs this command on HOST, exactly these words, whatever they hold. Its output, errors and exit code
# are the command's; 255 is ssh's own failure, which explain_ssh tells from what stands on stderr.
remote() {
    local ssh
    ssh_words
    # A jump host is reached by an ssh that was not told to be silent: it must not open a window to ask either.
    SSH_ASKPASS_REQUIRE=never "${ssh[@]}" -- "$HOST" "$(remote_quoted "$@")" </dev/null
}

# explain_ssh FILE: one line that says why ssh failed, from its stderr in FILE.
explain_ssh() {
    local text said why
    # Without what a terminal would obey: the words are those of a host that may not be the right one.
    text=$(tail -c 20000 "$1" | tr -d '\r' | LC_ALL=C tr -c '[:print:]\n' '?')
    if _said 'HOST IDENTIFICATION HAS CHANGED'; then
        _said 'host key for .* has changed' || _said 'Offending' || true
        why="has another host key than before: ask those who run it whether they changed it, and only then remove the"
        why+=" old one from known_hosts"
    elif _said 'host key is known for|Host key verification failed'; then
        why="is not known by its host key: ssh to it by hand once, and compare the fingerprint that it shows"
    elif _said 'Could not resolve|resolve hostname'; then
        why="cannot be reached: its name is not known. Is there a network, and HOST right?"
    elif _said 'Permission denied \(.*(password|keyboard-interactive)'; then
        why="asks for a password or a second factor, and a script has none: put the key that it accepts into ssh-agent,"
        why+=" or open a shared connection by hand (ControlMaster)"
    elif _said 'Permission denied \(|Too many authentication failures|No supported authentication'; then
        why="does not accept your key: see ssh-add -l, and IdentityFile in ~/.ssh/config"
    elif _said 'Connection refused|No route to host|unreachable|timed out|banner exchange'; then
        why="cannot be reached: it is away, or the network is"
    elif _said 'onnection (to .* )?(closed|reset|unexpectedly)|disconnect|not responding|Broken pipe'; then
        why="closed the connection"
    else
        _said . || said="ssh said nothing"
        why="cannot be reached"
    fi
    printf '%s %s (%s)\n' "$HOST" "$why" "$said"
}

# The first line of `text` that has this in it, in `said`.
_said() {
    said=$(grep -m 1 -E -e "$1" <<<"$text")
}
