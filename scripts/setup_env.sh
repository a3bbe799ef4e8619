# The other scripts source this file. It makes or reuses .venv and installs this project into it.
# $CVPODS_VENV names another folder, $PYTHON another Python.

# Print the first Python that can be used. The versions with which the tests were run come first;
# README.md, "Install", has the table.
find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3.10 python3.14 python3; do
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' \
            >/dev/null 2>&1; then
            echo "$candidate"
            return 0
        fi
    done
    echo "Python 3.10 or newer with the module venv was not found; name one: PYTHON=/path $0" >&2
    return 1
}

# ensure_environment [EXTRA]: make $VENV, with python and the commands in $VENV/bin.
ensure_environment() {
    local extra=${1:-} python stamp
    VENV=${CVPODS_VENV:-$PWD/.venv}
    # The stamp changes with the dependencies, so that an unchanged environment is reused at once.
    stamp="$VENV/.installed-${extra:-plain}-$(cksum <pyproject.toml | cut -d' ' -f1)"
    if [ -f "$stamp" ] && "$VENV/bin/python" -c 'import cvpods_ext' >/dev/null 2>&1; then
        return 0
    fi
    if [ ! -x "$VENV/bin/python" ]; then
        python=$(find_python) || return 1
        "$python" -m venv "$VENV" || return 1
    fi
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -e ".${extra:+[$extra]}" \
        || return 1
    touch "$stamp"
}
