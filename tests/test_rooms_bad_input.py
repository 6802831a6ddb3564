"""The rooms as a user meets them, `python -m tasks <stage>`: killed, without room on the disk, or given a mistake.

Whatever happens, the exit code says of which kind it was, nothing half-written is left, the previous artifacts are as
they were, and the next run ends as if nothing had happened.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import worlds

from tasks.core import files, manifest
from tasks.core.errors import MachineError
from tasks.core.settings import load
from tasks.core.stage import run_stage

STAGES = ("tune", "compress", "verify", "export")


def start(root: Path, stage: str, **more: Any) -> subprocess.Popen[str]:
    """Start a stage as DVC does, from the project's folder."""
    command = [sys.executable, "-m", "tasks", stage]
    return subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more)


def finish(process: subprocess.Popen[str], code: int) -> str:
    """Wait; the exit code must be ``code`` and nothing may look like a bug. Returns what it said."""
    out, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert not out
    return said


def left_over(root: Path) -> list[str]:
    """Partial folders and files, anywhere."""
    places = (root / "artifacts", root / "dist" / "tiny")
    names = [path.name for place in places if place.exists() for path in place.iterdir()]
    return [name for name in names if "partial" in name or "previous" in name or name.endswith(".tmp")]


def state(root: Path) -> dict[str, bytes]:
    """Every finished artifact and bundle; not the logs, the locks and the scratch folder."""
    folders = [root / "artifacts" / stage for stage in STAGES] + [root / "dist"]
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in [*paths, root / "artifacts" / "metrics.json"]}


# Killed.

#: Where a stage is certainly inside its work: a line of its log, or a file.
INSIDE: dict[str, Callable[[Path], bool]] = {
    "tune": lambda root: "trial 2 of 3, epoch 1" in log(root, "tune"),
    "compress": lambda root: "fp32 has" in log(root, "compress"),
    "verify": lambda root: (root / "artifacts" / ".verify.partial" / "predictions.parquet").exists(),
    "export": lambda root: any((root / "dist" / "tiny").glob(".partial-*/MANIFEST.sha256")),
}


def log(root: Path, stage: str) -> str:
    path = root / "artifacts" / "logs" / f"{stage}.log"
    return path.read_text() if path.is_file() else ""


def kill_inside(root: Path, stage: str, number: int) -> str:
    """Start a stage, send the signal once it is at work, and return what it said."""
    shutil.rmtree(root / "artifacts" / "logs", ignore_errors=True)
    process = start(root, stage)
    end = time.monotonic() + 60
    while not INSIDE[stage](root):
        assert process.poll() is None, f"{stage} ended before it could be killed: {process.communicate()[1]}"
        assert time.monotonic() < end, f"{stage} never came to its work"
        time.sleep(0.002)
    process.send_signal(number)
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
    return finish(process, expected[signal.Signals(number)])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_interrupted_terminated_and_killed_ends_as_if_nothing_had_happened(
    tiny: Path, world: Path, stage: str
) -> None:
    """Its output is there from a run before, so that the previous artifacts can be seen to stay."""
    artifacts = world / "artifacts"
    shutil.rmtree(world / "dist")
    before = manifest.identity(artifacts / stage)
    said = kill_inside(world, stage, signal.SIGINT)
    assert "interrupted; the previous artifacts are untouched" in said
    assert not left_over(world)
    kill_inside(world, stage, signal.SIGTERM)
    assert not left_over(world)
    kill_inside(world, stage, signal.SIGKILL)
    assert manifest.identity(artifacts / stage) == before
    assert manifest.read(artifacts / stage)

    shutil.rmtree(artifacts / stage)
    finish(start(world, stage), 0)
    assert not left_over(world)
    assert manifest.identity(artifacts / stage) == manifest.identity(tiny / "artifacts" / stage)
    if stage == "tune":
        assert "trial 1 of 3" not in log(world, stage), "the finished trial was not run again"
    if stage == "export":
        assert state(world).keys() == state(tiny).keys()


def test_a_stage_ends_with_the_driver_that_started_it(world: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'tasks', 'tune'])"
    with subprocess.Popen([sys.executable, "-c", code], cwd=world, stderr=subprocess.DEVNULL) as driver:
        end = time.monotonic() + 60
        while not (world / "artifacts" / ".tune.partial").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        driver.kill()
    end = time.monotonic() + 20
    while left_over(world):
        assert time.monotonic() < end, "the stage outlived its driver"
        time.sleep(0.05)
    finish(start(world, "verify"), 0)


# No room, no permission.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of its own with few KiB; the test is skipped where mounting is not allowed."""
    mounted = []

    def mount(kib: int) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    if os.name != "posix" or shutil.which("mount") is None:
        pytest.skip("there is no mount command here")
    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def used_kib(folder: Path) -> int:
    blocks = [-(-path.stat().st_size // 4096) * 4 for path in folder.rglob("*") if path.is_file()]
    return sum(blocks) + 4 * sum(1 for path in folder.rglob("*") if path.is_dir())


@pytest.mark.parametrize(
    ("stage", "changes", "room"),
    [
        ("tune", {"storage": "journal"}, 24),
        ("tune", {"storage": "sqlite"}, 40),
        ("tune", {}, 0),
        ("compress", {}, 48),
        ("verify", {}, 4),
        ("export", {}, 24),
    ],
)
def test_a_full_disk_is_exit_2_and_leaves_the_previous_artifacts(
    world: Path, small_disk: Callable[[int], Path], stage: str, changes: Mapping[str, Any], room: int
) -> None:
    """A real file system with too little room for the stage's second run."""
    root = small_disk(4096)
    for name in ("artifacts", "dist", "params.yaml"):
        shutil.copytree(world / name, root / name) if (world / name).is_dir() else shutil.copy(world / name, root)
    worlds.write_params(root, {stage: changes})
    before = state(root)
    fill = root / "filler"
    free = shutil.disk_usage(root).free
    fill.write_bytes(b"x" * max(0, free - room * 1024))
    said = finish(start(root, stage), 2)
    assert "no space left" in said
    assert "way out" in said
    assert state(root) == before
    assert not left_over(root)
    fill.unlink()
    finish(start(root, stage), 0)
    assert manifest.read(root / "artifacts" / stage)


def test_a_read_only_disk_is_exit_2(world: Path, small_disk: Callable[[int], Path]) -> None:
    """The superuser may write into any folder, but into no file system that is mounted read-only."""
    root = small_disk(4096)
    for name in ("artifacts", "dist"):
        shutil.copytree(world / name, root / name)
    shutil.copy(world / "params.yaml", root)
    before = state(root)
    subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
    said = finish(start(root, "verify"), 2)
    assert "Read-only file system" in said
    assert "base.artifacts_dir" in said
    assert state(root) == before


def test_a_folder_that_may_not_be_written_is_exit_2(world: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser may write into any folder; see the read-only disk and the injected refusal")
    artifacts = world / "artifacts"
    artifacts.chmod(0o500)
    try:
        said = finish(start(world, "verify"), 2)
    finally:
        artifacts.chmod(0o700)
    assert "Permission denied" in said


#: What a room calls to write its first file, by the place that the room takes it from.
WRITERS = {
    "tune": "safetensors.torch.save_file",
    "compress": "onnx.save",
    "verify": "pyarrow.parquet.write_table",
    "export": "tasks.export.contents.shutil.copyfile",
}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("stage", STAGES)
def test_a_refusal_of_the_system_in_the_middle_of_a_stage_is_a_machine_error(
    world: Path, monkeypatch: pytest.MonkeyPatch, stage: str, number: int
) -> None:
    """Injected where files are written, for machines on which nothing can be mounted."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    if stage == "tune":
        worlds.write_params(world, {"tune": {"trials": 1, "epochs": 1}})
    before = state(world)
    monkeypatch.setattr(WRITERS[stage], refuse)
    with pytest.raises(MachineError) as caught:
        run_stage(stage, load(world / "params.yaml"), world)
    assert caught.value.exit_code == 2
    assert os.strerror(number).lower() in str(caught.value).lower() or "no space left" in str(caught.value)
    assert state(world) == before
    assert not left_over(world)


# Mistakes.


def break_validate(root: Path) -> None:
    path = root / "artifacts" / "validate" / "train.parquet"
    path.write_bytes(path.read_bytes()[:1000])


def break_checkpoint(root: Path) -> None:
    path = next((root / "artifacts" / "tune").glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def edit_verdict(root: Path) -> None:
    path = root / "artifacts" / "verify" / "verdict.json"
    path.write_text(path.read_text().replace("ACCEPT", "ACCEPTED"))


MISTAKES: dict[str, tuple[str, Callable[[Path], object], int, str]] = {
    "no params file": ("tune", lambda root: (root / "params.yaml").unlink(), 2, "--params"),
    "a mistyped key": (
        "tune", lambda root: (root / "params.yaml").write_text("bsae: {}\n"), 2, "did you mean `base`?",
    ),
    "a stage that has not run": ("tune", lambda root: shutil.rmtree(root / "artifacts" / "validate"), 2, "dvc repro"),
    "a feature that is not there": (
        "tune", lambda root: worlds.write_params(root, {"tune": {"features": {"drop": ["x"]}}}), 2, "no such column: x",
    ),
    "a device that is not there": (
        "verify", lambda root: worlds.write_params(root, {"base": {"device": "cuda"}}), 2, "needs a CUDA device",
    ),
    "a file where the artifacts should be": (
        "tune", lambda root: worlds.write_params(root, {"base": {"artifacts_dir": "params.yaml"}}), 2, "params.yaml",
    ),
    "truncated rows": ("tune", break_validate, 5, "train.parquet has 1000 bytes"),
    "a changed checkpoint": ("compress", break_checkpoint, 5, "dvc repro --force tune"),
    "an edited verdict": ("export", edit_verdict, 5, "verdict.json has"),
    "a margin that no test set can prove": (
        "verify", lambda root: worlds.write_params(root, {"verify": {"margin": 1e-9}}), 4, "INCONCLUSIVE",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_its_exit_code_and_no_traceback(world: Path, name: str) -> None:
    stage, make, code, said = MISTAKES[name]
    make(world)
    before = state(world)
    text = finish(start(world, stage), code)
    assert said in text
    assert text.startswith(f"{stage}: ") or f"\n{stage}: " in text
    assert "way out" in text
    assert state(world) == before


@pytest.mark.parametrize("arguments", [[], ["tuna"], ["tune", "--parms", "x"]])
def test_a_command_that_is_not_known_is_exit_2(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "tasks", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: python -m tasks" in done.stderr


def test_another_params_file_has_its_own_artifacts(world: Path) -> None:
    """Relative paths start at the params file, wherever the command is given."""
    (world / "sub").mkdir()
    shutil.copytree(world / "artifacts", world / "sub" / "other")
    worlds.write_params(world / "sub", {"base": {"artifacts_dir": "other"}})
    shutil.rmtree(world / "sub" / "other" / "verify")
    command = [sys.executable, "-m", "tasks", "verify", "--params", "sub/params.yaml"]
    subprocess.run(command, cwd=world, check=True, capture_output=True)
    assert manifest.read(world / "sub" / "other" / "verify")
    assert "verify: done in" in (world / "sub" / "other" / "logs" / "verify.log").read_text()


def test_a_second_run_of_a_running_stage_is_refused(world: Path) -> None:
    with start(world, "tune") as first:
        while not (world / "artifacts" / ".tune.partial").exists():
            assert first.poll() is None
            time.sleep(0.01)
        assert "another one is running" in finish(start(world, "tune"), 2)
        finish(first, 0)


def test_what_a_stage_measured_is_kept_apart_from_what_it_made(tiny: Path) -> None:
    for stage in STAGES:
        found = files.read_json(tiny / "artifacts" / "runs" / f"{stage}.json")
        assert found["manifest"] == manifest.identity(tiny / "artifacts" / stage)
        assert np.isfinite(found["seconds"])
