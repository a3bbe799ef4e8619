#!/usr/bin/env bash
# Makes or reuses .venv, then: lint, types, import of every module, all tests.
# Further arguments go to pytest: bash scripts/test.sh -k atss
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
# One thread per test process: the processes share the cores; long files first (tests/conftest.py).
export OMP_NUM_THREADS=1
exec "$VENV/bin/python" -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@"
