from collections.abc import Mapping
from pathlib import Path

import pytest

from durable_flow.cli._mistake import Mistake
from durable_flow.cli._services import load_services


@pytest.fixture
def write(folder: Path) -> Path:
    return folder


def names(source: str) -> list[str]:
    return sorted(load_services([source]))


def test_a_module_gives_its_mapping_named_services(folder: Path) -> None:
    assert names("shop") == ["Shop"]


def test_another_mapping_can_be_named(folder: Path) -> None:
    (folder / "two.py").write_text("services = {'A': object()}\nfakes = {'B': object()}\n")
    assert names("two:fakes") == ["B"]


def test_a_function_makes_services(folder: Path) -> None:
    (folder / "made.py").write_text("def services():\n    return {'Made': object()}\n")
    assert names("made") == ["Made"]
    (folder / "takes.py").write_text("def services(url):\n    return {}\n")
    with pytest.raises(Mistake, match="services takes parameters"):
        names("takes")
    (folder / "gives.py").write_text("def services():\n    return 5\n")
    with pytest.raises(Mistake, match=r"services\(\) gave int, not a mapping"):
        names("gives")
    (folder / "fails.py").write_text("def services():\n    raise OSError('no database')\n")
    with pytest.raises(Mistake, match="OSError: no database"):
        names("fails")


def test_one_class_or_object_can_be_named(folder: Path) -> None:
    (folder / "one.py").write_text("class Card: ...\nbank = Card()\n")
    assert names("one:Card") == ["Card"]
    assert names("one:bank") == ["bank"]


def test_without_a_mapping_public_classes_and_objects_are_services(folder: Path) -> None:
    (folder / "public.py").write_text(
        "import logging, os\nfrom pathlib import Path\nfrom shop import Shop as Other\n"
        "log = logging.getLogger()\nLIMIT = 5\nTEXT = 'x'\nPEOPLE = ['a']\n"
        "class Card: ...\nclass Declined(Exception): ...\nclass _Private: ...\n"
        "bank = Card()\ntools = {'a': print}\nplain = {'a': 1}\n"
    )
    assert names("public") == ["Card", "bank", "tools"]


def test_all_says_what_is_public(folder: Path) -> None:
    (folder / "listed.py").write_text(
        "from shop import Shop\n__all__ = ['Shop', 'greet']\nclass Other: ...\ndef greet(): ...\ndef hidden(): ...\n"
    )
    found = load_services(["listed"])
    assert sorted(found) == ["Shop", "listed"]


def test_functions_are_one_service_named_like_the_module(folder: Path) -> None:
    (folder / "pkg").mkdir()
    (folder / "pkg/__init__.py").touch()
    (folder / "pkg/tools.py").write_text("async def add(a, b):\n    return a + b\n")
    assert names("pkg.tools") == ["tools"]


def test_a_path_is_accepted_and_its_neighbours_can_be_imported(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep/helper.py").write_text("VALUE = 1\n")
    (folder / "deep/work.py").write_text("import helper\nclass Work: ...\nfakes = {'Fake': helper}\n")
    assert names("deep/work.py") == ["Work"]
    assert names(str(folder / "deep/work.py")) == ["Work"]
    assert names("deep/work.py:fakes") == ["Fake"]


def test_a_file_named_like_a_module_of_python_is_itself(folder: Path) -> None:
    import json

    (folder / "json.py").write_text("def dump(value):\n    return value\n")
    found = load_services(["./json.py"])
    assert list(found) == ["json"]
    assert found["json"] is not json
    assert __import__("json") is json


def test_several_sources_are_merged_unless_they_clash(folder: Path) -> None:
    (folder / "more.py").write_text("class More: ...\n")
    assert sorted(load_services(["shop", "more"])) == ["More", "Shop"]
    with pytest.raises(Mistake, match="--services shop: there are two services named 'Shop'"):
        load_services(["shop", "shop"])


@pytest.mark.parametrize("name", ["''", "'_x'", "5"])
def test_names_of_services_are_names(folder: Path, name: str) -> None:
    (folder / "odd.py").write_text(f"services = {{{name}: object()}}\n")
    with pytest.raises(Mistake, match="is not a name for a service"):
        load_services(["odd"])


def test_what_is_found_is_a_mapping_of_objects(folder: Path) -> None:
    found = load_services(["shop.py"])
    assert isinstance(found, Mapping)
    assert type(found["Shop"]).__name__ == "Shop"
