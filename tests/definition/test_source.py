"""Where definitions come from, and what is no definition."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from durable_flow.definition.loading import load
from durable_flow.errors import ValidationError
from durable_flow.limits import Limits
from tests.definition.documents import steps

TEXT = steps("{id: a, type: end}")


def told(source: object, **options: object) -> str:
    with pytest.raises(ValidationError) as caught:
        load(source, **options)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "flow.yml"
    path.write_text(TEXT)
    return path


def test_a_path_may_be_text_or_an_object(path: Path) -> None:
    assert load(path).hash == load(str(path)).hash == load(TEXT).hash


def test_the_source_is_remembered(path: Path) -> None:
    assert [load(source).source for source in (path, TEXT, load(TEXT).document)] == [str(path), "<text>", "<mapping>"]


def test_a_line_that_is_no_path_is_told_so() -> None:
    assert told("id: w") == "id: w: no such file; YAML text must contain a newline"


def test_a_missing_file(tmp_path: Path) -> None:
    missing = tmp_path / "x.yml"
    assert told(missing) == f"{missing}: no such file; YAML text must contain a newline"


def test_an_empty_text() -> None:
    assert told("") == "'': no such file; YAML text must contain a newline"
    assert told("\n") == "<text>:1:1: the document is empty"


def test_a_folder(tmp_path: Path) -> None:
    assert told(tmp_path) == f"{tmp_path}: is a folder; name the file in it"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert told(pipe) == f"{pipe}: is not a regular file"


def test_a_device() -> None:
    assert told("/dev/zero") == "/dev/zero: is not a regular file"


def test_a_large_file_is_refused_unread(path: Path) -> None:
    assert "more than 10 bytes" in told(path, limits=Limits(document_bytes=10))


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    binary = tmp_path / "x.yml"
    binary.write_bytes(b"id: \xff\xfe\n")
    assert told(binary) == f"{binary}: is not UTF-8 text: invalid start byte at byte 4"


def test_a_path_with_a_nul() -> None:
    assert "not the name of a file" in told("a\0b")


def test_a_path_that_is_too_long() -> None:
    assert "not the name of a file" in told("x" * 10_000)


@pytest.mark.parametrize("source", [None, 5, [TEXT], b"id: w\n", object()])
def test_something_else(source: object) -> None:
    assert told(source) == f"<source>: expected a path, YAML text or a mapping, got {type(source).__name__}"


def test_a_document_below_a_folder(path: Path) -> None:
    assert load("flow.yml", base=path.parent).id == "w"


@pytest.mark.parametrize("name", ["../secret.yml", "/etc/hostname", "link.yml"])
def test_nothing_outside_of_the_folder_is_read(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "flows"
    folder.mkdir()
    (tmp_path / "secret.yml").write_text(TEXT)
    (folder / "link.yml").symlink_to(tmp_path / "secret.yml")
    assert told(name, base=folder) == f"{name}: is outside of {folder}"
