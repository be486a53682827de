# Sourced by scripts/quickstart, scripts/test and .ci/run: a Python that will do, and a virtual
# environment with this clone installed. A second call with nothing changed needs no network.

# Modules from elsewhere would hide what is installed here.
unset PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK=1

stop() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    shift
    printf '  %s\n' "$@" >&2
    exit 1
}

python_is() { # COMMAND CONDITION-ON-v
    "$1" -c "import sys; v = sys.version_info[:2]; sys.exit(not ($2))" >/dev/null 2>&1
}

# Print the Python to use: $PYTHON, or the first that has wheels for everything, or any new enough.
find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        python_is "$PYTHON" 'v >= (3, 11)' || return 1
        printf '%s\n' "$PYTHON"
        return
    fi
    for condition in '(3, 11) <= v <= (3, 13)' 'v >= (3, 11)'; do
        for candidate in python3 python3.13 python3.12 python3.11 python; do
            if python_is "$candidate" "$condition"; then
                printf '%s\n' "$candidate"
                return
            fi
        done
    done
    return 1
}

can_make_venv() {
    "$1" -c 'import ensurepip, venv' >/dev/null 2>&1
}

# What the test hosts of tests/cluster need, on a machine that is there for tests only.
install_for_test_hosts() {
    local program missing=
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 0
    for program in sshd ssh ip csh; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing="$missing $program"
    done
    [ -n "$missing" ] || return 0
    # If this fails, the tests say what is missing. sshd is not to be started on the machine itself.
    { apt-get -qq update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq install \
        --no-install-recommends openssh-server openssh-client iproute2 csh; } \
        >/dev/null || printf 'ci: apt-get could not install:%s\n' "$missing" >&2
}

# prepare FOLDER EXTRAS: make or refresh the environment FOLDER (relative to the clone).
prepare() {
    local folder=$1 extras=$2 python wanted log
    python=$(find_python) || stop \
        "no Python 3.11 or newer (${PYTHON:-python3} is $("${PYTHON:-python3}" -V 2>&1 | tail -n 1))" \
        "install one, or say where it is: PYTHON=/path/to/python3.11 $0"
    can_make_venv "$python" || stop \
        "$python cannot make virtual environments: the modules venv and ensurepip are missing" \
        "on Debian and Ubuntu: apt install python3-venv" \
        "or take another one: PYTHON=/path/to/python3.11 $0"
    wanted=$({
        "$python" -c 'import sys; print(sys.version, sys.base_prefix)'
        pwd
        printf '%s\n' "$extras"
        cat pyproject.toml
    } | cksum)
    if [ -x "$folder/bin/python" ] && [ "$(cat "$folder/installed" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    log=$folder/install.log
    printf 'installing dask-runner[%s] into %s, a minute or two (log: %s)\n' \
        "$extras" "$folder" "$log" >&2
    "$python" -m venv --clear "$folder" || stop "cannot make the environment $folder"
    if ! "$folder/bin/python" -m pip install --no-input -e ".[$extras]" >"$log" 2>&1 </dev/null; then
        tail -n 15 "$log" >&2
        stop "the installation failed; all of it is in $log"
    fi
    printf '%s\n' "$wanted" >"$folder/installed"
}
