# make run: the site on http://127.0.0.1:5000 (PORT=5080 make run for another port). make test: its tests.
PYTHON ?= python3
VENV ?= .venv
# Tests at a time: most of them wait for a server.
JOBS ?= $(shell expr $$(nproc) + 1)
BIN = $(VENV)/bin

.PHONY: run test matrix soak check format clean

run: $(VENV)/.run
	exec $(BIN)/uwsgi --ini uwsgi.ini

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# Every test, with those that are marked "matrix" because they take long.
matrix: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m ''

# Jobs without end, with reloads and kills: SOAK_SECONDS=3600 make soak
soak: $(VENV)/.test
	SOAK_SECONDS=$${SOAK_SECONDS:-300} $(BIN)/python -m pytest tests/live/test_soak.py -s

check: $(VENV)/.check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.check
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV)

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.run: pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --editable '.[uwsgi,app]'
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/pip install --quiet --group test
	touch $@

$(VENV)/.check: $(VENV)/.test
	$(BIN)/pip install --quiet --group check
	touch $@
