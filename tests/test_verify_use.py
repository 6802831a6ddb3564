"""The ledger of a test set's uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core import files
from tasks.core.errors import IntegrityError, MachineError
from tasks.verify.use import LEDGER, count


def judged(folder: Path, models: int, test: str = "test", **limits: int) -> list[tuple[int, str, tuple[str, ...]]]:
    found = [count(folder, test, f"model {number}", "settings", **limits) for number in range(models)]
    return [(one.n, one.note, one.problems) for one in found]


def test_each_new_file_counts_and_the_limits_warn_and_refuse(tmp_path: Path) -> None:
    found = judged(tmp_path, 5, warn_after=2, refuse_after=4)
    assert [n for n, _, _ in found] == [1, 2, 3, 4, 5]
    assert ["plan a fresh test set" in note for _, note, _ in found] == [False, False, True, True, False]
    assert [bool(problems) for _, _, problems in found] == [False] * 4 + [True]
    assert "base.seed" in found[-1][2][0]
    last = count(tmp_path, "test", "model 9", "settings", 2, 4)
    assert (last.kind, last.rule, last.fails_as) == ("use", "nothing_found", "INCONCLUSIVE")


def test_the_same_judgement_keeps_its_number_even_beyond_the_limit(tmp_path: Path) -> None:
    before = judged(tmp_path, 3, warn_after=1, refuse_after=2)
    assert judged(tmp_path, 3, warn_after=1, refuse_after=2) == before
    assert not before[1][2]
    assert before[2][2]


def test_other_settings_count_and_another_test_set_begins_anew(tmp_path: Path) -> None:
    assert count(tmp_path, "test", "model", "settings").n == 1
    assert count(tmp_path, "test", "model", "wider margin").n == 2
    assert count(tmp_path, "fresh", "model", "settings").n == 1
    assert set(files.read_json(tmp_path / LEDGER)["tests"]) == {"test", "fresh"}


def test_a_kill_in_the_middle_of_writing_leaves_the_old_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged(tmp_path, 2)
    before = (tmp_path / LEDGER).read_bytes()

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            count(tmp_path, "test", "another", "settings")
    assert (tmp_path / LEDGER).read_bytes() == before
    assert count(tmp_path, "test", "another", "settings").n == 3


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema_version": 2, "tests": {}}', '{"schema_version": 1, "tests": {"a": [1]}}']
)
def test_an_unreadable_ledger_is_no_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / LEDGER).write_text(text)
    with pytest.raises(IntegrityError, match="ledger"):
        count(tmp_path, "test", "model", "settings")
    assert (tmp_path / LEDGER).read_text() == text


def test_a_folder_that_cannot_be_made_is_the_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError):
        count(tmp_path / "file", "test", "model", "settings")
