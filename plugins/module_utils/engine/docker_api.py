# Copyright (c) 2026, the hep.gridbox authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine, spoken to in the plain JSON of the Engine API.

One thin layer: it connects on first use, puts a time-out on every request, turns refusals into :class:`EngineError`
and "not found" into ``None``, and hands the engine's own JSON on. Over a Unix socket it needs Python alone
(:mod:`.unix_http`); for engines that are reached otherwise it takes the low-level client of the ``docker`` SDK, 5.0 of
Debian 12 to 7.2.
"""

from __future__ import annotations

import io
import json
import typing as t
from dataclasses import dataclass

from ansible_collections.hep.gridbox.plugins.module_utils.engine.unix_http import Answer, ask
from ansible_collections.hep.gridbox.plugins.module_utils.errors import EngineError, GridboxError

if t.TYPE_CHECKING:
    from ansible_collections.hep.gridbox.plugins.module_utils.engine.upload import Chunk

Json = t.Dict[str, t.Any]

#: Podman's own requests, below ``/libpod/``, have versions of their own; every Podman from 4.0 on takes this one.
_LIBPOD = "4.0.0"

#: What Docker says, with status 400, to a version of the Engine API that it has no more, or not yet (seen with 20.10
#: and 26.1). Podman takes any (seen with 4.3).
_OTHER_VERSION = ("client version", " is too ")


@dataclass(frozen=True)
class Platform:
    """What answers at the other end.

    :ivar name: ``docker`` or ``podman``.
    :ivar version: of the engine, for instance ``(20, 10, 24)``.
    :ivar api: of the Engine API in use, for instance ``(1, 41)``.
    """

    name: str
    version: tuple[int, ...]
    api: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}"


class DockerApi:
    """A connection to one engine.

    :param url: for instance ``unix:///var/run/docker.sock``.
    :param timeout: seconds without an answer (for streams: without a byte) after which a request fails.
    """

    def __init__(self, url: str, timeout: int) -> None:
        self.url = url
        self.timeout = timeout
        scheme, _separator, rest = url.partition("://")
        self._socket = rest if scheme == "unix" else ""
        self._client: t.Any = None
        self._api_version: t.Optional[str] = None
        self._platform: t.Optional[Platform] = None

    # ---- the connection -------------------------------------------------------------------------------------------

    @property
    def api_version(self) -> str:
        """The version of the Engine API in use: the newest that the engine has. Asked once, and again when the engine
        refuses it, in the way of Docker's own command: for ``/version`` Docker runs other programs, such as
        ``runc --version``, which takes longer and may hang.

        :raises EngineError: if the engine does not answer.
        """
        if self._api_version is None:
            request = "Talking to the engine"
            if self._socket:
                answer = self._over_the_socket(request, "GET", "/_ping", self.timeout)
                version = answer.headers.get("Api-Version")
                if answer.status_code != 200 or not version:
                    raise EngineError(request, f"no engine is at {self.url}: {_refusal(answer):.200}")
                self._api_version = str(version)
            else:
                self._api_version = str(self._sdk.api_version)
        return self._api_version

    @property
    def _sdk(self) -> t.Any:
        """The SDK's ``APIClient``.

        :raises EngineError: if the engine does not answer.
        :raises GridboxError: if the SDK is missing.
        """
        if self._client is None:
            try:
                # Imported on first use: it costs a module that needs no engine a tenth of a second.
                from docker import APIClient
                from docker.errors import DockerException
            except ImportError as exc:
                raise GridboxError(
                    f"The Python library docker is missing on this host, and {self.url} is no Unix socket. Install the"
                    " package python3-docker (Debian, Ubuntu, EPEL) or docker from PyPI for the interpreter in use."
                    f" ({exc})"
                ) from exc
            try:
                self._client = APIClient(base_url=self.url, version="auto", timeout=self.timeout)
            except DockerException as exc:
                raise EngineError("Talking to the engine", f"no answer at {self.url} ({exc})") from exc
        return self._client

    def _over_the_socket(
        self, request: str, method: str, target: str, timeout: float, stream: bool = False, **more: t.Any
    ) -> Answer:
        try:
            answer = ask(self._socket, method, target, timeout, **more)
            if not stream:
                _all = answer.content
        except OSError as exc:
            raise EngineError(request, f"no answer at {self.url} ({exc})") from exc
        return answer

    def reset(self) -> None:
        """Forget the connection; the next request makes a new one. For a forked process."""
        self._client = None

    def call(
        self,
        request: str,
        method: str,
        path: str,
        body: t.Optional[t.Mapping[str, t.Any]] = None,
        timeout: t.Optional[float] = None,
        ok: t.Container[int] = (),
        **params: t.Any,
    ) -> t.Any:
        """Send one request and return its JSON (or text, or None for an empty answer).

        :param request: what is asked, in words, for the error.
        :param path: below the API version, for instance ``/containers/json``.
        :param ok: refusals (HTTP status) that are fine; None is returned for them.
        :param params: the query.
        :raises EngineError: if the engine refuses or does not answer.
        """
        response = self.send(request, method, path, body=body, timeout=timeout, ok=ok, params=params)
        if response.status_code >= 400 or not response.content:
            return None
        if "json" in response.headers.get("Content-Type", ""):
            return response.json()
        return response.text

    def send(
        self,
        request: str,
        method: str,
        path: str,
        body: t.Optional[t.Mapping[str, t.Any]] = None,
        data: t.Any = None,
        headers: t.Optional[t.Mapping[str, str]] = None,
        timeout: t.Optional[float] = None,
        ok: t.Container[int] = (),
        params: t.Optional[t.Mapping[str, t.Any]] = None,
        stream: bool = False,
    ) -> t.Any:
        """Like :meth:`call`, but returns the :class:`Answer`, or from the SDK the ``requests.Response``; for streams in
        either direction. What breaks while it is read is an :class:`OSError`.

        An engine that has taken the place of an older or newer one is asked once more, in a version of the API that it
        has; not where the body is an iterator, which is spent.

        :param data: a request body that is sent as it is: bytes; where there is no Unix socket also an iterator of
            bytes, which are sent in chunks.
        :param stream: the answer is read as it comes; else it is here already.
        """
        sent = (request, method, path, body, data, headers, timeout, params, stream)
        response = self._ask(*sent)
        is_another = response.status_code == 400 and self._notice_another(_refusal(response))
        if is_another and (data is None or isinstance(data, bytes)):
            response = self._ask(*sent)
        if response.status_code >= 400 and response.status_code not in ok:
            raise EngineError(request, _refusal(response), response.status_code)
        return response

    def _ask(
        self,
        request: str,
        method: str,
        path: str,
        body: t.Optional[t.Mapping[str, t.Any]],
        data: t.Any,
        headers: t.Optional[t.Mapping[str, str]],
        timeout: t.Optional[float],
        params: t.Optional[t.Mapping[str, t.Any]],
        stream: bool,
    ) -> t.Any:
        """The answer to one request, whatever it is."""
        target = f"/v{_LIBPOD if path.startswith('/libpod/') else self.api_version}{path}"
        if self._socket:
            sent = {**(headers or {}), **({} if body is None else {"Content-Type": "application/json"})}
            raw = data if body is None else json.dumps(body).encode()
            return self._over_the_socket(
                request, method, target, timeout or self.timeout, stream, params=params, body=raw, headers=sent
            )
        client = self._sdk
        # The SDK has imported it already.
        from requests.exceptions import RequestException

        try:
            return client.request(
                method,
                f"{client.base_url}{target}",
                json=body,
                data=data,
                headers=headers,
                params={key: value for key, value in (params or {}).items() if value is not None},
                timeout=timeout or self.timeout,
                stream=stream,
            )
        except RequestException as exc:
            raise EngineError(request, f"no answer at {self.url} ({exc})") from exc

    def _notice_another(self, refusal: str) -> bool:
        """Forget what is known of an engine if another one has taken its place, which refuses the version of the API
        that the one before had. A factory's daemon is connected for months.

        :returns: whether that is so.
        """
        if not all(words in refusal for words in _OTHER_VERSION):
            return False
        self._client = self._api_version = self._platform = None
        return True

    # ---- the engine -----------------------------------------------------------------------------------------------

    @property
    def platform(self) -> Platform:
        """Who answers. Asked once, and again when the engine refuses the version of the API in use."""
        if self._platform is None:
            answer = self.call("Asking the engine for its version", "GET", "/version")
            parts = [part.get("Name", "") for part in answer.get("Components") or []]
            name = "podman" if any("Podman" in part for part in parts) else "docker"
            self._platform = Platform(name, version_tuple(answer["Version"]), version_tuple(self.api_version))
        return self._platform

    def info(self, timeout: t.Optional[float] = None) -> Json:
        """``docker info``."""
        return t.cast(Json, self.call("Asking the engine for its state", "GET", "/info", timeout=timeout))

    def events(
        self,
        since: float,
        until: float,
        filters: t.Optional[t.Mapping[str, t.Sequence[str]]] = None,
        timeout: t.Optional[float] = None,
    ) -> list[Json]:
        """What happened between two times (seconds since the epoch); the engine remembers the last 256 events."""
        response = self.send(
            "Asking the engine for its events",
            "GET",
            "/events",
            params={"since": f"{since:.9f}", "until": f"{until:.9f}", "filters": _filters(filters)},
            timeout=timeout,
        )
        return [json.loads(line) for line in response.text.splitlines()]

    # ---- containers -----------------------------------------------------------------------------------------------

    def container(self, name: str) -> t.Optional[Json]:
        """``docker inspect`` of a container, or None if there is none of that name or id."""
        return t.cast(
            t.Optional[Json],
            self.call(f"Looking at container {name}", "GET", f"/containers/{name}/json", ok=(404,)),
        )

    def container_size(self, name: str) -> t.Optional[int]:
        """Bytes that a container has written to its own root file system; None if there is no such container, or the
        engine cannot tell. It reads all of that each time."""
        seen = self.call(f"Measuring container {name}", "GET", f"/containers/{name}/json", ok=(404,), size="true")
        size = (seen or {}).get("SizeRw")
        return None if size is None else int(size)

    def containers(self, filters: t.Optional[t.Mapping[str, t.Sequence[str]]] = None) -> list[Json]:
        """The short records of all containers, running or not. ``filters`` as in the Engine API."""
        return t.cast(
            t.List[Json],
            self.call("Listing containers", "GET", "/containers/json", all="true", filters=_filters(filters)),
        )

    def create_container(self, name: str, body: t.Mapping[str, t.Any]) -> str:
        """Create a container and return its id. ``body``: the Engine API's own JSON."""
        answer = self.call(f"Creating container {name}", "POST", "/containers/create", body=body, name=name)
        return str(answer["Id"])

    def start_container(self, name: str) -> None:
        """Start a container; fine if it runs already."""
        self.call(f"Starting container {name}", "POST", f"/containers/{name}/start", ok=(304,))

    def stop_container(self, name: str, grace: int) -> None:
        """Stop a container; it is killed after ``grace`` seconds. Fine if it is stopped or gone."""
        self.call(
            f"Stopping container {name}",
            "POST",
            f"/containers/{name}/stop",
            timeout=self.timeout + grace,
            ok=(304, 404),
            t=grace,
        )

    def remove_container(self, name: str, force: bool = False, volumes: bool = False) -> None:
        """Remove a container; fine if it is gone.

        :param force: kill it first if it runs.
        :param volumes: remove its anonymous volumes, and what is in them, too.
        """
        self.call(
            f"Removing container {name}",
            "DELETE",
            f"/containers/{name}",
            ok=(404,),
            force="true" if force else "false",
            v="true" if volumes else "false",
        )

    def rename_container(self, name: str, new_name: str) -> None:
        """Give a container another name, running or not."""
        self.call(f"Renaming container {name} to {new_name}", "POST", f"/containers/{name}/rename", name=new_name)

    def update_container(self, name: str, settings: t.Mapping[str, t.Any]) -> None:
        """Change what can be changed of a living container: restart policy and resource limits."""
        self.call(f"Updating container {name}", "POST", f"/containers/{name}/update", body=settings)

    def restart_container(self, name: str, grace: int) -> None:
        """Stop a container, killing it after ``grace`` seconds, and start it again."""
        self.call(
            f"Restarting container {name}", "POST", f"/containers/{name}/restart", timeout=self.timeout + grace, t=grace
        )

    def signal_container(self, name: str, signal: str, timeout: t.Optional[float] = None) -> None:
        """Send a signal, for instance ``SIGHUP``, to PID 1 of a running container. After ``SIGKILL`` the answer comes
        when the container has ended, or the engine has waited for that."""
        request = f"Sending {signal} to container {name}"
        self.call(request, "POST", f"/containers/{name}/kill", timeout=timeout, signal=signal)

    def execute(self, name: str, argv: t.Sequence[str], timeout: float) -> tuple[int, str]:
        """Run a command in a running container and return its exit status and output. No shell is involved.

        :param timeout: seconds of silence after which it is given up; it may go on in the container.
        """
        request = f"Running {argv[0]} in container {name}"
        body = {"AttachStdout": True, "AttachStderr": True, "Cmd": list(argv)}
        made = self.call(request, "POST", f"/containers/{name}/exec", body=body)
        output = self.send(request, "POST", f"/exec/{made['Id']}/start", body={"Detach": False}, timeout=timeout)
        ended = self.call(request, "GET", f"/exec/{made['Id']}/json")
        return int(ended["ExitCode"] or 0), _text(pieces(io.BytesIO(output.content)))

    def output(self, name: str, lines: int, timestamps: bool = False) -> t.Generator[bytes, None, None]:
        """The last lines a container has printed, in pieces; nothing if its log driver cannot tell, or it is gone.

        :param timestamps: each line with its time.
        :raises EngineError: as all requests; also if the stream breaks.
        """
        request = f"Reading the output of container {name}"
        params = {"stdout": "true", "stderr": "true", "tail": lines, "timestamps": "true" if timestamps else None}
        response = self.send(
            request, "GET", f"/containers/{name}/logs", params=params, ok=(404, 409, 500, 501), stream=True
        )
        try:
            with response:
                if response.status_code == 200:
                    yield from pieces(io.BufferedReader(_Stream(response.iter_content(1 << 16))))
        except OSError as exc:
            raise EngineError(request, f"the connection ended ({exc})") from exc

    def last_words(self, name: str, lines: int = 5) -> str:
        """The last lines a container has printed, for an error; empty if its log driver cannot tell."""
        return _text(self.output(name, lines)).strip()[-500:]

    # ---- images ---------------------------------------------------------------------------------------------------

    def image(self, reference: str) -> t.Optional[Json]:
        """``docker image inspect``, or None if there is no such image."""
        return t.cast(
            t.Optional[Json],
            self.call(f"Looking at image {reference}", "GET", f"/images/{reference}/json", ok=(404,)),
        )

    def images(self) -> list[Json]:
        """The short records of all images, those without a name too."""
        return t.cast(t.List[Json], self.call("Listing images", "GET", "/images/json", all="true"))

    def image_history(self, reference: str) -> list[Json]:
        """``docker history``, the newest record first."""
        return t.cast(
            t.List[Json],
            self.call(f"Reading the history of image {reference}", "GET", f"/images/{reference}/history"),
        )

    def import_layer(self, name: str, layer: t.Iterable[Chunk], *changes: str) -> None:
        """``docker import``: make an image of one layer, streamed as an uncompressed tar.

        :param changes: instructions of a Dockerfile for its configuration, which is empty otherwise.
        """
        # With its tag: Podman 4.3 does not read a parameter of its own for it, and calls the image "latest".
        params: dict[str, t.Union[str, t.Sequence[str]]] = {"fromSrc": "-", "repo": name, "changes": changes}
        self._upload(f"Importing a layer as {name}", "/images/create", params, layer)

    def load_images(self, archive: t.Iterable[Chunk]) -> None:
        """``docker load``: make the images of an archive as ``docker save`` writes it."""
        self._upload("Loading an image", "/images/load", {"quiet": "true"}, archive)

    def tag_image(self, reference: str, name: str) -> None:
        """``docker tag``: give an image a name with a tag; another image that has it loses it, in one step."""
        repository, _colon, tag = name.rpartition(":")
        self.call(f"Tagging image {reference} as {name}", "POST", f"/images/{reference}/tag", repo=repository, tag=tag)

    def pull_image(self, reference: str, timeout: float) -> None:
        """``docker pull``; a name without tag or digest is that of ``latest``.

        :param timeout: seconds of silence after which it is given up.
        """
        request = f"Pulling {reference}"
        repository, tag = (reference, None) if "@" in reference else split_tag(reference)
        params = {"fromImage": repository, "tag": tag}
        response = self.send(request, "POST", "/images/create", params=params, stream=True, timeout=timeout)
        try:
            with response:
                read_messages(request, response.iter_lines(), response.status_code)
        except (OSError, ValueError) as exc:
            raise EngineError(request, f"the connection ended ({exc})") from exc

    def remove_image(self, reference: str) -> None:
        """``docker image rm``: take a name away, and the image with its last name. Fine if there is no such image."""
        self.call(f"Removing image {reference}", "DELETE", f"/images/{reference}", ok=(404,))

    def _upload(
        self,
        request: str,
        path: str,
        params: t.Mapping[str, t.Union[str, t.Sequence[str]]],
        chunks: t.Iterable[Chunk],
    ) -> None:
        """POST a long stream; the answer is a stream of messages. A failure in mid-stream is one of them, with status
        200."""
        from http.client import HTTPException
        from urllib.parse import urlencode

        from ansible_collections.hep.gridbox.plugins.module_utils.engine.upload import upload

        headers = {"Content-Type": "application/x-tar"}
        if self._socket:
            query = urlencode(params, doseq=True)
            target = f"/v{self.api_version}{path}?{query}"
            try:
                status, text = upload(self._socket, target, headers, chunks, self.timeout)
            except (OSError, HTTPException) as exc:
                raise EngineError(request, f"no answer at {self.url} ({exc})") from exc
            if status >= 400:
                self._notice_another(_message(text))  # the stream is spent, and the next request goes well
                raise EngineError(request, _message(text), status)
        else:
            response = self.send(request, "POST", path, data=iter(chunks), headers=headers, params=params)
            status, text = response.status_code, response.text
        read_messages(request, text.splitlines(), status)

    # ---- networks -------------------------------------------------------------------------------------------------

    def network(self, name: str) -> t.Optional[Json]:
        """``docker network inspect``, with its endpoints, or None if there is none of that name or id."""
        return t.cast(
            t.Optional[Json],
            self.call(f"Looking at network {name}", "GET", f"/networks/{name}", ok=(404,)),
        )

    def networks(self) -> list[Json]:
        """All networks, without their endpoints (the engine leaves those out of the list)."""
        return t.cast(t.List[Json], self.call("Listing networks", "GET", "/networks"))

    def create_network(self, body: t.Mapping[str, t.Any]) -> str:
        """Make a network from the Engine API's request and return its id."""
        answer = self.call(f"Making the network {body['Name']}", "POST", "/networks/create", body=body)
        return str(answer["Id"])

    def remove_network(self, name: str) -> None:
        """``docker network rm``; fine if there is none of that name or id."""
        self.call(f"Removing the network {name}", "DELETE", f"/networks/{name}", ok=(404,))

    def connect(self, network: str, container: str, endpoint: t.Mapping[str, t.Any]) -> None:
        """Attach a container to a network. ``endpoint``: the Engine API's ``EndpointConfig``."""
        if self.platform.name == "podman":
            # Its Docker-compatible request forgets the MAC (seen with 4.3.1); its own has the facts by other names.
            asked = endpoint.get("IPAMConfig") or {}
            own = {
                "container": container,
                "static_ips": [asked[key] for key in ("IPv4Address", "IPv6Address") if asked.get(key)],
                "static_mac": endpoint.get("MacAddress") or "",
                "aliases": list(endpoint.get("Aliases") or ()),
            }
            self.call(
                f"Connecting {container} to network {network}",
                "POST",
                f"/libpod/networks/{network}/connect",
                body={key: value for key, value in own.items() if value},
            )
            return
        self.call(
            f"Connecting {container} to network {network}",
            "POST",
            f"/networks/{network}/connect",
            body={"Container": container, "EndpointConfig": dict(endpoint)},
        )

    def disconnect(self, network: str, container: str, force: bool = False) -> None:
        """Detach a container from a network."""
        self.call(
            f"Disconnecting {container} from network {network}",
            "POST",
            f"/networks/{network}/disconnect",
            body={"Container": container, "Force": force},
        )


def split_tag(name: str) -> tuple[str, str]:
    """A name's repository and tag; ``latest`` if it has none. A colon before a slash is a port's."""
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, "latest")


def read_messages(request: str, lines: t.Iterable[t.Union[str, bytes]], status: int) -> None:
    """Read a stream of messages to its end; a failure in mid-stream is one of them, with status 200.

    :raises EngineError: if there is one, with the last words before it.
    """
    said: list[str] = []
    for line in lines:
        message = json.loads(line) if line.strip() else {}
        if message.get("stream", "").strip():
            said.append(message["stream"].strip())
        if message.get("error"):
            raise EngineError(request, " ".join([*said[-3:], str(message["error"])]), status)


def version_tuple(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: ``20.10.24+dfsg1`` is ``(20, 10, 24)``."""
    numbers: list[int] = []
    for part in text.split("."):
        digits = ""
        for character in part:
            if not character.isdigit():
                break
            digits += character
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


def _filters(filters: t.Optional[t.Mapping[str, t.Sequence[str]]]) -> t.Optional[str]:
    if not filters:
        return None
    return json.dumps({key: list(values) for key, values in filters.items()})


class _Readable(t.Protocol):
    """What can be read to its end, some bytes at a time."""

    def read(self, size: int) -> bytes:
        """As many bytes; fewer at the end only."""


class _Stream(io.RawIOBase):
    """A file of bytes that come one after the other."""

    def __init__(self, found: t.Iterator[bytes]) -> None:
        self._found, self._left = found, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: t.Any) -> int:
        self._left = self._left or next(self._found, b"")
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size


def pieces(stream: _Readable) -> t.Iterator[bytes]:
    """What a container has printed, out of the engine's stream. Without a terminal each piece has a header: stream,
    three zeros, length in four bytes. With one there are none, and all of it is the container's."""
    head, first = stream.read(8), True
    while head:
        if len(head) == 8 and head[0] in (0, 1, 2) and head[1:4] == b"\0\0\0":
            yield stream.read(int.from_bytes(head[4:], "big"))
        elif first:
            while head:
                yield head
                head = stream.read(1 << 16)
            return
        else:
            return  # cut short
        head, first = stream.read(8), False


def _text(found: t.Iterable[bytes]) -> str:
    return b"".join(found).decode(errors="replace")


def _refusal(response: t.Any) -> str:
    """The engine's own words in a refused response."""
    return _message(str(response.text)) or str(response.reason)


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text
