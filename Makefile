# Everything is installed into .venv, from pyproject.toml, by the target that needs it. Needed beforehand: git, make and
# python3 3.11 or newer with venv (on Debian and Ubuntu: apt-get install git make python3-venv).

PYTHON ?= python3
PY := .venv/bin/python
OLDEST := .venv-oldest/bin/python
# What depends on the versions of pydantic, pymongo and cryptography: tested on the oldest ones, too.
OLDEST_TESTS := tests/test_lossless.py tests/test_schema.py tests/test_codec.py tests/test_spec.py tests/test_spec_keystore.py tests/test_answer.py \
	tests/test_fast.py tests/test_packing.py tests/test_repository.py tests/test_flows.py tests/test_cursor.py \
	tests/test_provision.py tests/test_blind.py tests/test_search.py tests/test_reading.py tests/test_writing.py \
	tests/test_upkeep.py tests/test_transactions.py tests/test_watching.py

# Tests wait for mongod as long as they compute: as many processes as there are cores (as the system counts them, and four at
# most), each with a mongod of its own. A file stays in one process, which builds once what its tests share.
SPREAD := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test lint vectors bench soak clean _checks .venv/.softhsm

help: ## say what there is
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' Makefile

demo: .venv/.demo ## the whole trick in a few seconds, on a real MongoDB: examples/demo.py
	@echo "== make demo: running examples/demo.py"
	@$(PY) examples/demo.py || { status=$$?; echo "make demo: FAILED"; exit $$status; }

test: ## lint, then all tests with branch coverage, then what depends on versions again on the oldest ones supported
	@if $(MAKE) --no-print-directory _checks; then \
		echo "make test: all went well: lint, all tests, and what depends on versions on the oldest ones supported"; \
	else status=$$?; echo "make test: FAILED, see above"; exit $$status; fi

_checks: .venv/.dev .venv/.softhsm .venv-oldest/.installed lint
	@echo "== make test: all tests, on the newest versions"
	@MONGO_ENVELOPE_EVERY_KMS=$$(cat .venv/.softhsm) $(PY) -m pytest -m "not soak" $(SPREAD) --cov --cov-report=term
	@echo "== make test: what depends on versions, on the oldest ones supported:" $$(cat .venv-oldest/constraints.txt)
	@$(OLDEST) -m pytest -m "not soak" -p no:cacheprovider $(SPREAD) $(OLDEST_TESTS)

lint: .venv/.dev ## style, types and the direction of imports, without running anything
	@echo "== lint: ruff check"
	@$(PY) -m ruff check
	@echo "== lint: ruff format"
	@$(PY) -m ruff format --check
	@echo "== lint: mypy"
	@$(PY) -m mypy
	@echo "== lint: pyright"
	@$(PY) -m pyright
	@echo "== lint: import-linter"
	@.venv/bin/lint-imports

vectors: .venv/.dev ## write spec/vectors anew from spec/reference.py; fails if that changes anything in git
	@$(PY) spec/generate_vectors.py
	@git diff --exit-code --stat -- spec || { echo "make vectors: the files of spec/ have changed: see git diff"; exit 1; }
	@echo "make vectors: nothing has changed"

bench: .venv/.bench ## ours against plaintext, Beanie and CSFLE, in six minutes; ARGS=--docs writes docs/performance.md
	@echo "== make bench: running benchmarks/run.py $(ARGS)"
	@$(PY) -m benchmarks.run $(ARGS) || { status=$$?; echo "make bench: FAILED"; exit $$status; }

soak: .venv/.dev ## the long campaigns among the tests
	@$(PY) -m pytest -m soak || { status=$$?; echo "make soak: FAILED"; exit $$status; }
	@echo "make soak: all went well"

clean: ## remove the environments and all caches
	rm -rf .venv .venv-oldest .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- The environments. A stamp is older than pyproject.toml when that has changed since. --------------------------------

# $(1): the environment's folder. Made anew if its Python does not run, as after an upgrade of the system's. pip from
# Debian 12 is too old for --group.
define environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 …"; exit 1; }
	@$(1)/bin/python -m pip --version >/dev/null 2>&1 || \
		{ echo "== making $(1)"; $(PYTHON) -m venv --clear $(1); }
	@$(1)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
endef
install := -m pip install --disable-pip-version-check

.venv/.demo .venv/.bench: .venv/.%: pyproject.toml
	$(call environment,.venv)
	@echo "== installing the package and what make $* needs, a MongoDB included (about 70 MB, once)"
	@$(PY) $(install) --editable ".[$*]"
	@touch $@

.venv/.dev: pyproject.toml
	$(call environment,.venv)
	@echo "== installing the package, the tests, the linters and whom the benchmark measures, a MongoDB included (about 300 MB, once)"
	@$(PY) $(install) --editable ".[all,bench]" --group dev
	@touch $@

# SoftHSM2, for the tests of PKCS11KMS: the system's, or Debian's package unpacked here, which takes no root and changes nothing
# outside (but for apt's lists, if root has none). The stamp says 1 if the tests are to fail without it. Looked at every time.
.venv/.softhsm: .venv/.dev
	@PY=$(PY) sh tests/softhsm.sh > $@

.venv-oldest/.installed: pyproject.toml
	$(call environment,.venv-oldest)
	@echo "== installing the oldest versions that pyproject.toml allows"
	@$(OLDEST) -c "import tomllib; print(*(bound.replace('>=', '==') for bound in \
		tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']), sep='\n')" > .venv-oldest/constraints.txt
	@$(OLDEST) $(install) --constraint .venv-oldest/constraints.txt --editable ".[all]" --group test
	@touch $@
