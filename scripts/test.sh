#!/usr/bin/env bash
# Runs all tests: those on labs and those of CNI beside the others, for all wait much of their time for kernels and clocks.
set -uo pipefail
cd "$(dirname "$0")/.."
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
run() { .venv/bin/python -m pytest -p no:cacheprovider "$@"; }
run tests/lab >"$logs/labs" 2>&1 &
labs=$!
run tests/kernel/test_cni_*.py >"$logs/cni" 2>&1 &
cni=$!
status=0
run --ignore tests/lab --ignore-glob 'tests/kernel/test_cni_*.py' tests || status=$?
wait "$cni" || status=$?
echo "Tests of CNI in the kernel:"
cat "$logs/cni"
wait "$labs" || status=$?
echo "Tests on labs:"
cat "$logs/labs"
exit "$status"
