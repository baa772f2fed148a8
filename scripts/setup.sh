#!/bin/sh
# Set-up for the Makefile: installs what is missing, leaves alone what is there, says each step on stderr.
#
#   scripts/setup.sh requirements    .venv with the packages of requirements.txt (PYTHON makes it; default python3)
#   scripts/setup.sh browser         then, for the tests: a Chromium; its path is the only line on stdout
#   scripts/setup.sh scale           for the tests: Ray (requirements-scale.txt)
#   scripts/setup.sh postgres        for the tests: PostgreSQL's programs; their folder, or nothing, is the only line on stdout
#
# Left out: systems without apt-get. There a missing package is named in a sentence and set-up stops.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'PromptScope: %s\n' "$*" >&2; }

stop() {
    say "$*"
    exit 1
}

apt_install() { # PACKAGE...: fails where there is no apt-get, or neither root nor sudo
    command -v apt-get >/dev/null || return 1
    as_root=
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || return 1
        as_root=sudo
    fi
    say "installing $* with ${as_root:+sudo }apt-get"
    $as_root apt-get update -q >&2 || say "apt-get update failed; going on with the package lists that are there"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2
}

# --- requirements ----------------------------------------------------------------------------------------------------

minor_of() { "$1" -c 'import sys; print(sys.version_info[1] if sys.version_info[0] == 3 else 0)'; }

make_venv() {
    python=${PYTHON:-python3}
    minor=$(minor_of "$python" 2>/dev/null) ||
        stop "$python does not start. Install Python 3.10 to 3.13, or name one: make PYTHON=..."
    if [ "$minor" -lt 10 ] || [ "$minor" -gt 13 ]; then
        stop "$python is $("$python" -V); Python 3.10 to 3.13 is needed. Name one: make PYTHON=python3.11"
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        # Debian and Ubuntu keep these modules in a package of their own, one for each version
        apt_install "python3.$minor-venv" || true
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            stop "$python cannot make virtual environments. Install the package python3.$minor-venv (as root), then try again."
    fi
    say "making the virtual environment .venv with $("$python" -V)"
    "$python" -m venv --clear .venv
}

requirements() {
    .venv/bin/python -c 'import pip' 2>/dev/null || make_venv
    wanted=$(cat requirements.txt constraints.txt | sha256sum)
    [ "$(cat .venv/promptscope.installed 2>/dev/null)" != "$wanted" ] || return 0
    if [ "$(minor_of .venv/bin/python)" -ge 11 ]; then
        say "installing requirements.txt at the versions of constraints.txt into .venv (some minutes and 5.5 GB the first time)"
        set -- -c constraints.txt
    else
        say "installing requirements.txt into .venv; on Python 3.10 without constraints.txt, whose versions need 3.11"
        set --
    fi
    .venv/bin/python -m pip install --disable-pip-version-check "$@" -r requirements.txt >&2 ||
        stop "the requirements could not be installed; pip's last lines say why."
    echo "$wanted" >.venv/promptscope.installed
    say "the requirements are installed"
}

# --- Ray -------------------------------------------------------------------------------------------------------------

scale() {
    wanted=$(cat requirements-scale.txt constraints.txt | sha256sum)
    [ "$(cat .venv/promptscope.scale 2>/dev/null)" != "$wanted" ] || return 0
    say "installing requirements-scale.txt into .venv (80 MB the first time)"
    set --
    [ "$(minor_of .venv/bin/python)" -lt 11 ] || set -- -c constraints.txt
    if .venv/bin/python -m pip install --disable-pip-version-check "$@" -r requirements-scale.txt >&2; then
        echo "$wanted" >.venv/promptscope.scale
    else
        say "NO RAY could be installed: nothing is tested on a cluster. pip's last lines say why."
    fi
}

# --- browser ---------------------------------------------------------------------------------------------------------

starts() { timeout 60 "$1" --version >/dev/null 2>&1; } # Ubuntu's chromium-browser without its snap does not

find_browser() {
    for name in chromium chromium-browser google-chrome; do
        path=$(command -v "$name") && starts "$path" && echo "$path" && return 0
    done
    return 1
}

driver_starts() { .venv/bin/python -m playwright --version >/dev/null 2>&1; }

browser() {
    # playwright brings a Node.js of its own, which needs a library that a small Debian lacks
    driver_starts || apt_install libatomic1 || true
    driver_starts || stop "playwright does not start. Install the package libatomic1 (as root), then try again."
    if [ -n "${PROMPTSCOPE_CHROMIUM:-}" ]; then
        starts "$PROMPTSCOPE_CHROMIUM" || stop "PROMPTSCOPE_CHROMIUM is $PROMPTSCOPE_CHROMIUM, which does not start."
        echo "$PROMPTSCOPE_CHROMIUM"
        return 0
    fi
    find_browser && return 0
    apt_install chromium fonts-liberation || apt_install chromium-browser fonts-liberation || true
    find_browser ||
        stop "no Chromium could be found or installed for the tests. Install chromium (on Ubuntu, if its snap does not" \
            "start: Google Chrome), or set PROMPTSCOPE_CHROMIUM to one."
}

# --- postgres --------------------------------------------------------------------------------------------------------

find_postgres() { # Debian keeps initdb out of the PATH
    for folder in ${PROMPTSCOPE_POSTGRES:+"$PROMPTSCOPE_POSTGRES"} /usr/lib/postgresql/*/bin; do
        [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ] && echo "$folder" && return 0
    done
    initdb=$(command -v initdb) && dirname "$(readlink -f "$initdb")"
}

postgres() {
    find_postgres && return 0
    apt_install postgresql || true
    find_postgres ||
        say "NO POSTGRESQL could be found or installed: what is kept in PostgreSQL is not tested. Install the package postgresql."
}

case "${1:-}" in
    requirements | scale | browser | postgres) "$1" ;;
    *) stop "usage: scripts/setup.sh requirements | scale | browser | postgres" ;;
esac
