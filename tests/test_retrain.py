"""`assay retrain` on a tiny project: killed, taken up, accepted, nothing to do, refused; the user's files untouched."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import fake_pipeline
import pytest
import retrain_world
from chromium import PHONE, opened, shown, without_chromium
from fake_pipeline import git
from retrain_world import left_behind, records, wait_for

from flows import registry
from flows.retraining import Wanted, plain
from tasks.core import files
from tasks.core.errors import UsageError

FIRST, SECOND = "2020-02-01", "2020-03-10"
_DRAWINGS = ("value of each trial", "metric and size of each candidate")


def untouched(root: Path) -> bool:
    return (
        git(root, "status", "--porcelain") == " M suite.yaml\n" and git(root, "branch", "--show-current") == "master\n"
    )


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A project whose first retraining was killed in `compress`, and whose second call took it up."""
    root = retrain_world.make(tmp_path_factory.mktemp("retrain") / "project")
    with (root / "suite.yaml").open("a") as file:
        file.write("# somebody works on this\n")
    fake_pipeline.behave(root, {"compress": "sleep"})
    command = [str(fake_pipeline.BIN / "assay"), "retrain", "--as-of", FIRST]
    first = subprocess.Popen(command, cwd=root, env=fake_pipeline.environment(root), stderr=subprocess.DEVNULL)
    wait_for(root / "pids.json")
    second = fake_pipeline.run(root, "assay", "retrain", "--as-of", FIRST)
    assert "SKIPPED: another retraining of it is running" in second.stdout
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert untouched(root)
    fake_pipeline.behave(root, {})
    return root, fake_pipeline.run(root, "assay", "retrain", "--as-of", FIRST)


def test_a_killed_run_is_taken_up_where_it_was(accepted: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    root, done = accepted
    assert "going on with the retraining of" in done.stderr
    assert "tune: done" not in done.stderr  # it was done before the kill
    assert "compress: done" in done.stderr
    (record,) = records(root)
    assert (record["word"], record["reason"], record["branch"]) == (
        "ACCEPTED",
        "the first run",
        f"retrain/tiny/{FIRST}",
    )
    assert untouched(root)
    assert not left_behind(root)
    assert list((root.parent / "remote").rglob("*.dir"))  # what it made was pushed


def test_what_is_accepted_is_a_branch_a_tag_and_a_bundle(
    accepted: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    root, done = accepted
    (record,) = records(root)
    assert (root / "dist" / "tiny" / record["version"] / "model.onnx").is_file()
    branch = record["branch"]
    assert git(root, "rev-list", "-n1", "tiny@v1.0.0") == git(root, "rev-parse", branch)
    text = git(root, "show", f"{branch}:params.yaml")
    assert text.startswith("# A comment that stays.\n")
    assert f"as_of: '{FIRST}T00:00:00+00:00'" in text
    assert "artifacts/export" in git(root, "show", f"{branch}:dvc.lock")
    assert f"git merge {branch} && dvc checkout" in done.stdout
    page = (Path(record["folder"]) / "report.html").read_text()
    for told in ("ACCEPTED", "the first run", branch, record["version"], "verify.trials"):
        assert told in page


@without_chromium
@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_the_page_is_readable(
    accepted: tuple[Path, subprocess.CompletedProcess[str]], browser: Any, phone: bool
) -> None:
    (record,) = records(accepted[0])
    page = opened(browser, Path(record["folder"]) / "report.html", phone)
    (title,) = shown(page, "h1")
    assert title.text == "Retraining of tiny: ACCEPTED"
    assert title.rect["y"] < 120
    headings = [heading.text for heading in shown(page, "h2")]
    wanted = ["What to do next", "Decision", "Verdict of the gate: ACCEPT", "Champion: PASS", "Checks of the data"]
    assert [one for one in headings if one in wanted] == wanted
    assert {"Search", "Compression", "What changed since the last accepted run"} <= set(headings)
    assert [len(shown(page, f'svg[aria-label="{name}"] circle')) for name in _DRAWINGS] == [2, 2]
    assert "rows are whole" in page.page_source
    if phone:
        assert page.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"]


def test_what_it_says_to_do_next_brings_the_data_of_the_version_without_the_remote(
    accepted: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    root = retrain_world.copy(accepted[0], tmp_path / "project")
    (record,) = records(root)
    git(root, "checkout", "-q", "suite.yaml")
    merge, checkout = (command.split() for command in record["next"][0].split(" && "))
    git(root, *merge[1:])
    fake_pipeline.run(root, *checkout)
    assert files.read_json(root / "artifacts" / "metrics.json") == {"verify.trials": 2}
    assert (root / "artifacts" / "export" / "manifest.json").is_file()
    assert fake_pipeline.run(root, "dvc", "status").stdout == "Data and pipelines are up to date.\n"


def test_the_next_snapshot_is_compared_and_the_search_begins_warm(
    accepted: tuple[Path, subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = fake_pipeline.run_stages_of(retrain_world.copy(accepted[0], tmp_path / "project"), monkeypatch)
    with pytest.raises(UsageError, match="date or a moment"):
        plain(Wanted(root / "params.yaml", as_of="soon"))
    register = registry.register

    def cut_off(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "register", cut_off)
    with pytest.raises(KeyboardInterrupt):  # bundle and branch are there, tag and record are not
        plain(Wanted(root / "params.yaml", as_of=SECOND))
    monkeypatch.setattr(registry, "register", register)
    nothing = plain(Wanted(root / "params.yaml", as_of="2020-03-11"))  # completes the other one first
    again, last = records(root)[-2:]
    assert f"assay promote tiny {again['version']} --to staging" in capsys.readouterr().err  # told as any other
    assert (nothing["word"], last["word"]) == ("NOTHING", "NOTHING")
    assert git(root, "tag").split() == ["tiny@v1.0.0", "tiny@v2.0.0"]
    assert again["word"] == "ACCEPTED"
    assert again["reason"].startswith("age: the last accepted run is 38.0 days old; volume: 123% more rows")
    assert again["version"].startswith("2-")
    assert "warm_start: 'tiny.warm_start.csv'" in git(root, "show", f"{again['branch']}:params.yaml")
    assert "${tune.warm_start}" in git(root, "show", f"{again['branch']}:dvc.yaml")
    page = (Path(again["folder"]) / "report.html").read_text()
    assert "<td>ingest.as_of</td>" in page
    assert not left_behind(root)


def test_broken_data_are_refused_before_anything_is_trained(
    accepted: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fake_pipeline.run_stages_of(retrain_world.copy(accepted[0], tmp_path / "project"), monkeypatch)
    retrain_world.grow(root, 100, skip=400)
    refused = fake_pipeline.run(root, "assay", "retrain", "--as-of", SECOND, code=3)
    assert "400 rows before 2020-02-01T00:00:00+00:00 are gone" in refused.stderr
    assert "tune" not in refused.stderr
    assert "mend the source, then `assay retrain`;" in refused.stderr  # to force it is not the first advice
    assert records(root)[-1]["next"] == ["assay retrain"]
    assert not left_behind(root)
    assert git(root, "branch", "--list", "retrain/*").split() == [f"retrain/tiny/{FIRST}"]


@pytest.mark.parametrize(("stage", "code", "by"), [("validate", 3, "data"), ("verify", 4, "candidate")])
def test_a_first_run_that_a_stage_rejects_says_so_in_that_stages_own_words(
    stage: str, code: int, by: str, tmp_path: Path
) -> None:
    root = retrain_world.make(tmp_path / "project")
    fake_pipeline.behave(root, {stage: f"exit {code}"})
    fake_pipeline.run(root, "assay", "retrain", "--as-of", FIRST, code=code)
    (record,) = records(root)
    assert (record["word"], record["by"]) == ("REJECTED", by)
    assert record["reason"] == f"{stage}: cannot\n  found:   nothing"
    page = (Path(record["folder"]) / "report.html").read_text()
    assert "cannot" in page
    assert ("Compression" in page) == (stage == "verify")  # what later stages left is of another run
    assert not left_behind(root)
