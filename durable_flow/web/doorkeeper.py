"""Who may come in: the names this service goes by, where requests come from, and who sends them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request

import durable_flow as df
from durable_flow.web.problems import Refused

FORWARDED = frozenset(
    {"forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip"}
    | {"fastly-client-ip", "x-original-host", "x-original-url", "x-rewrite-url", "x-envoy-external-address"}
)
"""Headers by which it shows that a request came through somebody else, besides those that begin with x-forwarded."""

DEFAULT_PORTS = {"http": 80, "https": 443}


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who sends a request, as the host's `authorize` knows it.

    `name` is recorded as who approved, rejected, cancelled. `labels` are those that executions must have to be there
    for this principal: whatever it starts gets them, and it sees no other (children count as what started them).
    `on_behalf`: it may say in the body of a request that somebody else decided (`by`).
    """

    name: str | None = None
    labels: Mapping[str, str] = {}
    on_behalf: bool = False


Authorize = Callable[[Request, str, df.Execution | None], Awaitable[Principal | str | None]]
"""Says who sends a request, or refuses it."""

NEIGHBOUR = Principal(on_behalf=True)
"""Whoever sits at this machine."""


class Doorkeeper:
    """Turns away what must not come in. `authorize` is the host's; without one only this machine comes in.

    `hosts` are the names by which browsers and clients may call the service, besides those of this machine ("*": any);
    `origins` those of pages (`https://shop.example.com`) that may send changes from a browser, besides its own.
    """

    def __init__(self, authorize: Authorize | None, *, hosts: Sequence[str], origins: Sequence[str]) -> None:
        if isinstance(hosts, str) or isinstance(origins, str):
            raise df.ConfigError("hosts and origins are lists: hosts=['api.example.com']")
        if authorize is not None and not callable(authorize):
            raise df.ConfigError(f"authorize is an async function of (request, action, execution), not {authorize!r}")
        self._authorize = authorize
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    def admit(self, request: Request) -> None:
        """Raises Refused for a request by a name that is not ours, and from elsewhere where nobody authorises."""
        named = request.headers.getlist("host")
        host = _host_of(named[0]) if len(named) == 1 else None
        if host is None:
            raise Refused(400, "host", "A request has exactly one Host header, with a name and at most a port.")
        local = _is_loopback(host)
        if self._authorize is None:
            self._admit_neighbour(request, local=local)
        elif not (local or "*" in self._hosts or host in self._hosts):
            raise Refused(403, "host", f"This service does not go by the name {host!r}; its host can add it to hosts=.")

    def _admit_neighbour(self, request: Request, *, local: bool) -> None:
        why = "Without an authorize hook this API answers only requests that come straight from this machine"
        client = request.client
        if client is None or not _is_loopback(client.host):
            raise Refused(403, "remote", f"{why}; this one comes from elsewhere.")
        if not local:
            raise Refused(403, "host", f"{why}, to localhost or a loopback address.")
        for name in request.headers:
            if name in FORWARDED or name.startswith("x-forwarded"):
                raise Refused(403, "forwarded", f"{why}; this one was forwarded ({name}).")

    def check_origin(self, request: Request) -> None:
        """Raises Refused for a change that a page of somebody else sends."""
        origin = request.headers.get("origin")
        if origin is None:
            if request.headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
                return
        elif origin.lower() in self._origins or _same_place(origin, request.headers["host"]):
            return
        raise Refused(403, "origin", "Changes are not taken from pages of another origin; origins= can allow one.")

    async def identify(self, request: Request, action: str, execution: df.Execution | None) -> Principal:
        """Who sends a request. Raises what the hook does, and Refused where it does not know anybody."""
        if self._authorize is None:
            return NEIGHBOUR
        principal = await self._authorize(request, action, execution)
        if principal is None:
            raise Refused(401, "unauthenticated", "Say who you are.", headers={"WWW-Authenticate": "Bearer"})
        if isinstance(principal, str):
            return Principal(name=principal)
        if not isinstance(principal, Principal):
            raise df.ConfigError(f"authorize returns a Principal, a name or None, not {type(principal).__name__}")
        return principal


def _host_of(value: str) -> str | None:
    """The name in a Host header, in lower case and without its port; None for what is none."""
    try:
        parts = urlsplit(f"//{value}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return host


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _same_place(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
        asked = urlsplit(f"//{host}")
        default = DEFAULT_PORTS.get(parts.scheme)
        return (
            default is not None
            and parts.hostname == asked.hostname
            and (parts.port or default) == (asked.port or default)
        )
    except ValueError:
        return False
