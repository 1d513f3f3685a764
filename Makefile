# Two commands on a fresh machine (Python 3.11 or newer, make): `make demo`, `make test`.
PYTHON ?= python3
BIN := .venv/bin
DEMO := .demo/dataset

.PHONY: demo docs quick test test-costly test-long test-peers check format install clean

install:
	@$(PYTHON) .ci/install.py

# The main job on the real text that ships with us: lock, plan, tokenize, publish, verify, show, trace;
# then a minute of training, killed and resumed on two ranks, and the loss on the documents that it never saw.
demo: install
	@rm -rf .demo
	$(BIN)/bamba-data lock demo --out $(DEMO)
	$(BIN)/bamba-data plan demo --out $(DEMO)
	$(BIN)/bamba-data build demo --out $(DEMO)
	$(BIN)/bamba-data verify $(DEMO) --full
	$(BIN)/bamba-data show $(DEMO) --shards
	$(BIN)/bamba-data stats $(DEMO) --plot .demo/lengths.png
	$(BIN)/bamba-data trace $(DEMO) --document books:moby-dick-042
	@$(BIN)/python -c "import torch" 2>/dev/null || { echo "torch is not installed here: no training"; exit 0; }; \
	$(BIN)/python -m trainer.demo $(DEMO) .demo/run && $(BIN)/bamba-data model evaluate .demo/run --data $(DEMO)

# Three workers for two cores: a third of the tests waits for processes of its own most of the time.
test: install check
	$(BIN)/python -m pytest -n 3 --dist worksteal --durations 15 -m "not long and not peers"

# Units alone, while one edits: no build, no process, no server, no compiler, and fewer examples of each property.
quick:
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal --hypothesis-profile quick -m "not slow and not long and not peers"

# The dearest cases of what `make test` tests by one of its kind, and whole clusters: CI runs them after it.
test-costly: install
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 15 -m "costly and not peers"

# The costly ones and the long sweeps: crash points, bit flips, permutations, 10,000 shards.
test-long: install
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "long and not peers" --timeout 3600

# Ours beside other libraries and other versions of them, in environments that pip makes in .peers.
test-peers: install
	$(BIN)/python -m pytest -m peers --timeout 3600

# The documentation site, into .site; a broken link, page or reference fails it.
docs: install
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "the site is .site/index.html"

# Style, strict types, import layers.
check: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf .venv .peers .demo .site build dist *.egg-info
