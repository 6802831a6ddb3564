"""The pages of the project, and what is in them: blocks of code, commands, words that are set as code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = [README, CHINESE, *sorted((ROOT / "docs").glob("*.md"))]
CUSTOM = ROOT / "examples" / "custom" / "README.md"
ELSEWHERE = [*sorted(ROOT.glob("benchmarks/*/README.md")), CUSTOM]
#: Stands for the one of a version: `<` and `>` would be a shell's.
DIGEST = "0123456789ab"


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(page: str) -> list[tuple[str, str]]:
    """Kind and content of each block of code, in order."""
    return re.findall(r"^ *```(\w+)\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL)


def prose(page: str) -> str:
    return re.sub(r"^ *```\w+\n.*?^ *```$", "", page, flags=re.MULTILINE | re.DOTALL)


def inline(page: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def commands(block: str) -> Iterator[list[str]]:
    """The words of each command in a block, without comments."""
    joined = block.replace("\\\n", " ").replace("<digest>", DIGEST)
    yield from (words for line in joined.splitlines() if (words := shlex.split(line, comments=True)))


def lines(page: str) -> Iterator[list[str]]:
    """The words of each command in a page's blocks of the kind `console`."""
    for kind, block in blocks(page):
        if kind == "console":
            yield from commands(block)


#: Page and words of every command that a reader is told to type.
EVERY = [(named(path), words) for path in [*PAGES, CUSTOM] for words in lines(text(path))]
