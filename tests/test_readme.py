"""What the README promises exists: commands, targets, files, links between stage names and exit codes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.errors import AssayError
from tasks.core import errors
from tasks.core.settings import STAGES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"\bassay ([a-z][a-z-]+)", README)))


def test_readme_names_commands() -> None:
    assert {"run", "predict", "doctor"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_assay_command_of_the_readme_exists(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", command, "--help"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_file_of_the_project_that_the_readme_names_exists() -> None:
    named = re.findall(r"`((?:tasks|flows|deploy|examples|benchmarks|tests)/[\w./-]*)`", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_stages_are_listed_in_order() -> None:
    listed = re.findall(r"^\| `([a-z]+)` \| .* \| .* \|$", README, re.MULTILINE)
    assert [name for name in listed if name in STAGES] == list(STAGES)


def test_the_exit_codes_are_those_of_the_error_tree() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d) \| ", README, re.MULTILINE)}
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AssayError)]
    assert listed == {0} | {kind.exit_code for kind in kinds}
