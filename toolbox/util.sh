# shellcheck shell=bash disable=SC2034  # what is set here is read by the scripts that source it
# Shared by the scripts of the toolbox: messages, settings, ssh. Sourcing it only sets `repository`, this checkout's
# folder. ssh_status.py uses the same settings, the same ssh command and the same explanations.

repository=$(CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# ---------------------------------------------------------------------------------------------- messages

# error MESSAGE: one line on stderr, after the name of the script.
error() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# fail MESSAGE: for a mistake in usage or settings. Exits with 2.
fail() {
    error "$@"
    exit 2
}

# log_line MESSAGE: one line on stdout, after the time in UTC.
log_line() {
    printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*"
}

# need COMMAND...: exits with 2 if one of them is not installed.
need() {
    local name
    for name in "$@"; do
        command -v "$name" >/dev/null || fail "$name is not installed"
    done
}

# ---------------------------------------------------------------------------------------------- settings

# is_round NAME: whether a round may have this name, as in roundhouse/names.py.
is_round() {
    local LC_ALL=C
    [[ $1 =~ ^[A-Za-z0-9_][A-Za-z0-9_-]*$ ]]
}

# load_settings: sets HOST, REMOTE, ROUNDS, CHECKPOINTS, PYTHON and SSH_CONFIG from toolbox/cluster.env, or from the
# file that $ROUNDHOUSE_CLUSTER_ENV names, and settings_file to its path. Nothing in it is executed or expanded. Exits
# with 2 on any mistake.
load_settings() {
    _load_settings "" "" HOST REMOTE ROUNDS
}

# load_host HOST REMOTE: the same, but arguments that are not empty override the file. With both, it may be missing.
load_host() {
    _load_settings "$1" "$2" HOST REMOTE
}

# HOST, REMOTE, and the keys that are required.
_load_settings() {
    local key
    settings_file=${ROUNDHOUSE_CLUSTER_ENV:-$repository/toolbox/cluster.env}
    HOST="" REMOTE="" ROUNDS="" CHECKPOINTS=none PYTHON=.venv/bin/python SSH_CONFIG=""
    if [ -f "$settings_file" ]; then
        _read_settings
    elif [ -z "$1" ] || [ -z "$2" ]; then
        fail "$settings_file does not exist: copy toolbox/cluster.env.example to it and fill it in"
    fi
    [ -z "$1" ] || _check_setting HOST "$1" "--host"
    HOST=${1:-$HOST} REMOTE=${2:-$REMOTE}
    for key in "${@:3}"; do
        [ -n "${!key}" ] || fail "$settings_file: $key is missing"
    done
    # A ~ is not expanded inside quotes, and ssh and rsync start in the home directory.
    [[ $REMOTE != \~ && $REMOTE != \~/ ]] || REMOTE=.
    REMOTE=${REMOTE#\~/}
}

_read_settings() {
    local line number=0 seen=" "
    [ -r "$settings_file" ] || fail "$settings_file cannot be read: fix its permissions"
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        _trim "${line%$'\r'}"
        [[ -z $_trimmed || $_trimmed = \#* ]] || _read_setting "$_trimmed" "$settings_file, line $number"
    done <"$settings_file"
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
        *) fail "$2: unknown key $key; the keys are HOST, REMOTE, ROUNDS, CHECKPOINTS, PYTHON, SSH_CONFIG" ;;
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
        [[ -z $_trimmed || $_trimmed = \#* ]] || fail "$2: unexpected text after the closing quote: $_trimmed"
        _trimmed=${rest%%"$quote"*}
    else
        _trim "${1%%[[:space:]]#*}"
        [[ $_trimmed != \#* ]] || _trimmed=""
    fi
}

_check_setting() {
    local name
    [[ $2 != *[[:cntrl:]]* ]] || fail "$3: $1 contains a control character"
    case $1 in
        HOST) [[ $2 =~ ^[A-Za-z0-9_]([A-Za-z0-9_.@+-]*[A-Za-z0-9_])?$ ]] ||
            fail "$3: HOST must be a host of ~/.ssh/config or user@host (got $2)" ;;
        CHECKPOINTS) [[ $2 = none || $2 = best || $2 = all ]] ||
            fail "$3: CHECKPOINTS must be none, best or all (got $2)" ;;
        ROUNDS) for name in ${2//[*?[]/!}; do
            is_round "$name" || fail "$3: the name of a round must consist of letters, digits, - and _ (got $name)"
        done ;;
        PYTHON) [[ $2 != \~* ]] || fail "$3: PYTHON must be absolute or relative to REMOTE (got $2)" ;;
        SSH_CONFIG) [ -f "$2" ] || fail "$3: SSH_CONFIG: the file $2 does not exist" ;;
    esac
}

# find_python: sets `python` to the local interpreter: $PYTHON, or .venv/bin/python of the repository. Call it before
# load_settings, whose PYTHON is the one on the cluster. Exits with 2 if there is none.
find_python() {
    python=${PYTHON:-$repository/.venv/bin/python}
    [[ $python != */* || $python = /* ]] || python=$PWD/$python
    command -v "$python" >/dev/null || fail "$python does not exist: run make install, or set PYTHON"
}

# ---------------------------------------------------------------------------------------------- ssh

# ssh_words: sets the array `ssh` to the command that reaches HOST: one that never asks and never hangs. The user's
# configuration applies (names, jump hosts, shared connections), except for what a script cannot use.
ssh_words() {
    ssh=(ssh -T)
    [ -z "$SSH_CONFIG" ] || ssh+=(-F "$SSH_CONFIG")
    ssh+=(-o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=15 -o ConnectionAttempts=1)
    ssh+=(-o ServerAliveInterval=15 -o ServerAliveCountMax=4 -o LogLevel=ERROR)
    ssh+=(-o ClearAllForwardings=yes -o RemoteCommand=none -o PermitLocalCommand=no)
}

# remote_quoted WORD...: the words for a POSIX shell, each in quotes, on one line.
remote_quoted() {
    local word quote="'\\''" text=""
    for word in "$@"; do
        text+=" '${word//\'/$quote}'"
    done
    printf '%s\n' "${text# }"
}

# remote WORD...: runs this command on HOST, exactly these words, whatever they contain. Output, errors and exit code
# are those of the command; 255 is a failure of ssh itself, which explain_ssh explains from stderr.
remote() {
    local ssh
    ssh_words
    # The ssh to a jump host does not get BatchMode: it must not open a window to ask for a password either.
    SSH_ASKPASS_REQUIRE=never "${ssh[@]}" -- "$HOST" "$(remote_quoted "$@")" </dev/null
}

# A program on HOST prints the first line before all else and the second one after all else, with its exit code, on stdout
# and on stderr. What comes before and after them is printed by the shells there. Without the first line, the program was
# not started; without the second, its exit code is not known, whatever the exit code of ssh is.
BEGIN_LINE="roundhouse: begin"
END_LINE="roundhouse: end"

# marked PROGRAM: the program for sh on HOST, between these lines. It stays on one line, because the login shell may be a
# csh, which has no quotes over several lines; and `set -e` in a startup file cannot end it before the second line.
marked() {
    local print="printf '\\n%s\\n' '$BEGIN_LINE'" end="printf '\\n%s %d\\n' '$END_LINE' \"\$code\""
    printf '%s' "$print; $print >&2; code=0; ($1) || code=\$?; $end; $end >&2; exit \"\$code\""
}

# read_answer OUTPUT ERRORS: keeps only what the marked program printed in these files; what the shells there printed on
# stdout before it is moved to OUTPUT.before. Sets `started` and `ended` to yes or nothing, and `code`, which is the exit
# code of ssh, to that of the program if it is known.
read_answer() {
    local -x LC_ALL=C
    local file reported
    started="" ended=""
    : >"$1.before"
    grep -a -q -x "$BEGIN_LINE" "$1" || return 0
    started=yes
    reported=$(sed -n "s/^$END_LINE \([0-9]\{1,3\}\)\$/\1/p" "$1" | tail -n 1)
    [ -z "$reported" ] || ended=yes code=$reported
    sed "/^$BEGIN_LINE\$/,\$d" "$1" >"$1.before"
    for file in "$1" "$2"; do
        ! grep -a -q -x "$BEGIN_LINE" "$file" || sed -i "1,/^$BEGIN_LINE\$/d" "$file"
        sed -i "/^$END_LINE [0-9]*\$/,\$d" "$file"
        sed -i '${/^$/d}' "$file" # the newline before END_LINE
    done
}

# A program on HOST that calls a login shell prints this line first, with the startup file that the login shell reads.
LOGIN_LINE="roundhouse: login shell reads"

# in_login_shell PROGRAM: a program for sh on HOST that runs this one by a login shell, with its arguments.
in_login_shell() {
    printf '%s' "for file in ~/.bash_profile ~/.bash_login ~/.profile /etc/profile; do [ -r \"\$file\" ] && break; done; "
    printf '%s' "printf '\\n%s %s\\n' '$LOGIN_LINE' \"\$file\"; "
    printf '%s' "exec bash -l -c $(remote_quoted "$1") bash \"\$@\""
}

# explain_start CODE OUTPUT ERRORS: one line that says why a program on HOST did not begin. Returns 1 if ssh reached HOST,
# so that CODE is that of a shell there.
explain_start() {
    local text found why
    text=$(_plain "$3")
    if [ "$1" -eq 255 ] && { _reason_of_ssh || ! _reached "$2"; }; then
        printf '%s %s (%s)\n' "$HOST" "$why" "$found"
    else
        explain_shell "$@"
        return 1
    fi
}

# explain_shell CODE OUTPUT ERRORS: the same for a program whose shell on HOST ended with this code before it began.
explain_shell() {
    local text found why files advice
    text=$(_plain "$2" "$3")
    _startup_files
    found=$(grep -v "^$LOGIN_LINE " <<<"$text" | grep '[^ ]' | tail -n 1) || true
    advice="Look for exit or exec in $files"
    case $1 in
        124) why="did not run the command within its time limit: look for a command that waits in $files" ;;
        126) why="cannot run the command: exit code 126, a program is not executable there. $advice" ;;
        127) why="cannot run the command: exit code 127, a program was not found there. $advice" ;;
        *) why="did not run the command: its shell ended before, with exit code $1. $advice" ;;
    esac
    printf '%s %s (%s)\n' "$HOST" "$why" "${found:-no output}"
}

# explain_end CODE OUTPUT ERRORS: one line that says why a program on HOST that began did not report its exit code, after
# read_answer. Returns 1 if it is no failure of ssh, as far as ssh says.
explain_end() {
    local text found why files
    text=$(_plain "$3")
    if [ "$1" -eq 255 ] && [[ $text = *[![:space:]]* ]] && _reason_of_ssh; then
        printf '%s %s (%s)\n' "$HOST" "$why" "$found"
        return
    fi
    text=$(_plain "$2.before")
    _startup_files
    found=$(_plain "$2" "$3" | grep '[^ ]' | tail -n 1) || true
    why="did not report how the command ended: it was killed there, or its output was cut off. If it happens again, look"
    why+=" for ulimit, trap and exec in $files"
    printf '%s %s (%s)\n' "$HOST" "$why" "${found:-no output}"
    return 1
}

# The startup files on HOST that can end a shell before the program, from its output in `text`, in `files`.
_startup_files() {
    files=$(sed -n "s/^$LOGIN_LINE //p" <<<"$text" | tail -n 1)
    case $files in
        "") files="the file ~/.bashrc there (zsh: ~/.zshenv, csh: ~/.cshrc), and check whether the account may run commands" ;;
        /etc/profile) files="the file /etc/profile there" ;;
        *) files="the file ~/${files##*/} there, in the files that it reads, such as ~/.bashrc, and in /etc/profile" ;;
    esac
}

# _reached OUTPUT: whether ssh reached HOST: a shell there printed something, or ssh logs in now.
_reached() {
    ! grep -a -q '[^[:space:]]' "$1" || return 0
    grep -q '^Authenticated to ' <<<"$(_say VERBOSE)"
}

# The end of files, without characters that a terminal would obey: the text is from a host that may not be the right one.
_plain() {
    tail -q -c 20000 -- "$@" | tr -d '\r' | LC_ALL=C tr -c '[:print:]\n' '?'
}

# explain_ssh FILE: one line that says why ssh failed and what to do, from its stderr in FILE. Returns 1 if no message of
# ssh is in it.
explain_ssh() {
    local text found why code=0
    text=$(_plain "$1")
    _reason_of_ssh || code=1
    printf '%s %s (%s)\n' "$HOST" "$why" "$found"
    return $code
}

# Sets `why` and `found`, the line that says so, from what ssh printed, in `text`. Returns 1 if it is no message of ssh.
# Banners of hosts may be in the same text, and end without a newline: so patterns match only what ssh itself prints,
# anywhere in a line.
_reason_of_ssh() {
    local files
    [[ $text = *[![:space:]]* ]] || text=$(_say INFO)
    if _find 'HOST IDENTIFICATION HAS CHANGED'; then
        _find '^Host key for .* has changed' || _find '^Offending' || true
        why="has another host key than before: ask the administrators whether they changed it, and only then remove"
        why+=" the old one from known_hosts"
    elif _find 'No [A-Z0-9-]+ host key is known for |^Host key verification failed'; then
        _known_hosts_files
        why="has an unknown host key: $(malformed_line ${files[@]+"${files[@]}"})run ssh $HOST once and compare the fingerprint that"
        why+=" it prints"
    elif _find 'Unable to negotiate with .*: no matching '; then
        why=${found#*: no matching }
        why="has no ${why%% found*} in common with this ssh: update the older of the two, or allow one that the host"
        why+=" offers in ~/.ssh/config"
    elif _find 'ssh: Could not resolve hostname |^(Name or service not known|.* in name resolution|No address .*)$'; then
        why="cannot be reached: its name is unknown. Check the network, and HOST"
    elif _find '@[^ ]+: Permission denied \([a-z,-]*(password|keyboard-interactive)'; then
        why="asks for a password or a second factor, which a script cannot give: add the key that it accepts to"
        why+=" ssh-agent, or open a shared connection (ControlMaster)"
    elif _find '@[^ ]+: Permission denied \(|: Too many authentication failures|No supported authentication methods'; then
        why="does not accept your key: see ssh-add -l, and IdentityFile in ~/.ssh/config"
    elif _find 'kex_exchange_identification: banner line '; then
        why="does not answer as an SSH server: check HostName and Port, and that nothing prints on the way to it, such as"
        why+=" a ProxyCommand, or the LocalCommand of a jump host"
    elif _find "$_UNREACHABLE"; then
        why="cannot be reached: the host or the network is down"
    elif _find "$_CLOSED"; then
        why="closed the connection"
    else
        _find '[^ ]' || found="no message from ssh"
        why="cannot be reached"
        return 1
    fi
}

# _say LEVEL: what ssh says when it connects with this LogLevel. Only with INFO it reports that there is no common
# algorithm, only with VERBOSE that it has logged in. There is a time limit, because a startup file there may hang.
_say() {
    local ssh
    ssh_words
    ssh=(timeout --foreground --kill-after=5 60 "${ssh[0]}" -o LogLevel="$1" "${ssh[@]:1}")
    SSH_ASKPASS_REQUIRE=never "${ssh[@]}" -- "$HOST" true </dev/null 2>&1 >/dev/null | _plain - || true
}

_UNREACHABLE='ssh: connect to host |banner exchange: Connection .* timed out|Connection timed out during banner exchange'
_UNREACHABLE+='|channel [0-9]+: open failed: |stdio forwarding failed|^(Connection refused|No route to host|.*timed out)$'
_UNREACHABLE+='|^(Network|Host) is (unreachable|down)$'
_CLOSED='(kex_exchange_identification|ssh_dispatch_run_fatal|client_loop|banner exchange|Read from remote host [^ ]+): '
_CLOSED+='|Connection (to [^ ]+ )?(closed|reset) by |Received disconnect from |Disconnected from '
_CLOSED+='|Timeout, server .* not responding|rsync: (\[[a-zA-Z]+\] )?connection unexpectedly closed|Broken pipe$'

# The first line of `text` that matches, in `found`.
_find() {
    found=$(grep -m 1 -E -e "$1" <<<"$text")
}

# The files in which ssh looks for the key of HOST, in `files`.
_known_hosts_files() {
    local ssh name
    ssh_words
    files=()
    while IFS= read -r name; do
        # One name, which may contain spaces, or several.
        if [ -f "$name" ]; then files+=("$name"); else read -r -a files <<<"${files[*]-} $name"; fi
    done < <("${ssh[@]}" -G -- "$HOST" 2>/dev/null | sed -n 's/^\(user\|global\)knownhostsfile //p')
}

# malformed_line FILE...: advice about the first malformed line of known_hosts files; nothing if there is none.
malformed_line() {
    local name
    for name in "$@"; do
        [ -f "$name" ] || continue
        # A key in base64 begins with the length of its type, and no key is shorter than 68 characters.
        LC_ALL=C awk -v name="${name//\\/\\\\}" '/^[ \t]*(#|\r?$)/ { next } { key = $1 ~ /^@/ ? $4 : $3; sub(/\r$/, "", key) }
            key !~ /^AAAA[A-Za-z0-9+\/]*=?=?$/ || length(key) < 68 || length(key) % 4 {
                printf "correct or remove line %d of %s, which is malformed, then ", NR, name; exit 1 }' "$name" || return 0
    done
}
