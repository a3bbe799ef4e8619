#!/usr/bin/env bash
# Makes or reuses .venv, then: lint, types, import of every module, all tests.
# Further arguments go to pytest: bash scripts/test.sh -k atss
# In daily work, less than a minute: bash scripts/test.sh -m smoke
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup_env.sh
ensure_environment dev

echo "== lint"
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check --quiet .

echo "== types"
"$VENV/bin/mypy"

echo "== import of every module"
"$VENV/bin/python" scripts/import_all.py

echo "== tests"
# One thread for each test process, as the processes share the cores. Slow files come first
# (tests/conftest.py); a process that has finished its tests takes some from the others.
export OMP_NUM_THREADS=1
exec "$VENV/bin/python" -m pytest -n auto --dist worksteal "$@"
