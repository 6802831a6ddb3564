"""The ledger of how often rows have judged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.core import files
from tasks.core.errors import IntegrityError, MachineError
from tasks.core.uses import LEDGER, Past, carry, count, seen, told


def judged(folder: Path, models: int, test: str = "test", **limits: int) -> list[tuple[int, str, tuple[str, ...]]]:
    found = [count(folder, test, (f"model {number}", "settings"), **limits) for number in range(models)]
    return [(one.n, one.note, one.problems) for one in found]


def test_each_new_file_counts_and_the_limits_warn_and_refuse(tmp_path: Path) -> None:
    found = judged(tmp_path, 5, warn_after=2, refuse_after=4)
    assert [n for n, _, _ in found] == [1, 2, 3, 4, 5]
    assert ["plan another test set" in note for _, note, _ in found] == [False, False, True, True, False]
    assert [bool(problems) for _, _, problems in found] == [False] * 4 + [True]
    assert "base.seed" in found[-1][2][0]
    last = count(tmp_path, "test", ("model 9", "settings"), 2, 4)
    assert (last.kind, last.rule, last.fails_as) == ("use", "nothing_found", "INCONCLUSIVE")


def test_the_same_judgement_keeps_its_number_even_beyond_the_limit(tmp_path: Path) -> None:
    before = judged(tmp_path, 3, warn_after=1, refuse_after=2)
    assert judged(tmp_path, 3, warn_after=1, refuse_after=2) == before
    assert not before[1][2]
    assert before[2][2]


def test_other_settings_count_and_another_test_set_begins_anew(tmp_path: Path) -> None:
    assert count(tmp_path, "test", ("model", "settings")).n == 1
    assert count(tmp_path, "test", ("model", "wider margin")).n == 2
    assert count(tmp_path, "fresh", ("model", "settings")).n == 1
    assert set(files.read_json(tmp_path / LEDGER)["tests"]) == {"test", "fresh"}


def test_a_kill_in_the_middle_of_writing_leaves_the_old_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(tmp_path, 2)
    before = (tmp_path / LEDGER).read_bytes()

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            count(tmp_path, "test", ("another", "settings"))
    assert (tmp_path / LEDGER).read_bytes() == before
    assert count(tmp_path, "test", ("another", "settings")).n == 3


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema_version": 2, "tests": {}}', '{"schema_version": 1, "tests": {"a": [1]}}']
)
def test_an_unreadable_ledger_is_no_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / LEDGER).write_text(text)
    with pytest.raises(IntegrityError, match="ledger"):
        count(tmp_path, "test", ("model", "settings"))
    assert (tmp_path / LEDGER).read_text() == text


def test_a_folder_that_cannot_be_made_is_the_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError):
        count(tmp_path / "file", "test", ("model", "settings"))


def test_a_removed_ledger_is_filled_up_from_evidence(tmp_path: Path) -> None:
    judged(tmp_path, 5)
    about = told("test", "settings", {"model 3": 4})
    record = {"stage": "verify", "measured": {"test": about}}
    evidence: dict[str, Any] = {
        "provenance": {"runs": {"verify": record}},
        "rejected": {"verdict": "REGRESSION", "lines": [{"model_sha256": "model 2"}],
                     "test": told("test", "settings", {"model 2": 3})},
        "pulled": {"verdict": "ACCEPT", "lines": [{"model_sha256": "elsewhere"}],
                   "test": {"sha256": "test", "settings": "settings"}},
        "other": {"stage": "verify", "measured": {"test": told("another test", "settings", {"model 9": 9})}},
        "not run here": {"runs": {"verify": "not run on this machine"}},
        "old": {"verdict": "ACCEPT"},
    }  # fmt: skip
    for name, value in evidence.items():
        files.write_json(tmp_path / f"{name}.json", value)
    (tmp_path / "cut.json").write_text('{"test": {"sha2')
    past = seen("test", [tmp_path / f"{name}.json" for name in (*evidence, "cut", "none")])
    assert past == Past({3: ("model 2", "settings"), 4: ("model 3", "settings")}, [("elsewhere", "settings")])
    (tmp_path / LEDGER).unlink()
    again = count(tmp_path, "test", ("model 3", "settings"), known=past)
    assert again.n == 4, "the very same judgement keeps its number"
    assert "lacked 5 judgements" in again.note, "four by their number, and one that is told without"
    assert count(tmp_path, "test", ("new", "settings"), known=past).n == 6
    assert "lacked" not in count(tmp_path, "test", ("new", "settings"), known=past).note


def test_processes_that_count_at_once_lose_no_judgement(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tasks.core.uses import count\n"
        "for number in range(20): count(Path(sys.argv[1]), 'test', (f'{sys.argv[2]} {number}', ''))"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, tmp_path, name]) for name in "ab"]
    assert [process.wait(60) for process in running] == [0, 0]
    assert count(tmp_path, "test", ("last", "settings")).n == 41


def test_a_ledger_that_is_carried_along_loses_nothing_of_either(tmp_path: Path) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    for folder, models in ((home, "ab"), (away, "bc")):
        for model in models:
            count(folder, "test", (model, "s"))
    carry(tmp_path / "none", home)
    carry(away, home)
    assert [one["model"] for one in files.read_json(home / LEDGER)["tests"]["test"]] == ["a", "b", "c"]
    assert count(home, "test", ("c", "s")).n == 3
