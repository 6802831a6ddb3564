"""What the pages promise exists: commands and their options, settings, files, links; the Chinese README keeps step.

Their commands are run by test_docs_commands.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
from docs_pages import CHINESE, ELSEWHERE, EVERY, PAGES, README, ROOT, blocks, inline, lines, named, prose, text

from deploy.errors import AssayError
from deploy.server.__main__ import _parser
from flows import cli
from tasks.core import errors, settings
from tasks.core.settings import STAGES

#: Programs of others, which are named and not looked into.
FOREIGN = {"source", "curl", "optuna-dashboard"}


@pytest.mark.parametrize(("page", "words"), EVERY, ids=[f"{page}: {' '.join(words)}" for page, words in EVERY])
def test_a_command_is_one_that_its_program_takes(page: str, words: list[str]) -> None:
    program, *arguments = words
    if program == "assay":
        taken(arguments)
    elif program == "dvc":
        from dvc.cli import parse_args

        parse_args(arguments)
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", text(ROOT / "Makefile"), re.MULTILINE)
    elif program == "pip":
        assert arguments[0] == "install"
        wanted = re.fullmatch(r"\.(/[\w/]+)?(?:\[([\w,]+)\])?", arguments[1])
        assert wanted is not None
        assert (ROOT / f".{wanted[1] or ''}" / "pyproject.toml").is_file()
        assert set((wanted[2] or "").split(",")) - {""} <= set(project()["optional-dependencies"])
    elif program == "pytest":
        assert (ROOT / arguments[0]).exists()
    else:
        assert program in FOREIGN, f"{page}: nothing here knows {program}"


@cache
def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]
    return found


@cache
def assay() -> Any:
    return typer.main.get_command(cli.app)


def taken(arguments: Sequence[str]) -> None:
    """Parse as the command line does: unknown commands and options, missing arguments and wrong types raise."""
    group, words = assay(), list(arguments)
    context = group.make_context("assay", list(words))
    while hasattr(group, "commands"):
        assert words[0] in group.commands, f"assay has no {words[0]}"
        group, words = group.commands[words[0]], words[1:]
        context = group.make_context(group.name, list(words), parent=context)


def options(command: Any) -> set[str]:
    below = [options(one) for one in getattr(command, "commands", {}).values()]
    return {name for one in command.params for name in one.opts}.union(*below)


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_what_is_said_in_a_sentence_is_a_command_or_an_option_too(path: Path) -> None:
    known = options(assay()) | {name for action in _parser()._actions for name in action.option_strings} | {"--help"}
    for said in inline(text(path)):
        first, *words = said.split()
        if first == "assay" and words:
            assert words[0] in assay().commands, said
            assert {word for word in words if word.startswith("--")} <= options(assay().commands[words[0]]), said
        elif first.startswith("--"):
            assert first in known, said


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_a_setting_that_is_named_is_one(path: Path) -> None:
    schema = settings.schema()
    for said in inline(text(path)):
        if found := re.match(rf"(?:base|promote|{'|'.join(STAGES)})(?:\.[a-z_]+)+(?=$|:|\s)", said):
            assert holds(schema, schema, found[0].split(".")), said


def holds(schema: dict[str, Any], part: dict[str, Any], keys: Sequence[str]) -> bool:
    """Whether a JSON Schema has the key of a path, in any of the forms that a value may take."""
    if not keys:
        return True
    if "$ref" in part:
        return holds(schema, schema["$defs"][part["$ref"].rpartition("/")[2]], keys)
    if any(holds(schema, one, keys) for word in ("anyOf", "oneOf", "allOf") for one in part.get(word, ())):
        return True
    inner = part.get("properties", {}).get(keys[0])
    return inner is not None and holds(schema, inner, keys[1:])


@pytest.mark.parametrize("path", [*PAGES, *ELSEWHERE], ids=named)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text(path))):
        if not target.startswith("https://"):
            assert (path.parent / target.partition("#")[0]).exists(), target


def test_every_page_is_linked_from_both_readmes() -> None:
    for readme in (README, CHINESE):
        linked = set(re.findall(r"\((docs/[\w-]+\.md)\)", text(readme)))
        assert linked == {named(path) for path in PAGES[2:]}


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_every_file_of_the_project_that_is_named_exists(path: Path) -> None:
    files = [
        said for said in inline(text(path)) if re.fullmatch(r"(tasks|flows|deploy|examples|benchmarks)/[\w./-]*", said)
    ]
    assert [name for name in files if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", [README, CHINESE], ids=named)
def test_stages_and_exit_codes_are_those_of_the_code(path: Path) -> None:
    stages = re.findall(r"^\| `([a-z]+)` \| .* \| .* \|$", text(path), re.MULTILINE)
    assert stages == list(STAGES)
    codes = {int(code) for code in re.findall(r"^\| (\d) \| ", text(path), re.MULTILINE)}
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AssayError)]
    assert codes == {0} | {kind.exit_code for kind in kinds}


def test_the_chinese_readme_keeps_step() -> None:
    """Headings, commands, and in each section the same code, figures of tables and links."""
    own, other = text(README), text(CHINESE)
    assert [len(mark) for mark in headings(own)] == [len(mark) for mark in headings(other)]
    assert list(lines(own)) == list(lines(other))
    assert [block for kind, block in blocks(own) if kind != "console"] == [
        block for kind, block in blocks(other) if kind != "console"
    ]
    for first, second in zip(sections(own), sections(other), strict=True):
        title = first.partition("\n")[0]
        assert sorted(set(inline(first))) == sorted(set(inline(second))), title
        for what in (r"^\| \S+ \|", r"\((docs/[^)]+)\)", r"^- "):
            assert len(re.findall(what, first, re.MULTILINE)) == len(re.findall(what, second, re.MULTILINE)), title


def headings(page: str) -> list[str]:
    return re.findall(r"^(#+) ", prose(page), re.MULTILINE)


def sections(page: str) -> list[str]:
    return re.split(r"^## ", page, flags=re.MULTILINE)[1:]
