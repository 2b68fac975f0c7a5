"""The `http` step of the examples against servers and definitions that mean no good."""

from __future__ import annotations

import asyncio
import gzip
import importlib.util
import json
import sys
import tracemalloc
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import durable_flow as df

EXAMPLE = Path(__file__).parents[2] / "examples" / "http_step" / "http_step.py"


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("http_step_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


HTTP = example()


class Server:
    """Answers what it is told to, byte by byte, and keeps what it was asked."""

    def __init__(self, *answers: bytes, hangs: bool = False) -> None:
        self.answers = list(answers)
        self.hangs = hangs
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ")
            lines = (line.partition(":") for line in head[1:] if line)
            headers = {name.lower(): value.strip() for name, _, value in lines}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.asked.append((method, path, headers, body))
            writer.write(self.answers[0] if len(self.answers) == 1 else self.answers.pop(0))
            await writer.drain()
            if self.hangs:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def answer(body: bytes = b"{}", *, status: str = "200 OK", kind: str = "application/json", **headers: str) -> bytes:
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[int]:
    made = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    server.port = made.sockets[0].getsockname()[1]
    try:
        yield server.port
    finally:
        made.close()


def names(known: Mapping[str, Collection[str]]) -> Any:
    """A resolver that knows these names, and counts."""

    async def resolve(host: str, port: int) -> Collection[str]:
        asked.append(host)
        return known[host] if host in known else await HTTP.looked_up(host, port)

    asked: list[str] = []
    resolve.asked = asked  # type: ignore[attr-defined]
    return resolve


async def ask(
    url: str, *, secrets: Mapping[str, str] | None = None, options: Mapping[str, Any] | None = None, **keys: Any
) -> df.ExecutionResult:
    document = {
        "id": "w",
        "name": "W",
        "steps": [{"id": "get", "type": "http", "url": url, "output": "result", **keys}],
    }
    async with df.Runtime(
        "sqlite://:memory:", workflows=[document], extensions=[HTTP.http(**(options or {}))], secrets=secrets
    ) as runtime:
        return await runtime.runner("w").run(execution_id="e")


async def ask_server(
    server: Server, path: str = "/", *, options: Mapping[str, Any] | None = None, **keys: Any
) -> df.ExecutionResult:
    async with serving(server) as port:
        allowed = {"private": [f"127.0.0.1:{port}"], **(options or {})}
        return await ask(f"http://127.0.0.1:{port}{path}", options=allowed, **keys)


# --- what it does -----------------------------------------------------------------------------------------------------


async def test_an_answer_has_its_status_headers_and_body() -> None:
    result = await ask_server(Server(answer(b'{"a": [1]}', X_More="yes")), "/a?b=c")
    assert result.output["status"] == 200
    assert result.output["body"] == {"a": [1]}
    assert result.output["headers"]["x-more"] == "yes"
    assert result.output["url"].endswith("/a?b=c")


@pytest.mark.parametrize(
    ("body", "kind", "seen"),
    [
        (b"", "application/json", None),
        ("é".encode("latin-1"), "text/plain; charset=latin-1", "é"),
        (b"\x00\xff", "application/octet-stream", "AP8="),
        (b"plain", "text/nonsense; charset=nonsense", "cGxhaW4="),
    ],
)
async def test_bodies_become_values(body: bytes, kind: str, seen: Any) -> None:
    assert (await ask_server(Server(answer(body, kind=kind)))).output["body"] == seen


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff", b'{"a": NaN}'])
async def test_json_that_is_none_is_a_step_error(body: bytes) -> None:
    result = await ask_server(Server(answer(body)))
    assert result.error_info is not None
    assert result.error_info.type in ("HttpError", "OutputError", "LimitExceeded")


async def test_a_packed_answer_is_unpacked() -> None:
    packed = gzip.compress(b'{"a": 1}')
    assert (await ask_server(Server(answer(packed, Content_Encoding="gzip")))).output["body"] == {"a": 1}


async def test_every_attempt_of_what_changes_something_has_one_key() -> None:
    server = Server(answer(status="503 Busy", Retry_After="0"), answer(status="500 Oh"), answer(status="201 Created"))
    result = await ask_server(
        server, method="POST", json={"n": 1}, retry={"max_attempts": 3, "initial_interval": 0.001}
    )
    assert result.completed
    assert [headers["idempotency-key"] for _, _, headers, _ in server.asked] == ["e:get"] * 3
    assert [body for _, _, _, body in server.asked] == [b'{"n":1}'] * 3


async def test_what_changes_nothing_has_no_key_and_an_own_key_counts() -> None:
    server = Server(answer())
    await ask_server(server)
    await ask_server(server, method="POST", headers={"Idempotency-Key": "mine"})
    assert [headers.get("idempotency-key") for _, _, headers, _ in server.asked] == [None, "mine"]


async def test_a_refusal_is_not_repeated_and_an_expected_one_is_an_answer() -> None:
    server = Server(answer(status="404 Not Found"))
    result = await ask_server(server, retry={"max_attempts": 5, "initial_interval": 0.001})
    assert result.error == "NonRetryableError: HTTP 404 from 127.0.0.1"
    assert len(server.asked) == 1
    assert (await ask_server(server, expect=[200, 404])).output["status"] == 404


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7.0), ("999999999999", 3600.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 60.0),
     ("Mon, 01 Jan 0001 00:00:00 GMT", 0.0), ("-5", None), ("soon", None), ("", None), ("٣", None)],
)  # fmt: skip
def test_how_long_to_wait_is_read_with_care(said: str, seconds: float | None) -> None:
    assert HTTP._seconds(said, now=1792567620.0) == seconds


# --- what it does not do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "100.64.0.1",
     "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0",
     "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1",
     "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:4136:e378::1", "no address", ""],
)  # fmt: skip
def test_addresses_that_not_everybody_reaches_are_not_public(address: str) -> None:
    assert not HTTP.is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111"])
def test_others_are(address: str) -> None:
    assert HTTP.is_public(address)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]",
     "localhost", "0xA9FEA9FE", "[::ffff:a9fe:a9fe]", "０x7f.1"],
)  # fmt: skip
async def test_this_machine_is_refused_however_it_is_written(host: str) -> None:
    server = Server(answer())
    async with serving(server) as port:
        result = await ask(f"http://{host}:{port}/")
    assert result.failed
    assert server.asked == []
    assert result.error_info is not None
    assert result.error_info.type in ("NonRetryableError", "HttpError")


async def test_a_name_with_one_private_address_among_public_ones_is_refused() -> None:
    result = await ask("http://mixed.example/", options={"resolve": names({"mixed.example": ["8.8.8.8", "10.0.0.1"]})})
    assert result.error == "NonRetryableError: 'mixed.example' is not a public host"


async def test_a_name_is_looked_up_once_and_what_was_checked_is_asked() -> None:
    server = Server(answer())
    async with serving(server) as port:
        resolve = names({"shop.example": ["127.0.0.1"]})
        options = {"resolve": resolve, "private": [f"shop.example:{port}"]}
        result = await ask(f"http://shop.example:{port}/", options=options)
    assert result.completed
    assert resolve.asked == ["shop.example"]
    assert server.asked[0][2]["host"] == f"shop.example:{port}"


async def test_what_is_private_is_allowed_for_one_port_only() -> None:
    server = Server(answer())
    async with serving(server) as port:
        result = await ask(f"http://127.0.0.1:{port}/", options={"private": [f"127.0.0.1:{port + 1}", "127.0.0.1"]})
    assert result.error == "NonRetryableError: '127.0.0.1' is not a public host"
    assert server.asked == []


@pytest.mark.parametrize("host", ["other.example", "example.com.evil.example", "notexample.com", "example.com."])
async def test_only_hosts_on_the_list_are_asked(host: str) -> None:
    resolve = names({})
    result = await ask(f"http://{host}/", options={"hosts": ["example.com", ".example.com"], "resolve": resolve})
    assert result.error == f"NonRetryableError: {host!r} is not among the hosts that may be asked"
    assert resolve.asked == []


@pytest.mark.parametrize(
    "place",
    ["http://169.254.169.254/latest/meta-data", "//10.0.0.1/", "http://0xA9FEA9FE/", "http://[::1]/",
     "file:///etc/passwd", "gopher://127.0.0.1/", "http://user:pass@127.0.0.1/", "http://inside.example/"],
)  # fmt: skip
async def test_a_redirect_to_the_inside_is_refused(place: str) -> None:
    server = Server(answer(status="302 Found", Location=place))
    result = await ask_server(server, options={"resolve": names({"inside.example": ["192.168.0.1"]})})
    assert result.error_info is not None
    assert result.error_info.type == "NonRetryableError"
    assert len(server.asked) == 1


async def test_an_endless_redirect_ends() -> None:
    server = Server(answer(status="302 Found", Location="/again"))
    result = await ask_server(server)
    assert result.error == "NonRetryableError: more than 5 redirects"
    assert len(server.asked) == 6


async def test_another_host_gets_nothing_that_was_meant_for_the_first() -> None:
    other, first = Server(answer(b'{"a": 1}')), Server()
    async with serving(other) as there, serving(first) as here:
        first.answers.append(answer(status="302 Found", Location=f"http://other.example:{there}/x"))
        options = {
            "private": [f"127.0.0.1:{here}", f"other.example:{there}"],
            "resolve": names({"other.example": ["127.0.0.1"]}),
        }
        headers = {"Authorization": "Bearer t", "X-Api-Key": "k", "Cookie": "c=1", "User-Agent": "us"}
        result = await ask(f"http://127.0.0.1:{here}/", options=options, headers=headers)
    assert result.output["body"] == {"a": 1}
    assert {"authorization", "x-api-key", "cookie"} <= first.asked[0][2].keys()
    assert not {"authorization", "x-api-key", "cookie"} & other.asked[0][2].keys()
    assert other.asked[0][2]["user-agent"] == "us"


@pytest.mark.parametrize("status", ["307 Temporary Redirect", "308 Permanent Redirect"])
async def test_what_is_sent_is_not_sent_on_to_another_host(status: str) -> None:
    server = Server(answer(status=status, Location="http://8.8.8.8/"))
    result = await ask_server(server, method="POST", json={"card": 1})
    assert result.error == "NonRetryableError: '127.0.0.1' sends a POST on to '8.8.8.8'"


async def test_a_post_that_is_sent_on_becomes_a_get_without_its_body() -> None:
    server = Server(answer(status="303 See Other", Location="/there"), answer(b'{"a": 1}'))
    assert (await ask_server(server, method="POST", json={"card": 1})).output["body"] == {"a": 1}
    method, path, headers, body = server.asked[1]
    assert (method, path, body) == ("GET", "/there", b"")
    assert not {"content-type", "idempotency-key"} & headers.keys()


async def test_a_cookie_of_one_answer_is_in_no_other_request() -> None:
    server = Server(answer(status="302 Found", Location="/x", Set_Cookie="id=1; Path=/"), answer(b'{"a": 1}'))
    await ask_server(server)
    assert "cookie" not in server.asked[1][2]


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
async def test_a_bomb_does_not_go_off(packing: str) -> None:
    bomb = gzip.compress(b"\0" * 200_000_000, 9)
    tracemalloc.start()
    try:
        result = await ask_server(Server(answer(bomb, kind="text/plain", Content_Encoding=packing)))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.error == "NonRetryableError: the answer has more than 1,000,000 bytes"
    assert most < 20_000_000


async def test_a_long_answer_and_an_odd_packing_are_refused() -> None:
    assert (
        await ask_server(Server(answer(b"x" * 1001)), options={"max_bytes": 1000})
    ).error_info.type == "NonRetryableError"  # type: ignore[union-attr]
    result = await ask_server(Server(answer(b"x", Content_Encoding="br")))
    assert result.error == "NonRetryableError: the answer is packed as 'br', which was not asked for"


@pytest.mark.parametrize("body", [b"no gzip", gzip.compress(b"x" * 1000)[:-9]], ids=["other", "cut off"])
async def test_an_answer_that_cannot_be_unpacked_is_a_step_error(body: bytes) -> None:
    result = await ask_server(Server(answer(body, Content_Encoding="gzip")))
    assert result.error_info is not None
    assert result.error_info.type == "HttpError"


async def test_a_server_that_says_nothing_or_next_to_nothing_is_given_up() -> None:
    result = await ask_server(Server(b"", hangs=True), read=0.05)
    assert result.error_info is not None
    assert result.error_info.type == "ReadTimeout"
    result = await ask_server(Server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", hangs=True), total=0.05)
    assert result.error_info.type == "TimeoutError"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "headers",
    [{"X-A": "a\r\nX-B: b"}, {"X-A\r\nX-B": "b"}, {"X-A": "a\0"}, {"": "a"}, {"X A": "a"}, {"X-A": "é"}, {"X-A": " a"},
     {"Host": "evil"}, {"host": "evil"}, {"Transfer-Encoding": "chunked"}, {"Content-Length": "5"},
     {"Connection": "close"}, {"X-A": True}, {"X-A": ["a"]}, ["X-A"], "X-A: a"],
)  # fmt: skip
async def test_headers_that_are_none_or_not_ours_to_set_are_refused(headers: Any) -> None:
    server = Server(answer())
    result = await ask_server(server, headers=headers)
    assert result.error_info is not None
    assert result.error_info.type == "NonRetryableError"
    assert server.asked == []


@pytest.mark.parametrize(
    "url",
    ["", "example.com", "ftp://example.com/", "http://", "http:///x", "http://u:p@example.com/", "http://a b/",
     "http://example.com:99999/", "http://[::1/", "$now", "\thttp://example.com", "http://exa\x00mple.com"],
)  # fmt: skip
async def test_what_is_no_url_is_refused(url: str) -> None:
    if not url:
        with pytest.raises(df.ValidationError):
            await ask(url)
        return
    result = await ask(url, options={"resolve": names({"example.com": ["10.0.0.1"]})})
    assert result.error_info is not None
    assert result.error_info.type in ("NonRetryableError", "HttpError")


async def test_secrets_are_sent_and_nowhere_to_be_seen() -> None:
    server = Server(answer(b'{"you said": "Bearer hunter22"}'))
    async with serving(server) as port:
        document = {"id": "w", "name": "W", "steps": [
            {"id": "get", "type": "http", "url": f"http://127.0.0.1:{port}/?key=$secrets.token", "output": "result",
             "headers": {"Authorization": "Bearer $secrets.token"}}]}  # fmt: skip
        extension = HTTP.http(private=[f"127.0.0.1:{port}"])
        async with df.Runtime(
            "sqlite://:memory:", workflows=[document], extensions=[extension], secrets={"token": "hunter22"}
        ) as runtime:
            result = await runtime.runner("w").run(execution_id="e")
            entries = await runtime.store.entries("e")
    assert server.asked[0][2]["authorization"] == "Bearer hunter22"
    assert server.asked[0][1] == "/?key=hunter22"
    assert result.output["body"] == {"you said": "Bearer ***"}
    assert "hunter22" not in repr(entries) + json.dumps(result.output)


async def test_a_dry_run_asks_nobody() -> None:
    document = {"id": "w", "name": "W", "steps": [{"id": "get", "type": "http", "url": "http://x.example/"}]}
    resolve = names({})
    async with df.Runtime(
        "sqlite://:memory:", workflows=[document], extensions=[HTTP.http(resolve=resolve)]
    ) as runtime:
        result = await runtime.runner("w").run(dry_run=True)
        entries = await runtime.store.entries(result.execution_id)
    assert result.completed
    assert resolve.asked == []
    assert "http GET" in [(entry.metadata or {}).get("would") for entry in entries]


def test_two_bodies_are_told_when_the_definition_is_read() -> None:
    document = {
        "id": "w",
        "name": "W",
        "steps": [{"id": "g", "type": "http", "url": "http://a/", "json": 1, "body": "x"}],
    }
    with pytest.raises(df.ValidationError, match="'json' and 'body' cannot both be sent"):
        df.load(document, extensions=[HTTP.http()])
