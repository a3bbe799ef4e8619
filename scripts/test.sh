#!/usr/bin/env bash
# Make or reuse .venv; then run lint, types, an import of every module, and all tests.
# Further arguments are passed to pytest: bash scripts/test.sh -k atss
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
# Test processes share the cores, so each has one thread. tests/conftest.py puts long files first.
export OMP_NUM_THREADS=1
exec "$VENV/bin/python" -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@"
