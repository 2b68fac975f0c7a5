"""What people get wrong, and what they are told: one or two lines, no traceback, exit code 2."""

import contextlib
import re
import shutil
from pathlib import Path

import pytest

from durable_flow.cli import main
from tests.cli.conftest import Cli, write_documents

MISTAKES = {
    # how commands are written
    "an unknown command": (["rnu", "hello.yml"], "there is no command 'rnu'", "did you mean 'run'?"),
    "a command like no other": (["xyzzy"], "there is no command 'xyzzy'", "'durable-flow --help' lists them"),
    "an unknown option": (["run", "hello.yml", "--jsn"], "--jsn", "'durable-flow run --help' explains it"),
    "no file": (["run"], "Missing argument 'FILE'", "'durable-flow run --help'"),
    "no id": (["show"], "Missing argument 'ID'", "'durable-flow show --help'"),
    "a limit that is none": (["list", "--limit", "0"], "'--limit': 0 is not in the range 1<=x<=10000", ""),
    "an unknown status": (["list", "--status", "done"], "'done' is not one of 'pending', 'running'", ""),
    "a time that is none": (["list", "--since", "yesterday"], "'yesterday' is not a time: write for example", ""),
    "a cursor that is none": (["list", "--cursor", "junk"], "cursor", ""),
    "a label without a value": (["list", "--label", "red"], "'red' is not a label: write NAME=VALUE", ""),
    "a duration that is none": (["purge", "--older-than", "soon"], "'soon' is not a duration: write for example", ""),
    "purging without saying what": (["purge"], "Missing option '--older-than'", ""),
    "purging what is not over": (["purge", "--older-than", "1d", "--status", "halted"], "'halted' is not one of", ""),
    # definitions
    "a file that is not there": (["run", "nope.yml"], "there is no file nope.yml", ""),
    "a folder in place of a file": (["graph", "."], ". is a folder; name the file in it", ""),
    "a folder without definitions": (["validate", "empty"], "no *.yml or *.yaml file in the folder empty", ""),
    "a file that is not text": (["run", "binary.yml"], "binary.yml: is not UTF-8 text", ""),
    "a wrong definition": (["run", "wrong.yml"], "wrong.yml:4:19: step 'a': unknown step type 'asign'", "'assign'?"),
    "a definition with many mistakes": (["graph", "worse.yml"], "not valid: 3 problems", "worse.yml:"),
    # input
    "input that is no JSON": (
        ["run", "hello.yml", "--input", "{name: Ada}"],
        "'--input': the value is not JSON: Expecting property name",
        "",
    ),
    "input that lost its quotes": (["run", "hello.yml", "--input", "Ada"], "Text needs quotes: '\"Ada\"'", ""),
    "input that is no object": (["run", "hello.yml", "--input", "[1]"], "must be a JSON object such as", ""),
    "input with a number that is none": (["run", "hello.yml", "--input", '{"name": NaN}'], "NaN is not a number", ""),
    "input nested without end": (["run", "hello.yml", "--input", "[" * 100_000], "is nested too deeply", ""),
    "an input file that is not there": (
        ["run", "hello.yml", "--input", "@nope.json"],
        "'nope.json' cannot be read: No such file",
        "",
    ),
    "an input file that is not text": (["run", "hello.yml", "--input", "@binary.yml"], "binary.yml is not UTF-8", ""),
    "an input file that is no JSON": (["run", "hello.yml", "--input", "@hello.yml"], "hello.yml is not JSON", ""),
    "input that does not fit": (
        ["run", "hello.yml", "--input", '{"name": 5}'],
        "input.name: expected string, got integer",
        "nothing was started",
    ),
    "an id with a blank": (["run", "hello.yml", "--id", "a b"], "an execution id is 1 to 255 printable characters", ""),
    "an id with other input": (
        ["run", "hello.yml", "--id", "e1"],
        "execution 'e1' belongs to workflow 'expense', not to 'hello'",
        "",
    ),
    # services
    "a module that is not there": (
        ["run", "pay.yml", "--services", "shops"],
        "--services shops: there is no module 'shops'",
        "looked in",
    ),
    "a path in place of a module": (
        ["run", "pay.yml", "--services", "./shop"],
        "'./shop' is not the name of a module",
        "write it with dots",
    ),
    "a .py file that is not there": (["run", "pay.yml", "--services", "no/shop.py"], "there is no file no/shop.py", ""),
    "a name that is not in the module": (
        ["run", "pay.yml", "--services", "shop:shops"],
        "module shop has no 'shops'",
        "mappings it has: services",
    ),
    "half a name": (["run", "pay.yml", "--services", "shop:"], "write MODULE or MODULE:NAME", ""),
    "a module that cannot be imported": (
        ["run", "pay.yml", "--services", "broken"],
        "importing it failed: ZeroDivisionError: division by zero",
        "broken.py:2",
    ),
    "a module with a syntax error": (["run", "pay.yml", "--services", "syntax.py"], "SyntaxError:", "syntax.py:1"),
    "a module that misses another": (
        ["run", "pay.yml", "--services", "needy"],
        "importing it failed: ModuleNotFoundError: No module named 'not_installed'",
        "needy.py:1",
    ),
    "a module that ends the program": (
        ["run", "pay.yml", "--services", "quits"],
        "failed: SystemExit: 1",
        "quits.py:2",
    ),
    "a module without services": (["run", "pay.yml", "--services", "bare"], "module bare has no services", "define"),
    "no services where some are needed": (
        ["run", "pay.yml"],
        "workflow 'pay' calls the service 'Shop', which nothing provides",
        "--services MODULE or $DURABLE_FLOW_SERVICES",
    ),
    "other services than those needed": (
        ["run", "pay.yml", "--services", "other"],
        "which nothing provides (--services brings Other)",
        "nothing was done",
    ),
    "a secret that is not there": (
        ["run", "hello.yml", "--secret", "NOT_SET"],
        "there is no environment variable 'NOT_SET'",
        "",
    ),
    "a workflow twice": (
        ["run", "hello.yml", "--workflows", "twice.yml"],
        "there are two workflows with id 'hello'",
        "",
    ),
    # stores
    "a store that is not there": (
        ["list", "--store", "sqlite:///nope.db"],
        "there is no store at sqlite:///nope.db",
        "'run' creates one",
    ),
    "a store in memory": (["list", "--store", "sqlite://:memory:"], "a store in memory is empty", ""),
    "a store in no folder": (
        ["run", "hello.yml", "--store", "sqlite:///no/flows.db"],
        "there is no directory no",
        "",
    ),
    "a URL that is none": (["list", "--store", "flows.db"], "'flows.db' is not a store URL; write", ""),
    "an unknown kind of store": (["list", "--store", "oracle://x"], "no store is known for oracle:// URLs", ""),
    "a file that is no store": (["list", "--store", "sqlite:///hello.yml"], "damaged or no SQLite database", ""),
    # executions
    "an unknown id": (
        ["show", "nope"],
        "there is no execution 'nope'",
        "looked in sqlite:///durable_flow.db; 'durable-flow list'",
    ),
    "why of an unknown id": (["why", "nope"], "there is no execution 'nope'", ""),
    "cancelling an unknown id": (["cancel", "nope"], "there is no execution 'nope'", ""),
    "resuming an unknown id": (["resume", "nope"], "there is no execution 'nope'", ""),
    "recovering an unknown id": (["recover", "nope"], "there is no execution 'nope'", ""),
    "retrying what has not failed": (["retry", "e1"], "only a failed one can be retried", "'durable-flow why e1'"),
    "resuming what is over": (
        ["resume", "h1"],
        "execution 'h1' is completed; only a waiting one",
        "nothing was changed",
    ),
    "cancelling what is over": (
        ["cancel", "h1"],
        "is completed; it cannot be cancelled any more",
        "nothing was changed",
    ),
    "approving a halt": (["approve", "q1"], "answer it with 'resume --response'", ""),
    "resuming an approval": (["resume", "e1"], "is an approval: answer it with 'approve' or 'reject'", ""),
    "approving as nobody": (["approve", "e1"], "approvers are alice, bob", "say who you are with --by"),
    "approving as somebody else": (
        ["approve", "e1", "--by", "eve"],
        "'eve' may not answer 'e1:review'",
        "nothing was changed",
    ),
    "selecting what was not offered": (
        ["approve", "e1", "--by", "bob", "--select", "gold"],
        "'gold' is not one of the options",
        "",
    ),
    "a wait that is not there": (
        ["approve", "e1", "--step", "other"],
        "does not wait for a wait of step 'other'",
        "'durable-flow why e1'",
    ),
    "one answer to two waits": (["resume", "t1"], "waits for 2 answers; say which with --wait-id or --step", ""),
    "a response that is no JSON": (["resume", "q1", "--response", "Main St"], "Text needs quotes: '\"Main St\"'", ""),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with things that are wrong in it, and a few executions."""
    folder = tmp_path_factory.mktemp("template")
    write_documents(folder)
    with contextlib.chdir(folder):
        for name, execution_id in (("hello", "h1"), ("approval", "e1"), ("halt", "q1"), ("two", "t1")):
            assert main(["run", f"{name}.yml", "--id", execution_id, "--store", "sqlite:///durable_flow.db"]) in (0, 3)
    (folder / "empty").mkdir()
    (folder / "binary.yml").write_bytes(b"\xff\xfe\x00")
    (folder / "twice.yml").write_text((folder / "hello.yml").read_text() + "description: another\n")
    head = "id: w\nname: W\nsteps:\n  - {id: a, type: "
    (folder / "wrong.yml").write_text(f"{head}asign, set: {{x: 1}}}}\n")
    (folder / "worse.yml").write_text(f"{head}assign, set: {{x: 1}}, next: c}}\n  - {{id: b, type: end, x: 1}}\n")
    modules = {
        "broken": "def f():\n    1 / 0\nf()\n",
        "syntax": "def f(:\n",
        "needy": "import not_installed\n",
        "quits": "import sys\nsys.exit(1)\n",
        "bare": "import os\nfrom pathlib import Path\nLIMIT = 3\n",
        "other": "class Other: ...\n",
    }
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture
def prepared(cli: Cli, folder: Path, template: Path) -> Cli:
    shutil.copytree(template, folder, dirs_exist_ok=True)
    return cli


@pytest.mark.parametrize(("arguments", "said", "hint"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_answered_in_a_few_lines(prepared: Cli, arguments: list[str], said: str, hint: str) -> None:
    done = prepared(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert said in done.err
    assert hint in done.err
    lines = done.err.splitlines()
    assert lines[0].startswith("error: ")
    assert all(line.startswith("  ") for line in lines[1:])
    assert len(lines) <= 5


@pytest.mark.parametrize("arguments", [arguments for arguments, _, _ in MISTAKES.values()], ids=MISTAKES.keys())
def test_with_json_a_mistake_is_a_document(prepared: Cli, arguments: list[str]) -> None:
    done = prepared(*arguments, "--json")
    assert done.code == 2
    error = done.document["error"]
    assert re.fullmatch(r"[A-Z]\w+", error["type"])
    assert error["message"] in done.err


def test_what_was_wrong_changed_nothing(prepared: Cli) -> None:
    before = prepared("list", "--json").document
    for arguments, _, _ in MISTAKES.values():
        prepared(*arguments)
    assert prepared("list", "--json").document == before


@pytest.mark.parametrize(
    "command", ["list", "show x", "why x", "cancel x", "resume x", "retry x", "recover x", "purge --older-than 1d"]
)
def test_only_run_creates_a_store(cli: Cli, folder: Path, command: str) -> None:
    done = cli(*command.split())
    assert done.code == 2
    assert "there is no store at sqlite:///durable_flow.db" in done.err
    assert not list(folder.glob("*.db*"))


def test_a_traceback_is_for_debug(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    assert main(["run", "pay.yml", "--services", "broken", "--debug"]) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "ZeroDivisionError" in told


def test_a_bug_of_ours_is_called_one(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("durable_flow.load", fails)
    done = cli("run", "hello.yml")
    assert (done.code, done.err) == (
        2,
        "error: KeyError: 'oops'\n  this is a bug in durable-flow; --debug shows where\n",
    )
