# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Signed VacQuery messages between factories that share a key; a real Vac sees some keys that it does not know.

A signed message has these keys beside Vac's:

``hmac_time``   Unix seconds at which it was signed
``hmac_nonce``  random; in requests
``hmac_to``     the factory that is asked; in requests, so that one overheard is of no use at another factory
``hmac``        hexadecimal HMAC-SHA-256 of the datagram's bytes before this key, which is the last, and its comma

The bytes are signed, not what they mean, so nothing has to be written in one canonical way.

A request is accepted once, and only while its time is near: its nonce is remembered for as long. A reply is tied to its
request by the cookie, which is random and signed with it. Who holds the key can ask and answer as any factory: it
proves that one belongs to the space, not which factory one is.

The key is a file that nobody but its owner can read, with one secret in a line. The first line signs, all are accepted,
so a key is changed without a gap: the new one as the second line everywhere, then as the first, then alone.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import typing as t
from collections import OrderedDict

from ansible_collections.hep.gridbox.plugins.module_utils.errors import InputError
from ansible_collections.hep.gridbox.plugins.module_utils.vacuum.datagram import DatagramError, encode

#: Seconds by which the time in a message may differ from ours.
WINDOW = 60.0

_BEFORE, _AFTER = b',"hmac":"', b'"}'
_SIGNED = re.compile(rb'(.*),"hmac":"([0-9a-f]{64})"}', re.DOTALL)

#: Bytes that the signature adds to a reply.
SIGNATURE = 110

#: Characters of a secret, at least: 128 bits as hexadecimal digits.
_SHORTEST = 32
#: Bytes of a key file, at most.
_LARGEST_FILE = 65536
#: Requests that are remembered. More within the window means that the rate limit is off, or somebody has the key.
_REMEMBERED = 65536


class Key:
    """The secrets of a space. Neither ``repr`` nor an error shows them.

    :param secrets_: the first signs; all are accepted.
    """

    def __init__(self, *secrets_: bytes) -> None:
        self._secrets = secrets_

    def __repr__(self) -> str:
        return f"Key(<{len(self._secrets)} secrets>)"

    def sign(self, data: bytes, now: float, to: str = "") -> bytes:
        """The datagram with its signature.

        :param data: a JSON object that has a key.
        :param now: Unix seconds.
        :param to: for a request the factory it goes to; empty for a reply.
        """
        body = data[:-1] + b',"hmac_time":%d' % int(now)
        if to:
            body += b"," + encode({"hmac_to": to, "hmac_nonce": secrets.token_hex(16)})[1:-1]
        return body + _BEFORE + _digest(self._secrets[0], body) + _AFTER

    def verify(self, data: bytes, content: t.Mapping[str, t.Any], now: float) -> None:
        """Whether a datagram is signed by one that has the key, just now.

        :param content: what ``datagram.load`` found in it.
        :raises DatagramError: ``unsigned``, ``bad_signature``, ``stale``.
        """
        if "hmac" not in content:
            raise DatagramError("unsigned", "A message without signature.")
        found = _SIGNED.fullmatch(data)
        good = False
        if found is not None:
            for secret in self._secrets:
                good |= hmac.compare_digest(_digest(secret, found[1]), found[2])
        if not good:
            raise DatagramError("bad_signature", "A message that was signed with another key, or changed.")
        time = content.get("hmac_time")
        if isinstance(time, bool) or not isinstance(time, int) or not now - WINDOW <= time <= now + WINDOW:
            raise DatagramError("stale", f"A signed message whose time differs by more than {WINDOW:g} s from ours.")


def is_shaped_as_signed(data: bytes) -> bool:
    """Whether a datagram looks like a signed one, at a glance: who makes it up needs no key for that."""
    return _SIGNED.fullmatch(data) is not None


class Guard:
    """What a factory that is asked checks of signed requests: signature, time, addressee, and that each comes once.

    :param required: whether a request without signature is dropped; if not, real Vacs get their answers.
    """

    def __init__(self, key: Key, factory: str, required: bool = True) -> None:
        self.key, self.factory, self.required = key, factory, required
        self._seen: OrderedDict[str, float] = OrderedDict()

    def admit(self, data: bytes, content: t.Mapping[str, t.Any], now: float) -> bool:
        """Whether a request is signed, so that its answer is to be signed as well.

        :param content: what ``datagram.load`` found in the datagram.
        :param now: Unix seconds.
        :raises DatagramError: ``unsigned``, ``bad_signature``, ``stale``, ``not_for_us``, ``replayed``, ``table_full``.
        """
        if "hmac" not in content and not self.required:
            return False
        self.key.verify(data, content, now)
        nonce = content.get("hmac_nonce")
        if content.get("hmac_to") != self.factory or not isinstance(nonce, str):
            raise DatagramError("not_for_us", "A signed request for another factory.")
        # A time of up to WINDOW ahead is accepted, so a request can come again for twice as long.
        while self._seen and abs(now - next(iter(self._seen.values()))) > 2 * WINDOW:
            self._seen.popitem(last=False)
        if nonce in self._seen:
            raise DatagramError("replayed", "A signed request that came before.")
        if len(self._seen) >= _REMEMBERED:
            raise DatagramError("table_full", f"More than {_REMEMBERED} signed requests in {2 * WINDOW:g} s.")
        self._seen[nonce] = now
        return True


def load_key(path: str) -> Key:
    """Read the key file.

    :raises InputError: if it is missing, no file, not ours or root's, readable by others, or has no good secret.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise InputError("vacquery.key_file", path, f"a file that can be read ({exc.strerror})") from exc
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()):
            raise InputError("vacquery.key_file", path, "a file that is root's or this process's own")
        if status.st_mode & 0o077:
            raise InputError(
                "vacquery.key_file", path, "a file that only its owner can read",
                f"Its mode is {stat.S_IMODE(status.st_mode):04o}. Set 0600. If others have read it, change the secret.",
            )  # fmt: skip
        lines = os.read(number, _LARGEST_FILE).splitlines()
    finally:
        os.close(number)
    return Key(*check_secrets(b"\n".join(lines), "vacquery.key_file", path))


def check_secrets(content: bytes, option: str, value: str = "a value that is not shown") -> list[bytes]:
    """The secrets of a key file's content.

    :param option: that the content, or the file of this ``value``, was given by.
    :raises InputError: if there is no good one.
    """
    found = [line.strip() for line in content.splitlines() if line.strip()]
    if not found or any(len(secret) < _SHORTEST for secret in found):
        raise InputError(
            option, value, f"one secret or more in it, each a line of at least {_SHORTEST} characters",
            "`openssl rand -hex 32` makes one.",
        )  # fmt: skip
    return found


def _digest(secret: bytes, body: bytes) -> bytes:
    return hmac.new(secret, body, hashlib.sha256).hexdigest().encode("ascii")
