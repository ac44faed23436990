# make course    run every lesson from the top; pages in build/
# make lab       open the lessons in JupyterLab
# make test      what CI runs: ruff, unit tests, doctests, every notebook compared with its outputs
# make refresh   execute the lessons in place: the only way that committed outputs change
# make bench     time schedules, mixtures and flows against other libraries, and measure memory
# make tables    measure again, in about three hours, the tables in data/ that lessons 10 to 12 show
# make clean     remove build/ and caches; make clean-all removes the environment too
#
# The first call makes .venv from constraints.txt. Later calls need no network.
# Paths are relative, so that a clone may lie under a path with spaces. Scripts in .venv/bin name
# their Python by a path, which spaces break: everything runs as `python -m`.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
CELL_SECONDS := 600

.PHONY: course lab test lint unit notebooks refresh bench tables clean clean-all
.NOTPARALLEL:
.DEFAULT_GOAL := course

course: $(STAMP)
	$(PY) -m coursekit lessons

lab: $(STAMP)
	$(PY) -m jupyterlab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=notebooks

test: lint unit notebooks

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# One thread for each worker: small tensors gain nothing from more, and bits do not change.
unit: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --maxprocesses 4

# One notebook at a time with every core: lessons train for a fixed time and promise what it buys.
notebooks: $(STAMP)
	$(PY) -m pytest --nbval --nbval-current-env --nbval-cell-timeout=$(CELL_SECONDS) \
	    --nbval-kernel-startup-timeout=300 notebooks

refresh: $(STAMP)
	$(PY) -m coursekit lessons --refresh

# The one command that installs something more: the libraries to compare with.
bench: $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(PY) -m benchmarks.schedulers
	$(PY) -m benchmarks.mixtures
	$(PY) -m benchmarks.autoregressive
	$(PY) -m benchmarks.flows
	$(PY) -m benchmarks.modes
	$(PY) -m benchmarks.streaming
	$(PY) -m benchmarks.couplings

# One thread, as when the committed tables were made. Cells of sampler-calls.json that are there are kept.
tables: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.calls --number 1000 --slow-number 250
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.guidance --out data/guidance-sweep.json
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.completion --out data/missing-half.json
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.likelihoods

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find coursekit tests notebooks -name __pycache__ -prune -exec rm -rf {} +

clean-all: clean
	rm -rf $(VENV)

define SAY_NO_PYTHON
There is no "$(PYTHON)" here. Install Python 3.11 or later (Debian, Ubuntu: sudo apt install python3
python3-venv; macOS: brew install python), or name yours: make PYTHON=/path/to/python3.11
endef

define SAY_OLD_PYTHON
"$(PYTHON)" is too old: the course needs Python 3.11 or later. If another one is installed, name it:
make PYTHON=python3.11. It says:
endef

define SAY_NO_VENV
"$(PYTHON)" cannot make a virtual environment: its venv or ensurepip module is missing.
Debian and Ubuntu keep them in a package of their own: sudo apt install python3-venv
endef

define SAY_NO_INSTALL
The installation stopped; the message of pip above says where. The first call needs the network and
about 3 GB of disk. Nothing is lost: call make again and it continues.
endef

export SAY_NO_PYTHON SAY_OLD_PYTHON SAY_NO_VENV SAY_NO_INSTALL

# Fresh while neither file changed since the last complete installation.
$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { echo "$$SAY_NO_PYTHON" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "$$SAY_OLD_PYTHON" >&2; "$(PYTHON)" --version >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "$$SAY_NO_VENV" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[lab,test]' \
	    || { echo "$$SAY_NO_INSTALL" >&2; exit 1; }
	@touch $@
