# Palimpsest from a fresh clone: `make demo` and `make test` set up .venv themselves and need only git, make and
# Python >= 3.11. In an environment of your own (conda: environment.yml) call snakemake directly.

CORES ?= all
page = results/$(1)/index.html

# .venv first, so that whatever a recipe or a rule calls comes from it.
IN_VENV = PATH="$(CURDIR)/.venv/bin:$$PATH"
# The logger is ours: a count of jobs in place of Snakemake's ten lines for each. Snakemake looks for it on the path.
SNAKEMAKE = $(IN_VENV) PYTHONPATH="$(CURDIR)/src$${PYTHONPATH:+:$$PYTHONPATH}" snakemake --logger palimpsest

.PHONY: help demo laptop test test-avx2 test-stale test-all claims mutants checked clean-env

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "options: PYTHON=python3.12 (what .venv is made with), CORES=2 (default: all)"

demo: .venv/installed  ## every table, on data that comes with the packages
	$(SNAKEMAKE) --cores $(CORES)
	@echo "The page: $(call page,demo)"

laptop: .venv/installed  ## the same on real data that a CPU can carry (hours)
	$(SNAKEMAKE) --cores $(CORES) --config scale=laptop
	@echo "The page: $(call page,laptop)"

test: checked  ## lint, formats, types and tests
	$(IN_VENV) OMP_NUM_THREADS=1 pytest -n auto --dist loadfile --no-loadscope-reorder

# oneDNN, which computes torch's convolutions, then takes the code that it has for processors without AVX-512.
test-avx2: .venv/installed  ## the numeric tests as on an older processor
	$(IN_VENV) ONEDNN_MAX_CPU_ISA=AVX2 \
		pytest tests/test_train.py tests/test_unlearners.py tests/test_unlearner_proofs.py tests/test_own_base.py

test-stale: .venv/installed  ## ten random changes and kills in finished results (PALIMPSEST_TRIALS=100: a hundred)
	$(IN_VENV) pytest -m long tests/test_stale.py -k whatever

test-all: checked  ## the long tests too: twenty kills, and as root a SLURM of one node
	$(IN_VENV) pytest -rs -m "long or not long"

claims: demo  ## the tables of claims in README.md, from the demo's pages
	$(IN_VENV) PYTHONPATH=src python -m palimpsest.report.front README.md results/demo

mutants: .venv/installed  ## plant 200 faults in the code and count those that the tests find (an hour)
	$(IN_VENV) python tests/mutants.py --count 200

checked: .venv/installed
	$(IN_VENV) snakemake --lint
	$(IN_VENV) snakefmt --check Snakefile workflow
	$(IN_VENV) ruff check
	$(IN_VENV) ruff format --check
	$(IN_VENV) mypy

clean-env:  ## remove .venv; results stay
	rm -rf .venv

# Written last by setup.sh: an interrupted installation is taken up again, a changed lock is installed.
.venv/installed: requirements.lock workflow/setup.sh
	@PYTHON="$(PYTHON)" workflow/setup.sh
