# make demo       try it: example data, one run, its report
# make test       all checks and tests, in the image too
# make test-fast  the quick tests: two minutes on two processors
# make coverage   the quick tests again, with the lines that none of them runs
# make lint       ruff, mypy, import-linter, codespell, shellcheck
# make docs       build the documentation; says which page to open
# make image      build neuroferry.sif
# make venv       the environment that the tests run in
# make generated  option lists, settings files and tables of the documentation, from the settings
# make lock       new lock files from setup.cfg
# make clean      remove what these made
#
# All of them install what is missing first (Debian, Ubuntu; as root or with sudo), and leave alone
# what is done.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-fast coverage lint docs image venv generated lock clean

DEMO := demo
DOCTESTS := --doctest-modules --ignore-glob='*/conftest.py' --pyargs neuroferry
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# Tests that watch memory and schedulers, or fill the machine by themselves.
ALONE := tests/engine tests/cluster
SCRIPTS := .ci/run containers/build containers/lock containers/neuroferry containers/provision containers/test-cluster containers/test-gridengine containers/venv $(wildcard findings/*.sh)
SNIPPETS := $(wildcard src/neuroferry/engine/slurm/*.sh)

# Ends 0 with Apptainer, and says so in $$apptainer; goes on without it; stops when anything else is missing.
provision = code=0; containers/provision $(1) || code=$$?; \
	case $$code in 0) apptainer=yes ;; 3) apptainer= ;; *) exit $$code ;; esac

help:
	@sed -n 's/^\# \(make .*\)/\1/p' Makefile

demo:
	@$(call provision,); \
	if [[ $$apptainer ]] && containers/build >/dev/null; then \
		containers/neuroferry demo $(DEMO); \
	else \
		echo "demo: there is no image here; the same workflows run from a Python environment"; \
		"$$(containers/venv)/bin/neuroferry" demo $(DEMO); \
	fi

test:
	@$(call provision,--test); \
	venv=$$(containers/venv); \
	status=0; \
	$(MAKE) --no-print-directory lint VENV="$$venv" || status=1; \
	$(MAKE) --no-print-directory docs VENV="$$venv" || status=1; \
	if [[ $$apptainer ]]; then export NEUROFERRY_NEEDS_IMAGE=1; fi; \
	run() { "$$venv/bin/python" -m pytest "$$@" || status=1; }; \
	run tests $(ALONE:%=--ignore=%) $(DOCTESTS) $(SIDE_BY_SIDE); \
	run $(ALONE); \
	exit $$status

test-fast:
	@$(call provision,--test); \
	venv=$$(containers/venv); \
	status=0; \
	run() { "$$venv/bin/python" -m pytest -m 'not slow and not cluster' "$$@" || status=1; }; \
	run tests $(ALONE:%=--ignore=%) $(DOCTESTS) $(SIDE_BY_SIDE); \
	run $(ALONE) --ignore=tests/cluster; \
	exit $$status

# Apart from `make test`: counting lines takes half as long again.
coverage:
	@$(call provision,--test); \
	"$$(containers/venv)/bin/python" -m pytest -m 'not slow and not cluster' tests $(ALONE:%=--ignore=%) \
		$(DOCTESTS) $(SIDE_BY_SIDE) --cov --cov-report=term:skip-covered

image:
	@containers/provision
	@containers/build

venv:
	@$(call provision,); containers/venv

lint:
	@venv="$(VENV)"; \
	if [[ -z $$venv ]]; then $(call provision,--test); venv=$$(containers/venv); fi; \
	status=0; \
	check() { echo "lint: $$*"; "$$@" || { status=1; echo "lint: $$1 found something" >&2; }; }; \
	PATH="$$venv/bin:$$PATH"; \
	check ruff check .; \
	check ruff format --check .; \
	check mypy -p neuroferry; \
	check mypy --config-file tests/mypy.ini tests; \
	check lint-imports; \
	check codespell; \
	check shellcheck $(SCRIPTS); \
	check shellcheck --shell=bash --exclude=SC2034,SC2154,SC2317 $(SNIPPETS); \
	exit $$status

docs:
	@venv="$(VENV)"; \
	if [[ -z $$venv ]]; then $(call provision,--test); venv=$$(containers/venv); fi; \
	"$$venv/bin/python" -W "error:Unknown section:UserWarning" -m sphinx -W --keep-going -q -j auto -d .cache/doctrees docs .cache/docs; \
	echo "docs: open $$PWD/.cache/docs/index.html"

generated:
	@$(call provision,); "$$(containers/venv)/bin/python" -m neuroferry.cli.options --write

lock:
	@$(call provision,); containers/lock

clean:
	rm -rf .cache neuroferry.sif $(DEMO)
