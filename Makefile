# Worker Nodes on Demand. On a fresh Debian 12, as root: `make demo`, `make test`. Nothing else is needed before.
SHELL := /bin/sh
PYTHON := .venv/bin/python
STAMP := build/setup.done

.PHONY: help setup demo test check unit contract e2e simulate torture growth model properties mutants fuzz bench bench-daemons clean lab-up lab-shell lab-status lab-down images

help:           ## this list
	@grep -hE '^[a-z0-9-]+: .*## ' $(MAKEFILE_LIST) | sed 's/: .*## /\t/' | expand -t 14

setup: $(STAMP) ## install what is needed (packages, virtual environment)

$(STAMP): deploy/setup.sh pyproject.toml
	@mkdir -p build
	@deploy/setup.sh
	@touch $@

demo: $(STAMP)  ## users' jobs run in virtual worker nodes, on a real Slurm and real QEMU
	@$(PYTHON) -m deploy.demo

test: $(STAMP)  ## every test: unit, contract, the main path on the real thing; and `make check`
	@$(MAKE) --no-print-directory check
	$(PYTHON) -m pytest

unit: $(STAMP)  ## the tests that need neither root nor the real thing
	$(PYTHON) -m pytest -m 'not real and not e2e'

contract: $(STAMP) ## the suites that fakes and the real things pass alike
	$(PYTHON) -m pytest tests/contract

e2e: $(STAMP)   ## the main path, with real faults
	$(PYTHON) -m pytest tests/e2e

SEEDS ?= 200
HOSTS ?= 8
JOBS ?= 60
FAULTS ?= all

simulate: $(STAMP) ## whole clusters with faults on a virtual clock: SEEDS=n HOSTS=h JOBS=j FAULTS=all|none|kinds
	$(PYTHON) -m tests.simulation --seeds $(SEEDS) --hosts $(HOSTS) --jobs $(JOBS) --faults $(FAULTS)

MINUTES ?= 2
SEED ?= 1

torture: $(STAMP) ## real jobs in the lab, real faults at random for MINUTES=m from SEED=s; the judge is the jobs' own ledger
	@$(PYTHON) -m tests.torture --minutes $(MINUTES) --seed $(SEED)

growth: $(STAMP) ## what a simulated job costs on 500 hosts, beside 50
	$(PYTHON) -m tests.simulation --growth

model: $(STAMP) ## the hand-off explored exhaustively, with a mutant for each rule
	$(PYTHON) -m tests.model

ROUNDS ?= 10

bench: $(STAMP) ## wnod against a bare node, Slurm's cloud nodes and a prologue with ssh: ROUNDS=n (build/bench)
	@$(PYTHON) -c 'import matplotlib' 2>/dev/null || \
	    $(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@$(PYTHON) -m tests.bench --rounds $(ROUNDS)

bench-daemons: $(STAMP) ## the daemons alone: requests/s, 500 jobs at once, 1 000 VMs, restarts, beside floors (build/bench/daemons.json)
	@$(PYTHON) -m tests.bench.daemons

INPUTS ?= 100000

fuzz: $(STAMP) ## what strangers may send: frames, sessions, guest lines, journals: INPUTS=n
	$(PYTHON) -m tests.fuzz --inputs $(INPUTS)

properties: $(STAMP) ## every property with 2 000 drawn examples; the gate draws fewer, and the same ones on each run
	$(PYTHON) -m pytest -m hypothesis --hypothesis-profile=wide tests/unit

mutants: $(STAMP) ## every rule R1 to R15 taken out, and who notices: the model or the simulator
	$(PYTHON) -m tests.simulation.table

check: $(STAMP) ## ruff, mypy, import-linter, shellcheck, budgets
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy deploy/lab deploy/demo
	.venv/bin/lint-imports
	shellcheck deploy/setup.sh deploy/lrms/slurm/build.sh deploy/lrms/slurm/prolog deploy/lrms/slurm/epilog
	$(PYTHON) -m pytest -q tests/unit/test_budgets.py

images: $(STAMP) ## build the images of the lab's environments (kept in build/images)
	@$(PYTHON) -m deploy.lab images

lab-up: $(STAMP) ## start the lab with wnod on it, to play with
	@$(PYTHON) -m deploy.lab up

lab-shell: $(STAMP) ## a shell as user alice, with sbatch
	@$(PYTHON) -m deploy.lab shell

lab-status: $(STAMP) ## the lab on one screen
	@$(PYTHON) -m deploy.lab status

lab-down: $(STAMP) ## end the lab; leaves nothing
	@$(PYTHON) -m deploy.lab purge

clean:          ## remove what was built, the virtual environment and the lab's files
	-@[ -x $(PYTHON) ] && $(PYTHON) -m deploy.lab purge
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
