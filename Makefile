# `make demo` and `make test` each set up what they need in .venv; nothing else is needed but Python >= 3.10.
PYTHON ?= python3
BIN = .venv/bin
RUN = runs/demo/version_0

.PHONY: demo test test-oldest docs lint setup

setup: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -e ".[dev]"
	touch $@

demo: setup
	rm -rf runs/demo predictions/demo
	$(BIN)/python cli.py phantom --output data/phantom
	$(BIN)/python cli.py fit --config configs/demo.yaml
	$(BIN)/python cli.py test --config configs/demo.yaml --ckpt_path best
	$(BIN)/python cli.py predict --ckpt_path $(RUN)/checkpoints/best.ckpt \
		--input data/phantom/test_vol_h5/case0013.npy.h5 --output predictions/demo
	@echo
	@echo "Checkpoint:            $(RUN)/checkpoints/best.ckpt"
	@echo "Report:                runs/demo/version_1/report.html"
	@echo "Table of every case:   runs/demo/version_1/per_case.csv"
	@echo "Loss and Dice curve:   $(RUN)/training.png"
	@echo "Truth and prediction:  runs/demo/version_1/overlay.png"
	@echo "Predicted volume:      predictions/demo/case0013.npy.h5"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

# All tests with the oldest versions that pyproject.toml allows, resolved by uv.
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet --disable-pip-version-check uv
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct -e ".[dev]"
	.venv-oldest/bin/python -m pytest -n 2 --dist worksteal

docs: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[docs]"
	$(BIN)/mkdocs build --strict
