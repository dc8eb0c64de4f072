# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

.DEFAULT_GOAL := help
.PHONY: help venv test lint unit integration molecule build clean

# -ra: the run ends with the reason of each skip and failure, and with the counts.
PYTEST := .venv/bin/python -m pytest -ra

# Molecule looks for scenarios where they are.
export MOLECULE_GLOB := molecule/*/molecule.yml

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do printf '  make %-12s %s\n' "$$name" "$$what"; done

venv: ## make .venv with all Python requirements; no Debian package but Python's own
	@scripts/bootstrap venv tools

test: ## set-up and all checks
	@scripts/bootstrap venv tools packages
	@$(PYTEST)

lint: ## the fast part of the gate
	@scripts/bootstrap venv tools
	@$(PYTEST) tests/gate -m "not slow"

unit: ## the tests of decisions: no engine, no root
	@scripts/bootstrap venv tools
	@$(PYTEST) tests/unit

integration: ## the tests on an engine of their own
	@scripts/bootstrap venv tools packages
	@$(PYTEST) tests/integration

molecule: ## the Molecule scenarios
	@scripts/bootstrap venv tools packages
	@$(PYTEST) tests/molecule

build: ## the collection's tarball, from the files git knows
	@scripts/bootstrap venv tools
	@.venv/bin/python -m tests.gate.build .

clean: ## remove what the other targets made in the checkout
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .ansible tests/output hep-gridbox-*.tar.gz

# --- the demo: up, status, down -------------------------------------------------------------------------------------
