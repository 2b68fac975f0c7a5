"""The rules that must survive every change, read from the source itself."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "durable_flow"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

GROUND = {"errors", "limits", "clock", "ids", "journal"}
BELOW = {
    "errors": set(),
    "limits": set(),
    "clock": set(),
    "ids": set(),
    "journal": set(),
    "model": GROUND,
    "expr": GROUND | {"model"},
    "steps": GROUND | {"model", "expr"},
    "extension": GROUND | {"model", "steps"},
    "definition": GROUND | {"model", "expr", "steps", "machine", "extension"},
    "machine": {"errors", "limits", "model"},
    "codec": {"errors", "ids"},
    "stores": GROUND | {"model", "codec"},
    "transaction": {"errors"},
    "services": {"errors", "model", "transaction"},
    "history": {"model", "machine"},
    "events": {"errors", "clock", "model"},
    "rehearsal": {"model", "steps"},
    "position": {"model", "steps", "history", "machine"},
    "comparison": {"model"},
    "migration": {"errors", "model", "steps", "history", "position", "machine"},
    "live": GROUND | {"model", "machine", "stores"},
    "context": GROUND | {"model", "expr", "steps", "machine", "live", "rehearsal", "services", "transaction"},
}
"""Which parts of the package a part may import, besides itself."""

EDGES = ("cli", "web", "testing", "extensions")
"""What comes in by the door third parties use: the names `durable_flow` exports."""

DOORS = {
    "cli": {"durable_flow.testing"},
    "testing.contract": {"durable_flow.stores.base"},
}
"""What else is public, for whom: who writes a store has the one module. What users test with is public too: a command
does it for them."""


def part_of(module: str) -> str:
    """The part of the package a module belongs to: `expr` for `durable_flow.expr.condition`."""
    return module.split(".")[1] if "." in module else ""


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below that runs: what stands under `if TYPE_CHECKING` is for annotations."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from executed(child)


def imports_of(tree: ast.AST) -> Iterator[str]:
    """The modules that are imported anywhere, in functions too."""
    for node in executed(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in inner)


def ours(module: str) -> list[str]:
    """The modules of the package that a module imports."""
    found = imports_of(ast.parse(MODULES[module].read_text()))
    return [name for name in found if name == "durable_flow" or name.startswith("durable_flow.")]


@pytest.mark.parametrize("module", [name for name in MODULES if part_of(name) in BELOW])
def test_imports_point_down(module: str) -> None:
    part = part_of(module)
    up = [name for name in ours(module) if part_of(name) not in BELOW[part] | {part}]
    assert not up, f"{module} imports {up}"


@pytest.mark.parametrize("module", [name for name in MODULES if part_of(name) in ("engine", "context", "machine")])
def test_the_engine_knows_no_concrete_store(module: str) -> None:
    stores = [name for name in ours(module) if part_of(name) == "stores" and name != "durable_flow.stores.base"]
    assert not stores


@pytest.mark.parametrize("module", [name for name in MODULES if part_of(name) == "steps"])
def test_steps_see_neither_store_nor_engine(module: str) -> None:
    assert not {part_of(name) for name in ours(module)} & {"stores", "engine", "runtime", "runners"}


@pytest.mark.parametrize("module", [name for name in MODULES if part_of(name) in EDGES])
def test_the_edges_use_public_names_only(module: str) -> None:
    parts = module.split(".")
    own = ".".join(parts[:3] if parts[1] == "extensions" else parts[:2])
    doors = {
        name for part, names in DOORS.items() if f"{module}.".startswith(f"durable_flow.{part}.") for name in names
    }
    private = [
        name for name in ours(module) if name not in doors | {"durable_flow"} and not f"{name}.".startswith(f"{own}.")
    ]
    assert not private, f"{module} imports {private}"


@pytest.mark.parametrize("module", MODULES)
def test_only_the_contract_of_stores_needs_pytest(module: str) -> None:
    if not f"{module}.".startswith("durable_flow.testing.contract."):
        found = {name.split(".")[0] for name in imports_of(ast.parse(MODULES[module].read_text()))}
        assert not found & {"pytest", "pytest_asyncio", "_pytest"}
        assert "durable_flow.testing.contract" not in ours(module)


# --- state ------------------------------------------------------------------------------------------------------------

MUTABLE = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)
MAKERS = {"dict", "list", "set", "defaultdict", "OrderedDict", "Counter", "deque", "ContextVar", "WeakValueDictionary"}
CHANGES = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "popitem", "remove", "discard", "clear"}


def is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        name = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
        return name in MAKERS
    return isinstance(value, MUTABLE)


def module_level_mutables(tree: ast.Module) -> set[str]:
    """The names a module binds, at its top level, to something that can change."""
    found = set()
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        if isinstance(statement, ast.Assign | ast.AnnAssign) and is_mutable(statement.value):
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def changed_names(tree: ast.Module) -> Iterator[str]:
    """Names that functions change in place, delete from or rebind with `global`."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in (inner for function in functions for inner in ast.walk(function)):
        match node:
            case ast.Global(names=names):
                yield from names
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
                yield name
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr)) if attr in CHANGES:
                yield name


@pytest.mark.parametrize("module", MODULES)
def test_no_module_holds_state(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    mutable = module_level_mutables(tree)
    variables = {name for name in mutable if not name.strip("_").isupper() and name != "__all__"}
    assert not variables, f"{module} holds {variables}: a constant is written in capitals"
    assert not mutable & set(changed_names(tree)), f"{module} changes its constants"
    assert not {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}


# --- step types -------------------------------------------------------------------------------------------------------


def of_a_step(value: ast.expr) -> bool:
    """Waits, errors and problems have a `type` too; those may be compared."""
    return not any(word in ast.unparse(value) for word in ("error", "halt", "wait", "declared", "event"))


def compares_type_with_text(node: ast.AST) -> bool:
    match node:
        case ast.Compare(left=left, comparators=right):
            sides = [left, *right]
            text = [ast.walk(side) for side in sides]
            asks = any(
                isinstance(side, ast.Attribute) and side.attr == "type" and of_a_step(side.value) for side in sides
            )
            return asks and any(
                isinstance(part, ast.Constant) and isinstance(part.value, str) for walk in text for part in walk
            )
        case ast.Match(subject=ast.Attribute(attr="type", value=value), cases=cases):
            return of_a_step(value) and any(
                isinstance(part, ast.MatchValue) for case in cases for part in ast.walk(case.pattern)
            )
    return False


@pytest.mark.parametrize("module", MODULES)
def test_nothing_switches_on_the_type_of_a_step(module: str) -> None:
    lines = [node.lineno for node in ast.walk(ast.parse(MODULES[module].read_text())) if compares_type_with_text(node)]  # type: ignore[attr-defined]
    assert not lines, f"{module} asks `.type == …` in lines {lines}: ask the step type instead"


STEP_FILES = [path for path in sorted((PACKAGE / "steps").glob("*.py")) if path.stem not in ("base", "__init__")]


@pytest.mark.parametrize("path", STEP_FILES, ids=lambda path: path.stem)
def test_one_file_is_one_step_type(path: Path) -> None:
    if path.stem.startswith("_"):
        return
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    types = [node.name for node in classes if any("StepType" in ast.unparse(base) for base in node.bases)]
    assert len(types) == 1, f"{path.name} defines {types or 'no step type'}"


# --- the repository ---------------------------------------------------------------------------------------------------

OUTSIDE = re.compile(r"\.\./shared\b|/work/|/home/\w+/")


def test_nothing_refers_to_files_outside_the_repository() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if name == "tests/test_architecture.py" or not path.is_file():
            continue
        text = path.read_text(errors="replace")
        found += [f"{name}:{text.count(chr(10), 0, hit.start()) + 1}: {hit[0]}" for hit in OUTSIDE.finditer(text)]
    assert not found
