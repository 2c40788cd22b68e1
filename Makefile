# Two commands do everything on a fresh Debian machine: `make up` and `make test`.
.PHONY: setup up down test check bench bench-proxy bench-cni bench-agent bench-dns bench-ingress bench-lb bench-trace fuzz-trace fuzz-parsers soak lock clean

setup:
	@scripts/setup.sh

up: setup
	@.venv/bin/glassnet up

down: setup
	@.venv/bin/glassnet down --all

check: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo 2>&1 | tail -n 6
	@.venv/bin/python -m pytest tests/meta

test:
	@TESTS=1 scripts/setup.sh
	@scripts/test.sh

bench:
	@TESTS=1 scripts/setup.sh
	@.venv/bin/python -m benchmarks

bench-proxy: setup
	@.venv/bin/python -m benchmarks proxy

bench-cni:
	@TESTS=1 scripts/setup.sh
	@.venv/bin/python -m benchmarks cni

bench-agent: setup
	@.venv/bin/python -m benchmarks agent

bench-dns:
	@TESTS=1 scripts/setup.sh
	@.venv/bin/python -m benchmarks dns

bench-ingress:
	@TESTS=1 scripts/setup.sh
	@.venv/bin/python -m benchmarks ingress

bench-lb:
	@TESTS=1 scripts/setup.sh
	@.venv/bin/python -m benchmarks loadbalancer cloud

bench-trace: setup
	@.venv/bin/python -m benchmarks trace reach

# Random rules and packets: the tracer against the kernel.
fuzz-trace:
	@TESTS=1 scripts/setup.sh
	@.venv/bin/python -m tests.fuzz_trace --packets 10000

# Ten minutes of churn under load; prints counts of errors.
soak: setup
	@.venv/bin/python -m benchmarks.proxy_soak

# Feeds damaged dumps to the parsers for a minute, guided by the lines they reach.
fuzz-parsers: setup
	@.venv/bin/python -m tests.fuzz_parsers --seconds 60

# Writes requirements.lock anew from pyproject.toml: exact versions with hashes, for every Python and machine glassnet supports.
lock:
	@.venv/bin/python -m pip install -q uv
	@.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --extra dev -o requirements.lock pyproject.toml

clean: down
	rm -rf .venv
