# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From Vac's files to variables of the role: read and evaluated by Ansible, checked by the role's own specification,
and put together to the configuration that Vac's files mean."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from ansible_collections.hep.gridbox.plugins.module_utils.factory.configure import Wish
from ansible_collections.hep.gridbox.plugins.module_utils.factory.role_variables import documents
from ansible_collections.hep.gridbox.plugins.module_utils.factory.vac_conf import Converted, convert
from tests.gate.tools import ROOT
from tests.unit.factory.test_vac_conf import HOST, OWN, SITE
from tests.unit.roles.test_families import trusted

ROLE = ROOT / "roles/vacuum_factory"

#: What a site has whose names and texts mean something to YAML, to Ansible and to comments.
AWKWARD = """\
[settings]
vac_space = vac03.example.com
user_data_option_on = yes
user_data_option_null = ~
user_data_option_number = 0755
user_data_option_template = {{ lookup('pipe', 'id') }} and {% raw %}
user_data_option_text = "quoted" \\back é ☃ \U0001f600 # no comment: - [x] *a &b !c
  second line
user_data_file_cert = /etc/grid-security/hostcert.pem
machinefeatures_option_off = {# 1 #}
overload_per_processor = 0.00001
hs06_per_processor = 0.01
nonsense: [] {} {{ }}

[machinetype 1e3]
machine_model = docker
root_image = docker://a:1
user_data = run
user_data_option_on = s3cret-1
user_data_file_cert = own.pem

[vacuum_pipe no]
vacuum_pipe_url = https://a.example.org/p?x=1
user_data_option_token = s3cret-2 {{ x }}
user_data_proxy = true
"""

SITES = {"pipes": SITE, "own": [("/etc/vac.conf", OWN)], "awkward": [("/etc/vac.conf", AWKWARD)]}


@pytest.fixture(scope="module")
def ansible() -> None:
    """Its own plugins, the lookup of files among them."""
    init_plugin_loader()


def evaluated(made: Converted, folder: Path) -> dict[str, t.Any]:
    """The role's variables as a host has them, with the files beside the inventory; and what the role makes of them."""
    for name in made.files:
        path = folder / ".machinetypes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text_of(name))
    variables: dict[str, t.Any] = {"inventory_dir": str(folder)}
    found = documents(made)
    for name, text in (("variables", found.variables), ("vault", found.vault)):
        path = folder / f"{name}.yml"
        path.write_text(text)
        variables.update(DataLoader().load_from_file(str(path), trusted_as_template=True) or {})
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    whole = yaml.safe_load((ROLE / "vars/main.yml").read_text())["__vacuum_factory_configuration"]
    templar = Templar(DataLoader(), variables={**trusted(defaults), **variables, "whole": trusted(whole)})
    return {name: templar.template(templar.available_variables[name]) for name in (*variables, "whole")}


def text_of(name: str) -> str:
    """A file's content: what is in it is not Ansible's to evaluate, and no blank is lost."""
    return f"{{{{ not }}}} of {name}\n\n"


@pytest.mark.usefixtures("ansible")
@pytest.mark.parametrize("host", ["", HOST])
@pytest.mark.parametrize("site", SITES)
def test_the_role_makes_the_configuration_of_it(site: str, host: str, tmp_path: Path) -> None:
    made = convert(SITES[site], host)
    found = evaluated(made, tmp_path)
    whole = found.pop("whole")
    assert whole == made.configuration
    assert found["vacuum_factory_files"] == {name: text_of(name) for name in made.files}
    specification = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    own = {name: value for name, value in found.items() if not name.startswith(("vault_", "inventory_"))}
    assert ArgumentSpecValidator(specification).validate(own).error_messages == []
    # What the role's module checks, in check mode too.
    factory = {"name": HOST, **whole}
    wish = Wish.from_params(
        {
            "path": "/etc/hep.gridbox/factory.json", "program": "/usr/local/sbin/gridbox", "wait_timeout": 1,
            "configuration": json.dumps(factory), "files": own["vacuum_factory_files"], "key": None, "record": None,
            "wait": "none", "programs_awaited": True, "apptainer_awaited": True, "account_awaited": True, "unit": None,
        }
    )  # fmt: skip
    assert wish.configuration.machinetypes or wish.configuration.pipes


def test_what_may_be_a_secret_is_apart() -> None:
    found = documents(convert(SITES["awkward"]))
    assert "s3cret" not in found.variables
    assert found.vault.count("s3cret") == 2
    assert "lookup('pipe'" not in found.variables
    assert "!unsafe \"{{ lookup('pipe', 'id') }}" in found.vault
    assert "# /etc/grid-security/hostcert.pem\n  no/files/hostcert.pem: " in found.vault
    assert "own.pem" in found.vault
    assert "1e3/files/hostcert.pem" not in found.vault, "it has another file for that"


def test_what_was_not_carried_over_is_a_comment() -> None:
    """Whatever it says: it is no YAML, and no line of it is long."""
    made = convert(SITE)
    lines = documents(made).variables.splitlines()
    told = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    for note in made.notes:
        assert f"- {note}" in told
    assert max(map(len, lines)) <= 120
    awkward = convert([("f", "[settings]\nvac_space = a.org\na\x85b\u2028c: d = 1\n")])
    assert "\x85" in awkward.notes[0]
    assert yaml.safe_load(documents(awkward).variables) == {"vacuum_factory_configuration": {"space": "a.org"}}


def test_without_secrets_there_is_one_file() -> None:
    found = documents(convert([("f", "[settings]\nvac_space = a.org\nmb_per_processor = 1000\n")]))
    assert found.vault == ""
    assert yaml.safe_load(found.variables) == {
        "vacuum_factory_configuration": {"space": "a.org", "mb_per_processor": 1000}
    }


_SCALARS = st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.floats(1e-9, 1e15) | st.text()


@effort(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z0-9_]{1,8}", fullmatch=True),
        _SCALARS.filter(lambda value: value is not None) | st.lists(st.text(), max_size=3),
        max_size=5,
    )
)
def test_whatever_the_values_yaml_reads_them_back(values: dict[str, t.Any]) -> None:
    """Texts as texts, also where they look like something else."""
    text = documents(Converted({"machinefeatures_options": values}, (), {})).variables
    found = yaml.safe_load(text.replace(": !unsafe ", ": ").replace("- !unsafe ", "- "))
    assert found["vacuum_factory_configuration"]["machinefeatures_options"] == values
