# vlapic: everything it needs goes into .venv; no root, no compiler. Python 3.11 or newer has to be there.
#
#   make run      run the built-in guest `deadline`; others and options by ARGS="deadline-hlt --advance 0"
#   make test     run the tests, all but the hunts, and measure which lines of src/ the fast ones reach
#   make hunt     run the hunts: random walks, damaged files and programs, one implementation against another, at length
#   make check    check format, lint and types, and run the fast tests
#   make lint     check format, lint, types, and that imports point down
#   make bench    run the benchmarks
#   make docs     build the documentation: docs/_build/html/index.html
#   make changes  show what the next version brings: the fragments of changes/ as a section of CHANGES.md
#
# PYTHON=... says which Python makes .venv.

VENV := .venv
IN := $(VENV)/bin/python
INSTALL := $(IN) -m pip install --quiet --disable-pip-version-check
# On every core; the tests of a file stay together, for what they share.
PYTEST := $(IN) -m pytest -n auto --dist loadfile

.PHONY: run test hunt check lint bench docs changes
.DELETE_ON_ERROR:

run: $(VENV)/run.stamp
	@$(IN) -m vlapic run $(ARGS)

# Python code takes twice as long while its lines are traced, so only the fast tests are.
test: $(VENV)/dev.stamp
	$(PYTEST) -m "not slow and not hunt" --cov=vlapic
	$(PYTEST) -m "slow and not hunt"

hunt: $(VENV)/dev.stamp
	$(PYTEST) -m hunt

check: lint
	$(PYTEST) -m "not slow and not hunt"

lint: $(VENV)/dev.stamp
	$(IN) -m ruff format --check .
	$(IN) -m ruff check .
	$(IN) -m mypy
	$(VENV)/bin/lint-imports

bench: $(VENV)/dev.stamp
	@set -e; for file in benchmarks/*.py; do echo "$$file"; $(IN) "$$file"; done

docs: $(VENV)/docs.stamp
	$(IN) -m sphinx -W --keep-going -q -b html docs docs/_build/html

changes: $(VENV)/dev.stamp
	@$(VENV)/bin/towncrier build --draft 2>/dev/null

$(VENV)/run.stamp: pyproject.toml | $(IN)
	$(INSTALL) --editable .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(IN)
	$(INSTALL) --editable ".[dev]"
	@touch $@ $(VENV)/run.stamp

$(VENV)/docs.stamp: pyproject.toml | $(IN)
	$(INSTALL) --editable ".[docs]"
	@touch $@ $(VENV)/run.stamp

# ensurepip is what Debian's python3 leaves to the package python3-venv.
$(IN):
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	    if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        exec "$$python" -m venv --clear $(VENV); \
	    fi; \
	done; \
	echo "vlapic needs Python 3.11 or newer with venv: install python3 and, on Debian or Ubuntu, python3-venv" >&2; \
	exit 1
