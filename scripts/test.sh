#!/usr/bin/env bash
# Runs all tests: those on labs beside the others, for both wait most of their time for kernels and clocks.
set -uo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
.venv/bin/python -m pytest -p no:cacheprovider tests/lab >"$log" 2>&1 &
lab=$!
status=0
.venv/bin/python -m pytest --ignore tests/lab tests || status=$?
wait "$lab" || status=$?
echo "Tests on labs:"
cat "$log"
exit "$status"
