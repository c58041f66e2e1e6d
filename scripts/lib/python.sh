# Finding Pythons and making virtual environments; sourced by the scripts beside it.
# Needs `repository`: the absolute path of the checkout.

say() { printf '\n== %s\n' "$*" >&2; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# works_as PYTHON VERSION: it starts, has that version and can make virtual environments.
works_as() {
    "$1" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$2')" >/dev/null 2>&1
}

# python_of VERSION: print a Python of that version (such as 3.12); fail when the machine has none.
python_of() {
    local candidate
    if candidate=$(command -v "python$1") && works_as "$candidate" "$1"; then
        printf '%s\n' "$candidate"
        return 0
    fi
    if command -v pyenv >/dev/null 2>&1; then
        for candidate in "$(pyenv root)/versions/$1".*/bin/python; do
            if works_as "$candidate" "$1"; then
                printf '%s\n' "$candidate"
                return 0
            fi
        done
    fi
    candidate=$(command -v python3) && works_as "$candidate" "$1" && printf '%s\n' "$candidate"
}

# newest_python: print the newest Python that host and agent support.
newest_python() {
    local version
    for version in 3.13 3.12 3.11; do
        python_of "$version" && return 0
    done
    install_venv_module
    for version in 3.13 3.12 3.11; do
        python_of "$version" && return 0
    done
    fail "no Python 3.11, 3.12 or 3.13 with the venv module (Debian: apt-get install python3-venv)"
}

# install_venv_module: Debian's python3 comes without it; installed when we may.
install_venv_module() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 0
    say "Installing python3-venv"
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y python3-venv </dev/null >&2 ||
        { apt-get update -qq </dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y python3-venv \
            </dev/null; } >&2 || true
}

# oldest_python: print the oldest Python that the agent supports and the machine has.
oldest_python() {
    local version
    for version in 3.10 3.11 3.12 3.13; do
        python_of "$version" && return 0
    done
    return 1
}

# make_venv FOLDER PYTHON REQUIREMENT...: (re)make an environment; kept while Python, requirements and
# pyproject.toml are the same.
make_venv() {
    local folder=$1 python=$2
    shift 2
    local stamp
    stamp=$({ "$python" -VV; printf '%s\n' "$@"; cat "$repository/pyproject.toml"; } | sha256sum)
    if [ -x "$folder/bin/python" ] && [ "$(cat "$folder/stamp" 2>/dev/null)" = "$stamp" ]; then
        return 0
    fi
    say "Setting up $(basename "$folder") with $("$python" -V)"
    rm -rf "$folder"
    "$python" -m venv "$folder"
    "$folder/bin/python" -m pip install -qq --disable-pip-version-check --upgrade pip </dev/null
    "$folder/bin/python" -m pip install -qq --disable-pip-version-check "$@" </dev/null
    printf '%s\n' "$stamp" >"$folder/stamp"
}

# project_venv: make `.venv` with everything, and print its folder.
project_venv() {
    make_venv "$repository/.venv" "$(newest_python)" --editable "$repository[dev]" >&2
    printf '%s\n' "$repository/.venv"
}
