# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

.DEFAULT_GOAL := help
.PHONY: help venv test lint unit integration molecule fleet fleet-down test-fleet build clean

# -ra: the run ends with the reason of each skip and failure, and with the counts.
PYTEST := .venv/bin/python -m pytest -ra

# A run waits for engines now and then; tests/conftest.py says what may run beside what. The folder of a run has a short
# name, for paths of sockets (107 characters) and of Podman's folders (50) are in it.
WORKERS := --numprocesses 4 --dist loadscope --no-loadscope-reorder

# Molecule looks for scenarios where they are.
export MOLECULE_GLOB := molecule/*/molecule.yml

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do printf '  make %-12s %s\n' "$$name" "$$what"; done

venv: ## make .venv with all Python requirements; no Debian package but Python's own
	@scripts/bootstrap venv tools

test: ## set-up and all checks
	@scripts/bootstrap venv tools packages
	@$(PYTEST) $(WORKERS) -m "not fleet" --basetemp="$$(mktemp --directory /tmp/gbt.XXXXXX)"

lint: ## the fast part of the gate
	@scripts/bootstrap venv tools
	@$(PYTEST) tests/gate -m "not slow"

unit: ## the tests of decisions: no engine, no root
	@scripts/bootstrap venv tools
	@$(PYTEST) tests/unit

integration: ## the tests on an engine of their own
	@scripts/bootstrap venv tools packages
	@$(PYTEST) tests/integration

molecule: ## the Molecule scenarios of `make test`: all as they stand, but vobox_host
	@scripts/bootstrap venv tools packages
	@$(PYTEST) tests/molecule -m "not fleet"

# Hosts to play with: NAME=native|vm[:SUITE[:IMAGE]] each, see tests/lab/fleet.py.
FLEET ?= host1=native:bookworm host2=native:trixie vm1=vm:bookworm:engine

fleet: ## bring up a fleet of hosts on one LAN to play with, and print how to log in; FLEET="..." says which
	@scripts/bootstrap venv tools packages
	@.venv/bin/python -m tests.lab.fleet start fleet $(FLEET)

fleet-down: ## take the fleet away
	@scripts/bootstrap venv tools
	@.venv/bin/python -m tests.lab.fleet stop fleet

test-fleet: ## all Molecule scenarios on hosts, on virtual machines too, and what else `make test` leaves out: some hours
	@scripts/bootstrap venv tools packages
	@$(PYTEST) -m "fleet or hosts" --basetemp="$$(mktemp --directory /tmp/gbt.XXXXXX)"

build: ## the collection's tarball, from the files git knows
	@scripts/bootstrap venv tools
	@.venv/bin/python -m tests.gate.build .

clean: ## remove what the other targets made in the checkout
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .ansible tests/output hep-gridbox-*.tar.gz

# --- the demo: up, status, down -------------------------------------------------------------------------------------
# Two VO-boxes and a factory on this machine, on a LAN and with an engine of the demo's own: inventories/demo says how.
# Ansible keeps its files in .cache, so that nothing of the demo is left elsewhere; pipelining is quicker.
DEMO := ANSIBLE_HOME=$(CURDIR)/.cache/ansible ANSIBLE_REMOTE_TMP=$(CURDIR)/.cache/ansible/tmp \
	ANSIBLE_ASYNC_DIR=$(CURDIR)/.cache/ansible/async ANSIBLE_PIPELINING=true ANSIBLE_DISPLAY_SKIPPED_HOSTS=false \
	ANSIBLE_CALLBACKS_ENABLED=hep.gridbox.changes .venv/bin/ansible-playbook --inventory inventories/demo

up: demo-root ## set-up and main job: bring up the demo, two VO-boxes and a vacuum factory on this machine
	@scripts/bootstrap venv
	@$(DEMO) hep.gridbox.demo

status: demo-root ## print the tables of the demo's VO-boxes and slots
	@scripts/bootstrap venv
	@ANSIBLE_DISPLAY_OK_HOSTS=false $(DEMO) hep.gridbox.status hep.gridbox.slots

down: demo-root ## take away all that `make up` made, except .venv and .cache
	@scripts/bootstrap venv
	@$(DEMO) hep.gridbox.demo_remove --extra-vars gridbox_remove=yes

.PHONY: up status down demo-root
demo-root:
	@[ "$$(id -u)" = 0 ] || { echo "The demo makes network namespaces and starts an engine: run make as root." >&2; exit 1; }
