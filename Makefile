# make, or make help: what there is to make.
PYTHON ?= python3
VENV ?= .venv
# Tests at a time: most of them wait for a server.
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) \* 2)
BIN = $(VENV)/bin
# One process for the tests of one file, which share servers; the files of tests/live come first, for they take longest.
PYTEST = python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
# Of the locks: each file has the hash that stands there, and a build fetches nothing else.
INSTALL = pip install --quiet --disable-pip-version-check --no-build-isolation
LOCKED = $(INSTALL) --require-hashes --requirement

.PHONY: help run test matrix soak check format clean update test-latest test-lowest

help: # Show this list.
	@grep -E '^[a-z-]+:.* # ' Makefile | sed -E 's/:[^#]*# /\t/' | expand -t 14

run: $(VENV)/.run # The site on http://127.0.0.1:5000; PORT=5080 make run for another port.
	exec $(BIN)/uwsgi --ini uwsgi.ini

test: $(VENV)/.dev # The tests, on real uWSGI servers, but for the long ones.
	$(BIN)/$(PYTEST)

# Every test, with those that are marked "matrix" because they take long. SAMPLE=3/8: only the third eighth of these.
matrix: $(VENV)/.dev # All tests; SAMPLE=3/8: only the third eighth of the long ones.
	$(BIN)/$(PYTEST) $(if $(SAMPLE),-m matrix --sample $(SAMPLE),-m '')

# Jobs without end, with reloads and kills: SOAK_SECONDS=3600 make soak
soak: $(VENV)/.dev # Five minutes of jobs, with reloads and kills; SOAK_SECONDS=3600 for an hour.
	SOAK_SECONDS=$${SOAK_SECONDS:-300} $(BIN)/python -m pytest tests/live/test_soak.py -m '' -s

check: $(VENV)/.dev # Lint, format, types, import layers.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev # Mend what the linter can mend by itself.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: # Remove the environments.
	rm -rf $(VENV) $(VENV)-update $(VENV)-latest $(VENV)-lowest

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt requirements-build.txt pyproject.toml | $(BIN)/pip
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(VENV) has an older Python than 3.11: \
	make clean, then PYTHON=python3.11 make run")'
	$(BIN)/$(LOCKED) requirements-build.txt
	$(BIN)/$(LOCKED) requirements.txt
	$(BIN)/$(INSTALL) --no-deps --editable .
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(BIN)/$(LOCKED) requirements-dev.txt
	touch $@

# The locks, written anew with the newest versions: for every Python from 3.11 on, and for every machine.
LOCK = $(VENV)-update/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
	--generate-hashes --annotation-style line --custom-compile-command 'make update'
APP = --extra uwsgi --extra app
GROUPS = --group test --group check

update: $(VENV)-update/bin/uv # Write the lock files anew, with the newest versions.
	$(LOCK) --group build --output-file requirements-build.txt
	$(LOCK) pyproject.toml $(APP) $(GROUPS) --output-file requirements-dev.txt
	$(LOCK) pyproject.toml $(APP) --constraint requirements-dev.txt --output-file requirements.txt

$(VENV)-update/bin/uv:
	$(PYTHON) -m venv $(VENV)-update
	$(VENV)-update/bin/pip install --quiet --disable-pip-version-check uv

# What the newest versions of everything make of it: to be read, it fails for nothing.
test-latest: # A report: the tests with the newest versions of everything.
	$(PYTHON) -m venv --clear $(VENV)-latest
	$(VENV)-latest/bin/pip install --quiet --upgrade pip
	$(VENV)-latest/bin/pip install --quiet --editable '.[uwsgi,app]' --group test
	$(VENV)-latest/bin/pip list
	-$(VENV)-latest/bin/$(PYTEST)

# The lower bounds of pyproject.toml, on the lowest Python that there is here.
test-lowest: $(VENV)-update/bin/uv # Tests with the lower bounds of pyproject.toml.
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-update/bin/uv pip compile pyproject.toml --quiet --python $(VENV)-lowest/bin/python --no-annotate \
		--resolution lowest-direct $(APP) --group build --group test --output-file $(VENV)-lowest/requirements.txt
	grep ^setuptools== $(VENV)-lowest/requirements.txt | xargs $(VENV)-lowest/bin/$(INSTALL)
	$(VENV)-lowest/bin/$(INSTALL) --requirement $(VENV)-lowest/requirements.txt
	$(VENV)-lowest/bin/$(INSTALL) --no-deps --editable .
	$(VENV)-lowest/bin/$(PYTEST) tests/unit tests/live/test_application.py
