# make, or make help: a list of the targets.
PYTHON ?= python3
VENV ?= .venv
# Test processes at a time: two per core, because most tests wait for a server.
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) \* 2)
BIN = $(VENV)/bin
# The tests of one file share servers, so they run in one process; the files of tests/live take longest, so they come first.
# A process that a test has ended, or that took too long, is not replaced: it would run the same test again.
PYTEST = python -m pytest -rs -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --durations 25
# Packages come from the lock files: each has the hash that is recorded there, and a build downloads nothing else.
INSTALL = pip install --quiet --disable-pip-version-check --no-build-isolation
LOCKED = $(INSTALL) --require-hashes --requirement

.PHONY: help run test matrix celery screenshots soak bench bench-readme check format clean update test-latest test-lowest

help: # Show this list.
	@grep -E '^[a-z-]+:.* # ' Makefile | sed -E 's/:[^#]*# /\t/' | expand -t 14

run: $(VENV)/.run # The site on http://127.0.0.1:5000; PORT=5080 make run for another port.
	exec $(BIN)/uwsgi --ini uwsgi.ini

test: $(VENV)/.dev # All tests on real uWSGI servers, except the long ones.
	$(BIN)/$(PYTEST)

# Every test, including the long ones, which are marked "matrix".
matrix: $(VENV)/.dev # All tests; SAMPLE=3/8: only the third eighth of the long ones.
	$(BIN)/$(PYTEST) $(if $(SAMPLE),-m matrix --sample $(SAMPLE),-m '')

celery: $(VENV)/.dev # A few jobs in workers of Celery, over Redis and RabbitMQ: half a minute.
	$(BIN)/$(PYTEST) -m '' tests/live/test_celery.py -k jobs_run_in_a_worker

screenshots: $(VENV)/.dev # The pictures of docs/dashboard.md, with chromium.
	SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/browser/test_screenshots.py -m ''

soak: $(VENV)/.dev # Five minutes of jobs, with reloads and kills; SOAK_SECONDS=3600 for an hour.
	SOAK_SECONDS=$${SOAK_SECONDS:-300} $(BIN)/python -m pytest tests/live/test_soak.py -m '' -s

# FIGURES="drain http": only these. BENCH_JOBS, BENCH_ROUNDS; BENCH_PENDING=50000: again with delayed jobs pending;
# BENCH_BASE=../other: also the spoolkit of another checkout. BENCH_DIR: where the files of jobs lie. PLOTS=yes: plots.
BENCH_ENVS = $(if $(RIVALS),$(VENV)-bench-rivals/.made) $(if $(PLOTS),$(VENV)-bench-plots/.made)

BENCH_OUTPUT = build/bench$(if $(BENCH_PENDING),-pending)

bench: $(VENV)/.dev $(BENCH_ENVS) # Benchmarks, into build/bench; RIVALS=all: also against Celery, RQ, Huey and others.
	$(BIN)/python -m benchmarks $(FIGURES) $(if $(RIVALS),--rivals $(VENV)-bench-rivals) --output $(BENCH_OUTPUT)
	$(if $(PLOTS),$(VENV)-bench-plots/bin/python -m benchmarks.plots $(BENCH_OUTPUT))
	$(if $(FIGURES)$(BENCH_PENDING),,$(BIN)/python -m benchmarks.over_celery --away 20)

bench-readme: # All benchmarks on a quiet machine, into build/ and README.md: half an hour.
	$(MAKE) bench RIVALS=all
	$(MAKE) bench RIVALS=all BENCH_PENDING=50000
	$(BIN)/python -m benchmarks.readme build/bench/results.json build/bench-pending/results.json

$(VENV)-bench-%/.made: benchmarks/requirements-%.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/$(LOCKED) $<
	touch $@

check: $(VENV)/.dev # Lint, format, types, import layers.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev # Format, and fix what the linter can fix.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: # Remove the environments.
	rm -rf $(VENV) $(VENV)-update $(VENV)-latest $(VENV)-lowest $(VENV)-bench-rivals $(VENV)-bench-plots

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

# The lock files with the newest versions, for every Python from 3.11 on and for every platform.
LOCK = $(VENV)-update/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
	--generate-hashes --annotation-style line --custom-compile-command 'make update'
APP = --extra uwsgi --extra app
GROUPS = --group test --group check

update: $(VENV)-update/bin/uv # Update the lock files to the newest versions.
	$(LOCK) --group build --output-file requirements-build.txt
	$(LOCK) --group rivals --output-file benchmarks/requirements-rivals.txt
	$(LOCK) --group plots --output-file benchmarks/requirements-plots.txt
	$(LOCK) pyproject.toml $(APP) $(GROUPS) --output-file requirements-dev.txt
	$(LOCK) pyproject.toml $(APP) --constraint requirements-dev.txt --output-file requirements.txt
	$(LOCK) pyproject.toml --extra uwsgi --extra celery --group hosts --constraint requirements-dev.txt \
		--output-file examples/celery/requirements.txt

$(VENV)-update/bin/uv:
	$(PYTHON) -m venv $(VENV)-update
	$(VENV)-update/bin/pip install --quiet --disable-pip-version-check uv

# A report for people: it succeeds even if tests fail.
test-latest: # Report of the tests with the newest versions of everything.
	$(PYTHON) -m venv --clear $(VENV)-latest
	$(VENV)-latest/bin/pip install --quiet --upgrade pip
	$(VENV)-latest/bin/pip install --quiet --editable '.[uwsgi,app]' --group test
	$(VENV)-latest/bin/pip list
	-$(VENV)-latest/bin/$(PYTEST)

# With PYTHON=python3.11, the lowest Python as well.
test-lowest: $(VENV)-update/bin/uv # Tests with the lower bounds of pyproject.toml.
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-update/bin/uv pip compile pyproject.toml --quiet --python $(VENV)-lowest/bin/python --no-annotate \
		--resolution lowest-direct $(APP) --group build --group test --output-file $(VENV)-lowest/requirements.txt
	grep ^setuptools== $(VENV)-lowest/requirements.txt | xargs $(VENV)-lowest/bin/$(INSTALL)
	$(VENV)-lowest/bin/$(INSTALL) --requirement $(VENV)-lowest/requirements.txt
	$(VENV)-lowest/bin/$(INSTALL) --no-deps --editable .
	$(VENV)-lowest/bin/$(PYTEST) tests/unit tests/live/test_application.py
