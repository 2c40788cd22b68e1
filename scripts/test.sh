#!/usr/bin/env bash
# Runs all tests, in five processes side by side: most of their time they wait for kernels, processes and clocks.
set -uo pipefail
cd "$(dirname "$0")/.."
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
names=() pids=()
begin() {
  local name=$1
  shift
  .venv/bin/python -m pytest -p no:cacheprovider "$@" >"$logs/$name" 2>&1 &
  names+=("$name") pids+=($!)
}
begin labs-a-k tests/lab/test_[a-k]*.py
begin labs-l-z tests/lab/test_[l-z]*.py
begin cni tests/kernel/test_cni_*.py
begin kernel --ignore-glob 'tests/kernel/test_cni_*.py' tests/kernel
begin rest --ignore tests/lab --ignore tests/kernel tests
status=0
for number in "${!pids[@]}"; do
  wait "${pids[$number]}" || status=$?
  echo "Tests of ${names[$number]}:"
  cat "$logs/${names[$number]}"
done
exit "$status"
