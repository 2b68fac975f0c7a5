"""Extensions as a whole: which there are, what two of them cannot both bring, what they open and what they tell."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

import durable_flow as df


class SayConfig(msgspec.Struct, frozen=True, kw_only=True):
    text: str = "hi"


def saying(kind: str = "say", **more: Any) -> type[df.StepType[SayConfig]]:
    class Say(df.StepType[SayConfig]):
        name = kind
        summary = "Says something."
        Config = SayConfig
        works_outside = True

        async def run(self, visit: df.Visit, config: SayConfig) -> df.Outcome:
            return df.Done(await more["run"](visit) if more else config.text)

    return Say


def flow(kind: str = "say") -> dict[str, Any]:
    return {"id": "w", "name": "W", "steps": [{"id": "s", "type": kind}]}


# --- which there are --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "problem"),
    [
        ({"step_types": (saying(),)}, {"step_types": (saying(),)}, "both bring the step type 'say'"),
        ({"keys": {"agents": list[str]}}, {"keys": {"agents": list[int]}}, "both bring the document key 'agents'"),
        ({"events": ("a.b",)}, {"events": ("a.b",)}, "both bring the event type 'a.b'"),
    ],
)
def test_two_extensions_that_bring_the_same_are_both_named(one: Any, other: Any, problem: str) -> None:
    extensions = [df.Extension(name="one", **one), df.Extension(name="other", **other)]
    with pytest.raises(df.ConfigError, match=f"extension 'one' and extension 'other' {problem}"):
        df.load(flow(), extensions=extensions)
    with pytest.raises(df.ConfigError, match=f"extension 'one' and extension 'other' {problem}"):
        df.Runtime("sqlite://:memory:", extensions=extensions)


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        ({"step_types": (saying("call"),)}, "brings the step type 'call', which durable_flow has itself"),
        ({"keys": {"steps": list[str]}}, "brings the document key 'steps', which durable_flow has itself"),
        ({"step_types": (saying(), saying())}, "brings the step type 'say' twice"),
        ({"keys": {"bodies": df.Body}}, "the document key 'bodies' of an extension cannot hold steps"),
        ({"keys": {"odd": set[int]}}, "the document key 'odd' is annotated .* which says nothing about documents"),
    ],
)
def test_what_an_extension_cannot_bring_is_told(made: Any, problem: str) -> None:
    with pytest.raises(df.ConfigError, match=problem):
        df.load(flow(), extensions=[df.Extension(name="x", **made)])


@pytest.mark.parametrize(
    "made",
    [
        {"name": "Not this"},
        {"name": ""},
        {"name": "x", "keys": {"a-b": str}},
        {"name": "x", "events": ("nodot",)},
        {"name": "x", "events": ("step.started",)},
        {"name": "x", "events": ("workflow.mine",)},
        {"name": "x", "events": ("a.b\nid: 1",)},
    ],
)
def test_names_that_cannot_be_used_are_refused_where_they_are_given(made: Any) -> None:
    with pytest.raises(df.ConfigError):
        df.Extension(**made)


class Nameless(df.StepType[SayConfig]):
    summary = "Says something."
    Config = SayConfig


class Unready(Nameless):
    name = "say"


class Unsaid(df.StepType[SayConfig]):
    name = "say"
    Config = SayConfig


class Unconfigured(df.StepType[Any]):
    name = "say"
    summary = "Says something."


class Computing(Unready):
    instant = True


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        ({"step_types": (Nameless,)}, "the step type Nameless has no name: name = 'shout'"),
        ({"step_types": (saying("a b"),)}, "the step type Say cannot be named 'a b'"),
        ({"step_types": (Unsaid,)}, "the step type Unsaid has no summary"),
        ({"step_types": (Unconfigured,)}, "the step type Unconfigured has no Config: a msgspec.Struct"),
        ({"step_types": (Unready,)}, "Unready has instant = False, so it needs a method 'run'"),
        ({"step_types": (Computing(),)}, "Computing has instant = True, so it needs a method 'evaluate'"),
        ({"step_types": (object(),)}, "object is no step type: it is a subclass of df.StepType"),
        ({"step_types": saying()}, r"step_types is a tuple: step_types=\(…,\)"),
        ({"events": "a.b"}, r"events is a tuple: events=\(…,\)"),
        ({"after_parse": 5}, "after_parse is a function, not 5"),
        ({"lifespan": 5}, "lifespan is a function, not 5"),
    ],
)
def test_a_step_type_or_hook_that_cannot_work_is_told_where_it_is_given(made: Any, problem: str) -> None:
    with pytest.raises(df.ConfigError, match=f"extension 'x': .*{problem}"):
        df.Extension(name="x", **made)


@pytest.mark.parametrize("given", ["http", df.Extension(name="x"), {"a": 1}])
def test_extensions_are_given_as_a_list(given: Any) -> None:
    with pytest.raises(df.ConfigError, match="extensions is a list"):
        df.load(flow(), extensions=given)


def test_what_is_no_extension_is_refused() -> None:
    with pytest.raises(df.ConfigError, match="which is no Extension"):
        df.load(flow(), extensions=[saying()])  # type: ignore[list-item]


def test_one_name_is_one_extension() -> None:
    with pytest.raises(df.ConfigError, match="there are two extensions named 'x'"):
        df.load(flow(), extensions=[df.Extension(name="x"), df.Extension(name="x")])


async def test_a_definition_is_refused_by_a_runtime_that_could_not_take_its_executions_up_again() -> None:
    extension = df.Extension(name="x", step_types=(saying(),), keys={"notes": list[str]})
    workflow = df.load({**flow(), "notes": ["a"]}, extensions=[extension])
    with pytest.raises(df.ConfigError, match="uses the step type 'say', the document key 'notes', which no extension"):
        df.Runtime("sqlite://:memory:", workflows=[workflow])
    async with df.Runtime("sqlite://:memory:") as runtime:
        with pytest.raises(df.ConfigError, match="the step type 'say'"):
            runtime.runner(workflow)
    async with df.Runtime("sqlite://:memory:", extensions=[extension]) as runtime:
        assert (await runtime.runner(workflow).run()).completed


# --- installed --------------------------------------------------------------------------------------------------------

MODULES = {
    "shouting_flow": """
        import msgspec
        import durable_flow as df

        class Config(msgspec.Struct, frozen=True, kw_only=True):
            text: str

        class Shout(df.StepType[Config]):
            name = "shout"
            summary = "Shouts."
            Config = Config
            instant = True

            def evaluate(self, visit, config):
                return df.Done(config.text.upper(), ("result",))

            def writes(self, config):
                return frozenset({"result"})

        EXTENSION = df.Extension(name="shouting", step_types=(Shout,))

        def made():
            return df.Extension(name="made", step_types=())
        """,
    "broken_flow": "raise RuntimeError('no luck')",
    "odd_flow": "ODD = 7",
}
POINTS = {
    "shouting-flow 1.2": ["shouting = shouting_flow:EXTENSION", "made = shouting_flow:made"],
    "broken-flow 0.1": ["broken = broken_flow:EXTENSION"],
    "odd-flow 3": ["odd = odd_flow:ODD", "alias = shouting_flow:EXTENSION"],
    "twin-flow 1": ["twin = shouting_flow:EXTENSION"],
    "other-twin-flow 1": ["twin = odd_flow:ODD"],
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with installed packages."""
    folder = tmp_path_factory.mktemp("site")
    for module, source in MODULES.items():
        (folder / f"{module}.py").write_text(textwrap.dedent(source))
    for package, points in POINTS.items():
        name, version = package.split()
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text("[durable_flow.extensions]\n" + "\n".join(points) + "\n")
    return folder


def python(site: Path, program: str) -> str:
    """What a program prints in a process in which the packages are installed."""
    begin = f"import sys; sys.path.insert(0, {str(site)!r})\nimport asyncio, durable_flow as df\n"
    done = subprocess.run(
        [sys.executable, "-c", begin + textwrap.dedent(program)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SHOUT = {"id": "w", "name": "W", "steps": [{"id": "s", "type": "shout", "text": "hi"}]}


def test_an_installed_extension_is_used_by_its_name(site: Path) -> None:
    printed = python(
        site,
        f"""
        async def main():
            async with df.Runtime("sqlite://:memory:", workflows=[{SHOUT}], extensions=["shouting", "made"]) as runtime:
                return (await runtime.runner("w").run()).output

        print(asyncio.run(main()), *df.installed_extensions())
        """,
    )
    assert printed == "HI alias broken made odd shouting twin"


def test_an_installed_extension_is_neither_used_nor_imported_before_it_is_named(site: Path) -> None:
    printed = python(
        site,
        f"""
        try:
            df.load({SHOUT})
        except df.ValidationError as error:
            print(error)
        print(sorted(name for name in sys.modules if name.endswith("_flow")))
        """,
    )
    assert "unknown step type 'shout'" in printed
    assert "installed, but not used: extensions 'alias', 'broken', 'made', 'odd', 'shouting', 'twin'" in printed
    assert printed.endswith("['durable_flow']")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("broken", "extension 'broken' of package broken-flow 0.1 cannot be loaded: RuntimeError: no luck"),
        ("odd", "odd_flow:ODD, the extension 'odd' of package odd-flow 3, is no Extension: 7"),
        ("alias", "package odd-flow 3 brings extension 'shouting' under the name 'alias'"),
        ("shoutin", "no extension 'shoutin' is installed (did you mean 'shouting'?)"),
        ("zzz", "no extension 'zzz' is installed (installed are alias, broken, made, odd, shouting, twin)"),
    ],
)
def test_one_that_cannot_be_used_is_told_with_its_package(site: Path, name: str, problem: str) -> None:
    printed = python(
        site,
        f"""
        try:
            df.Runtime("sqlite://:memory:", extensions=["shouting", {name!r}])
        except df.ConfigError as error:
            print(error)
        """,
    )
    assert printed == problem


def test_two_packages_that_bring_one_name_are_both_told(site: Path) -> None:
    printed = python(
        site,
        """
        try:
            df.load({}, extensions=["twin"])
        except df.ConfigError as error:
            print(error)
        """,
    )
    assert printed.startswith("there are two extensions named 'twin': package ")
    assert "package twin-flow 1" in printed
    assert "package other-twin-flow 1" in printed


# --- what they open ---------------------------------------------------------------------------------------------------


def opening(name: str, log: list[str], *, fails: bool = False) -> df.Extension:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[str]:
        if fails:
            raise OSError(f"{name} cannot be opened")
        log.append(f"{name} opened")
        try:
            yield f"the resource of {name}"
        finally:
            log.append(f"{name} closed")

    async def show(visit: df.Visit) -> str:
        return str(visit.resource)

    return df.Extension(name=name, step_types=(saying(name, run=show),), lifespan=lifespan)


async def test_what_an_extension_opens_is_there_while_the_runtime_is_open() -> None:
    log: list[str] = []
    extensions = [opening("one", log), opening("two", log)]
    async with df.Runtime("sqlite://:memory:", extensions=extensions) as runtime:
        assert log == ["one opened", "two opened"]
        workflow = df.load(flow("two"), extensions=extensions)
        result = await runtime.runner(workflow).run()
        entries = await runtime.store.entries(result.execution_id)
        assert "the resource of two" in [entry.output for entry in entries]
        await runtime.close()
    assert log == ["one opened", "two opened", "two closed", "one closed"]


async def test_what_was_opened_before_one_that_cannot_be_is_closed_with_the_store() -> None:
    log: list[str] = []
    runtime = df.Runtime("sqlite://:memory:", extensions=[opening("one", log), opening("two", log, fails=True)])
    with pytest.raises(OSError, match="two cannot be opened"):
        async with runtime:
            pass
    assert log == ["one opened", "one closed"]
    with pytest.raises(df.StoreError):
        await runtime.store.find()


async def test_two_runtimes_have_resources_of_their_own() -> None:
    log: list[str] = []
    extension = opening("one", log)
    async with df.Runtime("sqlite://:memory:", extensions=[extension]):
        async with df.Runtime("sqlite://:memory:", extensions=[extension]):
            pass
        assert log == ["one opened", "one opened", "one closed"]


# --- events -----------------------------------------------------------------------------------------------------------


async def telling(visit: df.Visit) -> str:
    visit.emit("news.told", {"number": 1})
    return "told"


NEWS = df.Extension(name="news", step_types=(saying("news", run=telling),), events=("news.told",))


async def test_an_event_of_an_extension_is_streamed_with_its_place_and_can_be_asked_for() -> None:
    async with df.Runtime("sqlite://:memory:", workflows=[flow("news")], extensions=[NEWS]) as runtime:
        wanted: list[df.Event] = []
        runtime.subscribe(wanted.append, events=["news.told"])
        told = [event async for event in runtime.stream("w").stream(execution_id="e")]
        durable = [event.type async for event in runtime.events("e")]
    types = [event.type for event in told]
    assert types.index("step.started") < types.index("news.told") < types.index("step.completed")
    (event,) = wanted
    assert event.id is None
    assert event.data == {
        "workflow_id": "w",
        "execution_id": "e",
        "step_id": "s",
        "step_type": "news",
        "path": "s",
        "attempt": 1,
        "data": {"number": 1},
    }
    assert event.to_sse().startswith("event: news.told\ndata: {")
    assert "news.told" not in durable


async def test_asking_for_an_event_that_no_extension_has_is_refused_with_a_hint() -> None:
    async with df.Runtime("sqlite://:memory:", extensions=[NEWS]) as runtime:
        with pytest.raises(df.ConfigError, match=r"no event type 'news.tld' \(did you mean 'news.told'\?\)"):
            runtime.subscribe(print, events=["news.tld"])


@pytest.mark.parametrize("name", ["news.tolt", "step.started", "other.told"])
async def test_an_event_that_was_not_declared_is_a_step_error(name: str) -> None:
    async def tell(visit: df.Visit) -> None:
        visit.emit(name)

    extensions = [
        df.Extension(name="news", step_types=(saying("news", run=tell),), events=("news.told",)),
        df.Extension(name="other", events=("other.told",)),
    ]
    async with df.Runtime("sqlite://:memory:", workflows=[flow("news")], extensions=extensions) as runtime:
        result = await runtime.runner("w").run()
    assert result.error_info is not None
    assert result.error_info.type == "ConfigError"
    assert f"extension 'news' has no event type '{name}'" in result.error_info.message


async def test_a_subscriber_that_raises_changes_nothing_and_data_that_cannot_be_told_fail_without_one_too() -> None:
    def refuse(event: df.Event) -> None:
        raise RuntimeError("not today")

    async with df.Runtime("sqlite://:memory:", workflows=[flow("news")], extensions=[NEWS]) as runtime:
        runtime.subscribe(refuse)
        assert (await runtime.runner("w").run()).completed

    async def tell(visit: df.Visit) -> None:
        visit.emit("news.told", object())

    bad = df.Extension(name="news", step_types=(saying("news", run=tell),), events=("news.told",))
    async with df.Runtime("sqlite://:memory:", workflows=[flow("news")], extensions=[bad]) as runtime:
        result = await runtime.runner("w").run()
        assert result.error_info is not None
        assert result.error_info.type == "OutputError"
