PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo rates test slow docs bench clean

demo: .venv/.relaysim                 ## RelaySGD and its rivals on handwritten digits
	$(BIN)/relaysim demo

rates: .venv/.relaysim                ## search the demo's learning rates again
	$(BIN)/relaysim demo --search

test: .venv/.tests                    ## style, types and all tests but the slow ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile

slow: .venv/.tests                    ## the slow tests
	$(BIN)/pytest -n 2 --dist loadfile -m slow

docs: .venv/.tests                    ## the site, in build/site
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env docs build/site

bench: .venv/.tests                   ## speed, as ratios measured side by side
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build *.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.relaysim: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/.tests: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,notebook,docs]'
	@touch $@ .venv/.relaysim
