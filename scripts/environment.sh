# Read by scripts/lab and scripts/test: the one .venv of this checkout, made and kept up by both.
# It is rebuilt when Python or its place changed or a run was cut off, brought up to date when
# pyproject.toml changed, and else left alone. Messages go to standard error.

self=$(readlink -f -- "$0" 2>/dev/null || printf %s "$0")
root=$(CDPATH='' cd -- "$(dirname -- "$self")/.." && pwd -P)
venv=$root/.venv
log=$venv/install.log
ticker=
NO_NETWORK='NewConnectionError|NameResolutionError|establish a new connection|name resolution|getaddrinfo|Network is unreachable|Connection refused|ConnectTimeout|ReadTimeout|timed out|ProxyError|SSLError|Connection reset'

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
fail() { say "$@"; exit 1; }

# use EXTRAS: .venv holds lab-tui with these extras when this returns.
use() {
    up_to_date "$1" && return 0
    find_python
    { mkdir -p "$venv" && : >"$venv/lock"; } 2>/dev/null || fail "cannot write in $venv: mend its permissions"
    exec 9>"$venv/lock"
    lock fcntl.LOCK_NB 2>/dev/null || { say "another run is installing, waiting for it"; lock 0; }
    up_to_date "$1" || install "$1"
    exec 9>&-
}

# Whether a stamp says so; what was installed with more extras than these serves too.
up_to_date() {
    [ ! -e "$venv/unfinished" ] && now=$(stamp) || return 1
    for kept in "$venv/stamp-$1"*; do
        [ -f "$kept" ] && [ "$(cat "$kept")" = "$now" ] && return 0
    done
    return 1
}

# What .venv was made from: first line Python and place, second pyproject.toml.
stamp() {
    "$venv/bin/python" -I -c 'import hashlib, sys
print(sys.version.split()[0], sys.prefix)
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$root/pyproject.toml" 2>/dev/null
}

find_python() {
    problem="needs Python 3.11 or newer, none found: install it, or set PYTHON to one"
    for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
        python=$(command -v "$name") || continue
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            problem="needs Python 3.11 or newer, $python is $version: install one, or set PYTHON to it"
        elif ! "$python" -c 'import ensurepip, fcntl, venv' 2>/dev/null; then
            problem="$python has no venv module: install it (Debian, Ubuntu: apt install python$version-venv)"
        else
            return 0
        fi
    done
    fail "$problem"
}

# Through Python, for flock(1) is not everywhere. The lock stays with file 9: it goes with this shell
# and its pip however they end, and not before a pip that outlives the shell.
lock() {
    "$python" -c "import fcntl, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)  # ctrl-C while it waits is no traceback
fcntl.flock(9, fcntl.LOCK_EX | $1)"
}

install() {
    made=$(head -n 1 "$venv/made" 2>/dev/null || :)
    if [ -e "$venv/unfinished" ] || [ -z "$made" ] || [ "$made" != "$(stamp | head -n 1)" ]; then
        wipe
    fi
    trap 'stop_ticker; wipe; exit 130' INT TERM HUP
    : >"$venv/unfinished"
    say "installing into $venv (log: $log)"
    start_ticker
    if [ ! -e "$venv/made" ]; then
        "$python" -m venv "$venv" >"$log" 2>&1 || { stop_ticker; explain "cannot make $venv"; }
    fi
    PIP_USER=0 "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
        --editable "${root}[$1]" >"$log" 2>&1 || {
        stop_ticker
        # pip took back what it did: an environment that was whole before still is.
        [ ! -e "$venv/made" ] || rm "$venv/unfinished"
        explain "cannot install lab-tui"
    }
    stop_ticker
    stamp | head -n 1 >"$venv/made"
    stamp >"$venv/stamp-$1"
    rm "$venv/unfinished"
    trap - INT TERM HUP
}

# Empty .venv but for the lock that is held.
wipe() { find "$venv" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} +; }

# One line for what pip said in many.
explain() {
    if grep -Eqi "$NO_NETWORK" "$log"; then
        fail "$1: no network, the package registry cannot be reached (log: $log)"
    elif grep -qi 'No space left' "$log"; then
        fail "$1: the disk is full (log: $log)"
    fi
    cause=$(grep -E '(Error|ERROR): ' "$log" | tail -n 1 | sed 's/^ *//')
    fail "$1: ${cause:-no reason given} (log: $log)"
}

start_ticker() {
    [ -t 2 ] || return 0
    (
        seconds=0
        while sleep 1 && kill -0 $$ 2>/dev/null; do
            seconds=$((seconds + 1))
            printf '\r  %d s ' "$seconds" >&2
        done
    ) &
    ticker=$!
}

stop_ticker() {
    [ -n "$ticker" ] || return 0
    kill "$ticker" 2>/dev/null || :
    wait "$ticker" 2>/dev/null || :
    ticker=
    printf '\r           \r' >&2
}
