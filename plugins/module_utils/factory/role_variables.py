# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A factory's configuration as variables of the role vacuum_factory, in YAML, with what may be a secret apart. Pure.

It is for files of an inventory, such as ``group_vars/factories/``. The host need not have a library for YAML.
"""

from __future__ import annotations

import re
import textwrap
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.factory.vac_conf import Converted
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum import machinetype_keys as keys

#: Names for the two files.
VARIABLES, VAULT = "vacuum_factory.yml", "vacuum_factory_vault.yml"

#: Keys of the configuration that the role has a variable for.
_OWN = {"machinetypes": "vacuum_factory_machinetypes", "vacuum_pipes": "vacuum_factory_pipes"}

#: Texts that YAML reads as texts without quotes, unless they are words of it.
_PLAIN = re.compile(r"[A-Za-z/](?:[A-Za-z0-9_./@+=-]|:(?=[A-Za-z0-9_/]))*")
_WORDS = frozenset("y n yes no on off true false null none".split())

#: What Ansible would evaluate.
_TEMPLATE = re.compile(r"\{[{%#]")

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_WIDTH = 120

#: Beside the inventory, the folder of files for machinetypes. Ansible would read them as a part of the inventory, hence
#: run what is executable, but for the dot that the name begins with.
_FOLDER = ".machinetypes"


class Expression(str):
    """A template of Ansible's, which it is to evaluate. Any other text is to stay as it is."""

    __slots__ = ()


@dataclass(frozen=True)
class Documents:
    """Two files of an inventory.

    :ivar vault: what may be a secret; empty: there is none.
    """

    variables: str
    vault: str


def documents(made: Converted) -> Documents:
    """The files."""
    configuration = dict(made.configuration)
    variables: dict[str, t.Any] = {}
    vault: dict[str, t.Any] = {}
    options = configuration.pop("user_data_options", {})
    for key, variable in _OWN.items():
        sections, secrets = _apart(configuration.pop(key, {}), f"vault_{variable}")
        variables.update({variable: sections} if sections else {})
        vault.update({f"vault_{variable}": secrets} if secrets else {})
    variables = {"vacuum_factory_configuration": configuration, **variables}
    vault = {**({"vacuum_factory_user_data_options": options} if options else {}), **vault}
    what = "From Vac's configuration, by gridbox migrate: variables of the role hep.gridbox.vacuum_factory."
    told = [
        f"{what} A file such as group_vars/factories/{VARIABLES}.",
        *(["What may be a secret is in a file of its own."] if vault or made.files else []),
        *(["", "What was not carried over, and what is to be looked at:"] if made.notes else []),
        *(f"- {note}" for note in made.notes),
    ]
    text = f"---\n{_comment(told)}{_mapping(variables)}"
    if not vault and not made.files:
        return Documents(text, "")
    where = f"A file such as group_vars/factories/{VAULT}: encrypt it with ansible-vault encrypt."
    told = [f"What may be a secret, of the same. {where}"]
    return Documents(text, f"---\n{_comment(told)}{_mapping(vault) if vault else ''}{_files(made.files)}")


def _apart(sections: t.Mapping[str, t.Mapping[str, t.Any]], vault: str) -> tuple[dict[str, t.Any], dict[str, t.Any]]:
    """Machinetypes or pipes with their user_data options taken out, and these.

    :param vault: the variable in which these are to be.
    """
    told: dict[str, dict[str, t.Any]] = {}
    secrets: dict[str, dict[str, t.Any]] = {}
    for name, section in sections.items():
        told[name] = {}
        for key, value in section.items():
            if (keys.substitution(key) or ("",))[0] == "option":
                secrets.setdefault(name, {})[key] = value
                told[name][key] = Expression(f"{{{{ {vault}['{name}']['{key}'] }}}}")
            else:
                told[name][key] = value
    return told, secrets


def _files(files: t.Mapping[str, str]) -> str:
    """The variable with the files: each is looked up beside the inventory, where its own text may be in a vault."""
    if not files:
        return ""
    told = (
        f"Files for machinetypes. Copy Vac's folder /var/lib/vac/machinetypes to {_FOLDER} beside the inventory, with"
        " those that Vac has elsewhere, and encrypt keys in it with ansible-vault: they are opened here. Keep the dot:"
        " a folder without it Ansible takes for a part of the inventory, and runs what is executable in it."
    )
    lines = [_comment([told]), "vacuum_factory_files:\n"]
    for here, there in files.items():
        found = f"inventory_dir ~ '/{_FOLDER}/{here}'"
        lines.append(_comment([there], "  "))
        value = Expression(f"{{{{ lookup('ansible.builtin.file', {found}, rstrip=false) }}}}")
        lines.append(f"  {_scalar(here)}: {_scalar(value)}\n")
    return "".join(lines)


# ---- YAML --------------------------------------------------------------------------------------------------------


def _comment(sentences: t.Iterable[str], indent: str = "") -> str:
    """Sentences as comments, whatever they say: nothing of them can be read as YAML."""
    lines: list[str] = []
    for sentence in sentences:
        text = "".join(one if one.isprintable() else " " for one in sentence)
        begin, then = f"{indent}# ", f"{indent}#{'   ' if text.startswith('- ') else ' '}"
        found = textwrap.wrap(
            text, _WIDTH, initial_indent=begin, subsequent_indent=then, break_long_words=False, break_on_hyphens=False
        )
        lines += found or [f"{indent}#"]
    return "".join(f"{line}\n" for line in lines)


def _mapping(values: t.Mapping[str, t.Any], indent: str = "") -> str:
    lines = []
    for key, value in values.items():
        begin = f"{indent}{_scalar(key)}:"
        if isinstance(value, dict) and value:
            lines.append(f"{begin}\n{_mapping(value, f'{indent}  ')}")
        elif isinstance(value, list) and value:
            lines.append(f"{begin}\n" + "".join(f"{indent}  - {_scalar(one)}\n" for one in value))
        else:
            lines.append(f"{begin} {_scalar(value)}\n")
    return "".join(lines)


def _scalar(value: t.Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text else text.replace("e", ".0e")  # 1e-05 is a text in YAML 1.1
    if isinstance(value, (int, dict, list)):  # the last two are empty
        return repr(value)
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return str(value)
    quoted = f'"{"".join(map(_escaped, value))}"'
    return f"!unsafe {quoted}" if _TEMPLATE.search(value) and not isinstance(value, Expression) else quoted


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    return f"\\U{ord(character):08X}"
