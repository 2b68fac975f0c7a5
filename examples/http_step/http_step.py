"""A step type `http`: one request, which can be retried, and cannot be turned against the network it is sent from.

It is an extension like any of your own: copy it, and change what you need. The engine brings what a durable request
needs (attempts, timeouts, the audit trail); this file brings HTTP, and what keeps a URL that somebody else wrote from
reaching what only this machine can reach.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import re
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Literal

import httpx2
import msgspec

import durable_flow as df

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing: they need no key that tells a repetition, and may be sent on to another host."""

AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers after which the same request may succeed."""

OURS = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
        "te",
        "trailer",
        "expect",
        "accept-encoding",
    }
    | {"proxy-authorization", "proxy-connection", "keep-alive"}
)
"""Headers that say how the message is sent: nobody else sets them."""

PUBLIC_HEADERS = frozenset({"accept", "accept-language", "user-agent"})
"""Headers that go along when another host is asked: they tell it nothing that was meant for the first one."""

REDIRECTS = 5
LONGEST_WAIT = 3600.0
"""Seconds that an answer may ask us to wait."""

Resolve = Callable[[str, int], Awaitable[Collection[str]]]


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`json` or `body` is what is sent. `expect` are the status codes that are an answer (else 200 to 299). `connect`,
    `read` and `total` are timeouts: of the connection, between two pieces of the answer, and of all of it."""

    url: df.Template
    method: Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    headers: df.Template | None = None
    json: df.Template | None = None
    body: df.Template | None = None
    expect: list[Annotated[int, msgspec.Meta(ge=100, le=599)]] = []
    connect: df.Duration = df.Duration(10)
    read: df.Duration = df.Duration(30)
    total: df.Duration = df.Duration(60)
    output: df.VariableName | None = None


class Http(df.StepType[HttpConfig]):
    name = "http"
    summary = "Sends an HTTP request; what it gives is {status, headers, body, url}."
    Config = HttpConfig
    works_outside = True
    reveals = frozenset({"url", "headers", "json", "body"})

    def check(self, config: HttpConfig) -> list[tuple[str, str]]:
        if config.json is not None and config.body is not None:
            return [("body", "'json' and 'body' cannot both be sent")]
        return []

    def deed(self, visit: df.Visit, config: HttpConfig) -> tuple[str, Any]:
        would, given = super().deed(visit, config)
        return f"{would} {config.method}", given

    async def run(self, visit: df.Visit, config: HttpConfig) -> df.Outcome:
        given = await visit.reveal(url=config.url, headers=config.headers, json=config.json, body=config.body)
        request = _request(config, given, key=visit.idempotency_key)
        async with asyncio.timeout(config.total):
            answer = await visit.resource.send(request, config)
        if answer["status"] not in config.expect if config.expect else not 200 <= answer["status"] < 300:
            raise _refusal(answer, now=visit.now)
        metadata = {"status": answer["status"], "bytes": answer.pop("bytes")}
        return df.Done(answer, () if config.output is None else (config.output,), metadata=metadata)


def http(
    *,
    hosts: Collection[str] | None = None,
    private: Collection[str] = (),
    max_bytes: int = 1_000_000,
    resolve: Resolve | None = None,
) -> df.Extension:
    """The extension. `hosts`: only these may be asked (`.example.com` stands for all below it). `private`: these, as
    `host:port`, may have an address that is not public. `max_bytes`: how long an answer may be, decompressed."""

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[Door]:
        # Connections are not kept: one that was opened, and proved by its certificate, for one host serves no other.
        limits = httpx2.Limits(max_connections=100, max_keepalive_connections=0)
        async with httpx2.AsyncHTTPTransport(trust_env=False, limits=limits) as transport:
            yield Door(
                transport, hosts=hosts, private=frozenset(private), max_bytes=max_bytes, resolve=resolve or looked_up
            )

    return df.Extension(name="http", step_types=(Http,), lifespan=lifespan)


class Door:
    """The way out: what is asked through it is checked at every hop, and goes to the address that was checked."""

    def __init__(
        self,
        transport: httpx2.AsyncBaseTransport,
        *,
        hosts: Collection[str] | None,
        private: Collection[str],
        max_bytes: int,
        resolve: Resolve,
    ) -> None:
        self._transport = transport
        self._hosts = hosts
        self._private = private
        self._max_bytes = max_bytes
        self._resolve = resolve

    async def send(self, request: httpx2.Request, config: HttpConfig) -> dict[str, Any]:
        """The answer, redirects followed."""
        for _ in range(REDIRECTS + 1):
            response = await self._hop(request, config)
            try:
                if not response.has_redirect_location or response.status_code in config.expect:
                    return await self._read(request, response)
            finally:
                await response.aclose()
            request = _redirected(request, response)
        raise df.NonRetryableError(f"more than {REDIRECTS} redirects")

    async def _hop(self, request: httpx2.Request, config: HttpConfig) -> httpx2.Response:
        url = request.url
        address = await self._address(url)
        timeout = httpx2.Timeout(float(config.read), connect=float(config.connect))
        pinned = httpx2.Request(
            request.method,
            url.copy_with(host=address),
            headers=request.headers,  # among them the Host that was asked for
            content=request.content,
            extensions={"timeout": timeout.as_dict(), "sni_hostname": url.host},
        )
        return await self._transport.handle_async_request(pinned)

    async def _address(self, url: httpx2.URL) -> str:
        """The address to connect to. It is looked up once, so that there is no second answer that was not checked."""
        port = url.port or (443 if url.scheme == "https" else 80)
        host = url.host
        if self._hosts is not None and not any(_is(host, allowed) for allowed in self._hosts):
            raise df.NonRetryableError(f"{host!r} is not among the hosts that may be asked")
        try:
            found = list(await self._resolve(host, port))
        except (OSError, UnicodeError) as error:
            raise df.StepError(f"{host!r} has no address: {error}", kind="HttpError") from None
        if not found:
            raise df.StepError(f"{host!r} has no address", kind="HttpError")
        if f"{host}:{port}" not in self._private and not all(map(is_public, found)):
            raise df.NonRetryableError(f"{host!r} is not a public host")
        return found[0]

    async def _read(self, request: httpx2.Request, response: httpx2.Response) -> dict[str, Any]:
        unpack, whole = _unpacker(response.headers.get("content-encoding", "identity").strip().lower())
        found = bytearray()
        raw = 0
        async for chunk in response.aiter_raw():
            raw += len(chunk)
            found += unpack(chunk, self._max_bytes + 1 - len(found))
            if max(raw, len(found)) > self._max_bytes:
                raise df.NonRetryableError(f"the answer has more than {self._max_bytes:,} bytes")
        if found and not whole():
            raise df.StepError("the answer ends too early", kind="HttpError")
        return {
            "status": response.status_code,
            "headers": dict(response.headers),
            "body": _content(bytes(found), response.headers.get("content-type", "")),
            "url": str(request.url),
            "bytes": len(found),
        }


async def looked_up(host: str, port: int) -> list[str]:
    """What the system's resolver says. It also reads numbers such as 2130706433 and 0x7f.1 as addresses."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[4][0]) for address in found))


def is_public(text: str) -> bool:
    """Whether an address is one that everybody could reach: not this machine, not its network, not what a cloud has for
    its own machines. An IPv6 address that stands for an IPv4 one is none either.

    >>> [is_public(text) for text in ("93.184.216.34", "10.0.0.1", "169.254.169.254", "100.64.0.1", "::ffff:127.0.0.1")]
    [True, False, False, False, False]
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and (
        address.ipv4_mapped is not None
        or address.sixtofour is not None
        or address.teredo is not None
        or any(address in network for network in _TRANSLATED)
    ):
        return False
    return address.is_global and not address.is_multicast


_TRANSLATED = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")))


def _is(host: str, allowed: str) -> bool:
    return host == allowed or (allowed.startswith(".") and host.endswith(allowed))


# --- requests ---------------------------------------------------------------------------------------------------------


def _request(config: HttpConfig, given: Mapping[str, Any], *, key: str) -> httpx2.Request:
    headers = _headers(given.get("headers"))
    content: bytes | None = None
    if "json" in given:
        content = msgspec.json.encode(given["json"])
        headers.setdefault("content-type", "application/json")
    elif "body" in given:
        if not isinstance(given["body"], str):
            raise df.NonRetryableError("body must be text; send other values as json")
        content = given["body"].encode()
    headers.setdefault("accept", "application/json, */*;q=0.8")
    headers["accept-encoding"] = "gzip, deflate"
    if config.method not in SAFE:
        headers.setdefault("idempotency-key", key)
    return httpx2.Request(config.method, _url(given["url"]), headers=headers, content=content)


def _url(text: object, *, seen_from: httpx2.URL | None = None) -> httpx2.URL:
    if not isinstance(text, str):
        raise df.NonRetryableError("url must be text")
    try:
        url = httpx2.URL(text) if seen_from is None else seen_from.join(text)
    except (httpx2.InvalidURL, ValueError) as error:
        raise df.NonRetryableError(f"url is none: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise df.NonRetryableError("url must begin with http:// or https:// and a host")
    if url.userinfo:
        raise df.NonRetryableError("url must not hold a password: send an authorization header")
    return url


def _headers(given: object) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise df.NonRetryableError("headers must be a mapping")
    found: dict[str, str] = {}
    for name, value in given.items():
        text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        if not _TOKEN.fullmatch(name):
            raise df.NonRetryableError(f"{name!r:.100} is not the name of a header")
        if name.lower() in OURS:
            raise df.NonRetryableError(f"the header {name!r} cannot be set here")
        if not isinstance(text, str) or not _VALUE.fullmatch(text):
            raise df.NonRetryableError(f"the header {name!r} has a value that no header can have")
        found[name.lower()] = text
    return found


_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?")


def _redirected(request: httpx2.Request, response: httpx2.Response) -> httpx2.Request:
    """The request that an answer sends us to. Another host gets nothing that was meant for this one."""
    url = _url(response.headers["location"], seen_from=request.url)
    method, content, headers = request.method, request.content, dict(request.headers)
    if response.status_code == 303 or (response.status_code in (301, 302) and method == "POST"):
        method, content = ("HEAD" if method == "HEAD" else "GET"), b""
        headers = {name: value for name, value in headers.items() if name not in ("content-type", "idempotency-key")}
    elsewhere = (url.scheme, url.host, url.port) != (request.url.scheme, request.url.host, request.url.port)
    if elsewhere and method not in SAFE:
        raise df.NonRetryableError(f"{request.url.host!r} sends a {method} on to {url.host!r}")
    kept = {
        name: value
        for name, value in headers.items()
        if name not in ("host", "content-length") and (not elsewhere or name in PUBLIC_HEADERS)
    }
    return httpx2.Request(method, url, headers={**kept, "accept-encoding": "gzip, deflate"}, content=content or None)


# --- answers ----------------------------------------------------------------------------------------------------------


def _unpacker(encoding: str) -> tuple[Callable[[bytes, int], bytes], Callable[[], bool]]:
    """Two functions: one gives up to so many bytes of what a piece holds, and never more (a short answer may hold a
    very long one), the other says whether all was there."""
    if encoding in ("", "identity"):
        return lambda chunk, most: chunk[:most], lambda: True
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise df.NonRetryableError(f"the answer is packed as {encoding!r:.40}, which was not asked for")
    packed = zlib.decompressobj(47)  # either of the two, by its first bytes

    def unpack(chunk: bytes, most: int) -> bytes:
        try:
            return packed.decompress(packed.unconsumed_tail + chunk, most)
        except zlib.error as error:
            raise df.StepError(f"the answer cannot be unpacked: {error}", kind="HttpError") from None

    return unpack, lambda: packed.eof


def _content(found: bytes, content_type: str) -> Any:
    """JSON as its value, text as text, anything else in base64."""
    about = Message()
    about["content-type"] = content_type
    kind = about.get_content_type()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return json.loads(found) if found else None
        except (ValueError, RecursionError) as error:
            raise df.StepError(f"the answer says that it is JSON, and is not: {error}", kind="HttpError") from None
    try:
        text = found.decode(about.get_content_charset("utf-8"))
    except (UnicodeDecodeError, LookupError):
        return base64.b64encode(found).decode()
    return text if kind.startswith("text/") or text.isprintable() else base64.b64encode(found).decode()


def _refusal(answer: Mapping[str, Any], *, now: float) -> Exception:
    """The error that an answer is which nobody expected."""
    status = answer["status"]
    said = f"HTTP {status} from {httpx2.URL(answer['url']).host}"
    if status not in AGAIN:
        return df.NonRetryableError(said)
    seconds = _seconds(answer["headers"].get("retry-after", ""), now)
    return df.StepError(said, kind="HttpError") if seconds is None else df.RetryAfter(seconds, said)


def _seconds(text: str, now: float) -> float | None:
    """How long an answer asks us to wait."""
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_WAIT)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, when.timestamp() - now), LONGEST_WAIT)


EXTENSION = http()
