"""`--codec`: commands on an encrypted store."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable_flow.cli._codec import load_codec
from durable_flow.cli._mistake import Mistake
from tests.cli.conftest import Cli

KEYS = """
import durable_flow as df

print("what a module prints")
KEY = bytes(range(32))
codec = df.AesGcm(keys={"2026-01": KEY}, active="2026-01")
other = df.AesGcm(keys={"2025-01": bytes(32)}, active="2025-01")


def made():
    return codec


def takes(region):
    return codec


def fails():
    raise OSError("no key service")


class Codec:
    def encode(self, data, *, context): ...
    def decode(self, data, *, context): ...
"""

GIVEN = ("--codec", "keys")


@pytest.fixture(autouse=True)
def keys(folder: Path) -> None:
    (folder / "keys.py").write_text(KEYS)


def content(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("durable_flow.db*"))


def test_what_run_stores_is_encrypted_and_shown_again(cli: Cli, folder: Path) -> None:
    assert cli("run", "hello.yml", "--input", '{"name": "Ada"}', "--id", "h", *GIVEN).code == 0
    assert b"Ada" not in content(folder)
    assert b"2026-01" in content(folder)
    shown = cli("show", "h", "--entries", "--json", *GIVEN)
    assert shown.document["execution"]["result"] == "Hello, Ada!"
    assert shown.document["execution"]["input"] == {"name": "Ada"}
    assert [step["type"] for step in shown.document["steps"]] == ["assign"]


def test_the_codec_is_taken_from_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURABLE_FLOW_CODEC", "keys.py:made")
    assert cli("run", "hello.yml", "--id", "h").code == 0
    (listed,) = cli("list", "--json").document["executions"]
    assert (listed["result"], listed["error"]) == ("Hello, you!", None)
    monkeypatch.delenv("DURABLE_FLOW_CODEC")
    (listed,) = cli("list", "--json").document["executions"]
    assert "it is encrypted" in listed["error"]


def test_without_the_codec_it_is_said_where_it_is_named(cli: Cli) -> None:
    cli("run", "hello.yml", "--id", "h", *GIVEN)
    outcome = cli("show", "h", "--json")
    assert outcome.code == 2
    error = outcome.document["error"]
    assert error["type"] == "CorruptState"
    assert "it is encrypted" in error["message"]
    assert error["hint"] == "name the codec with --codec or $DURABLE_FLOW_CODEC"


def test_with_another_codec_the_key_is_named_that_is_missing(cli: Cli) -> None:
    cli("run", "hello.yml", "--id", "h", *GIVEN)
    outcome = cli("show", "h", "--codec", "keys:other")
    assert outcome.code == 2
    assert "'2026-01'" in outcome.err


def test_commands_that_answer_drive_and_cancel_have_the_codec(cli: Cli) -> None:
    assert cli("run", "approval.yml", "--id", "a", *GIVEN).code == 3
    assert cli("run", "halt.yml", "--id", "b", *GIVEN).code == 3
    assert cli("run", "halt.yml", "--id", "c", *GIVEN).code == 3
    assert cli("why", "a", "--json", *GIVEN).document["why"][0]["wait_id"]
    assert cli("approve", "a", "--by", "alice", *GIVEN).code == 0
    assert cli("resume", "b", "--response", '"Main St"', *GIVEN).code == 0
    assert cli("cancel", "c", *GIVEN).code == 0
    assert cli("purge", "--older-than", "1h", "--yes", "--json", *GIVEN).document == {"deleted": 0}
    assert {one["status"] for one in cli("list", "--json", *GIVEN).document["executions"]} == {"completed", "cancelled"}


def test_commands_to_copy_name_the_codec_again(cli: Cli) -> None:
    outcome = cli("run", "halt.yml", "--id", "b", "--json", *GIVEN)
    (halt,) = outcome.document["halts"]
    assert halt["commands"] == ["durable-flow resume b --response JSON --codec keys"]


def test_what_a_module_prints_is_no_result(cli: Cli) -> None:
    outcome = cli("run", "hello.yml", "--json", *GIVEN)
    assert outcome.document["output"] == "Hello, you!"
    assert "what a module prints" in outcome.err


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere", "there is no module 'nowhere'"),
        ("nowhere.py", "there is no file nowhere.py"),
        ("keys:", "write MODULE or MODULE:NAME, for example shop.keys:codec"),
        ("shop", "module shop has no 'codec'"),
        ("keys:KEY", "KEY is no codec but bytes: it has no encode and decode"),
        ("keys:Codec", "Codec is no codec but a class"),
        ("keys:takes", "takes takes parameters"),
        ("keys:fails", "importing it failed: OSError: no key service"),
    ],
)
def test_what_is_no_codec_is_told(folder: Path, source: str, said: str) -> None:
    with pytest.raises(Mistake) as caught:
        load_codec(source)
    assert f"--codec {source}" in str(caught.value)
    assert said in str(caught.value)


def test_a_wrong_codec_keeps_a_command_from_doing_anything(cli: Cli, folder: Path) -> None:
    outcome = cli("run", "hello.yml", "--codec", "keys:KEY")
    assert outcome.code == 2
    assert "KEY is no codec" in outcome.err
    assert not (folder / "durable_flow.db").exists()
