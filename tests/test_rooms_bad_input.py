"""The rooms as a user meets them, `python -m tasks <stage>`: killed, without room on the disk, or given a mistake.

Whatever happens, the exit code says of which kind it was, nothing half-written is left, the previous artifacts are as
they were, and the next run ends as if nothing had happened.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import csv_world
import numpy as np
import pytest
import worlds
from ruamel.yaml import YAML

from tasks.core import files, manifest
from tasks.core.errors import MachineError
from tasks.core.settings import load
from tasks.core.stage import run_stage

FIRST = ("ingest", "validate")
LATER = ("tune", "compress", "verify", "export")
STAGES = FIRST + LATER
DVC_YAML = Path(__file__).resolve().parents[1] / "dvc.yaml"


@pytest.fixture(scope="module")
def csv_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file and a suite (see csv_world) after ingest and validate. Read only: copy it to change it."""
    root = tmp_path_factory.mktemp("csv_tiny")
    params = csv_world.write(root, 3000)
    for stage in FIRST:
        run_stage(stage, params, root)
    return root


@pytest.fixture
def finished(stage: str, request: pytest.FixtureRequest) -> Path:
    """A world in which ``stage`` has run. Read only: copy it to change it."""
    root: Path = request.getfixturevalue("csv_tiny" if stage in FIRST else "tiny")
    return root


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    """A copy of it of one's own."""
    return shutil.copytree(finished, tmp_path / "place")


def start(root: Path, stage: str, **more: Any) -> subprocess.Popen[str]:
    """Start a stage as DVC does, from the project's folder."""
    command = [sys.executable, "-P", "-m", "tasks", stage]
    return subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more)


def finish(process: subprocess.Popen[str], *codes: int) -> str:
    """Wait; the exit code must be one of ``codes`` and nothing may look like a bug. Returns what it said."""
    out, said = process.communicate(timeout=60)
    assert process.returncode in codes, f"exit code {process.returncode}: {said}"
    assert "Traceback" not in said
    assert not out
    return said


def left_over(root: Path) -> list[str]:
    """Partial folders and files, anywhere."""
    places = (root / "artifacts", root / "dist" / "tiny")
    names = [path.name for place in places if place.exists() for path in place.iterdir()]
    return [name for name in names if "partial" in name or "previous" in name or name.endswith(".tmp")]


def state(root: Path) -> dict[str, bytes]:
    """Every finished artifact and bundle, by its path; nothing hidden (locks, partial folders), no log, no scratch."""
    folders = [root / "artifacts" / stage for stage in STAGES] + [root / "dist"]
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    paths += (root / "artifacts").glob("metrics.json")
    names = [path.relative_to(root).as_posix() for path in paths]
    return {name: (root / name).read_bytes() for name in names if "/." not in name}


# Killed.

#: Where a stage is in the middle of its work: a line of its log, or a file.
INSIDE: dict[str, Callable[[Path], bool]] = {
    "ingest": lambda root: size(root / "artifacts" / ".ingest.partial" / "rows.parquet") > 10_000,
    "validate": lambda root: (root / "artifacts" / ".validate.partial" / "results.json").exists(),
    "tune": lambda root: "trial 2 of 3, epoch 1" in log(root, "tune"),
    "compress": lambda root: "fp32 has" in log(root, "compress"),
    "verify": lambda root: (root / "artifacts" / ".verify.partial" / "predictions.parquet").exists(),
    "export": lambda root: any((root / "dist" / "tiny").glob(".partial/*/MANIFEST.sha256")),
}
#: Python itself ends by SIGINT (-2), whatever the exit code, if the interrupt came through a call of exec().
CODES = {signal.SIGINT: (130, -2), signal.SIGTERM: (143,), signal.SIGKILL: (-9,)}


def log(root: Path, stage: str) -> str:
    path = root / "artifacts" / "logs" / f"{stage}.log"
    return path.read_text() if path.is_file() else ""


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _slow_scoring(root: Path) -> dict[str, str]:
    """Let the process that scores begin a second late, so that a signal surely comes while the stage waits for it."""
    late = root / "late"
    late.mkdir()
    code = 'import sys, time\nif "deploy.score" in sys.orig_argv:\n    time.sleep(1)\n'
    (late / "sitecustomize.py").write_text(code)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(late), os.environ.get("PYTHONPATH", "")])}


def begun(root: Path, stage: str) -> bool:
    return (root / "artifacts" / f".{stage}.partial").exists()


def kill_inside(roots: Mapping[signal.Signals, Path], stage: str) -> dict[signal.Signals, str]:
    """Start a stage in each folder, send it its signal, and return what they said.

    SIGTERM comes as soon as the stage has begun, the others in the middle of its work; SIGINT is for the stage and all
    that it has started, as a terminal's Ctrl-C is.
    """
    running = {number: start(root, stage, env=_slow_scoring(root), process_group=0) for number, root in roots.items()}
    waiting, end = dict(running), time.monotonic() + 90
    while waiting:
        assert time.monotonic() < end, f"{stage} never came to its work"
        for number, process in list(waiting.items()):
            root = roots[number]
            if begun(root, stage) and (number == signal.SIGTERM or INSIDE[stage](root)):
                os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
                del waiting[number]
            else:
                assert process.poll() is None, f"{stage} ended before it was killed: {process.communicate()[1]}"
        time.sleep(0.002)
    return {number: finish(process, *CODES[number]) for number, process in running.items()}


def _more_rows(root: Path) -> None:
    csv_world.write_rows(root, 3000, repeat=100)


def _more_rows_ingested(root: Path) -> None:
    _more_rows(root)
    run_stage("ingest", load(root / "params.yaml"), root)


#: What makes a stage long enough to be met in the middle.
LONGER: dict[str, Callable[[Path], object]] = {
    "ingest": _more_rows,
    "validate": _more_rows_ingested,
    "verify": lambda root: worlds.write_params(root, {"verify": {"resamples": 60_000}}),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_interrupted_terminated_or_killed_ends_as_if_nothing_had_happened(
    finished: Path, tmp_path: Path, stage: str
) -> None:
    """Its output is there from a run before, so that the previous artifacts can be seen to stay."""
    undisturbed = finished
    if stage in LONGER:
        undisturbed = shutil.copytree(finished, tmp_path / "undisturbed")
        LONGER[stage](undisturbed)
    roots = {number: shutil.copytree(undisturbed, tmp_path / number.name) for number in CODES}
    for root in roots.values():
        shutil.rmtree(root / "dist", ignore_errors=True)
    if stage in LONGER:
        run_stage(stage, load(undisturbed / "params.yaml"), undisturbed)
    before = state(roots[signal.SIGKILL])
    said = kill_inside(roots, stage)
    assert "interrupted; the previous artifacts are untouched" in said[signal.SIGINT]
    for number, root in roots.items():
        assert state(root) == before
        assert number == signal.SIGKILL or not left_over(root)

    killed = roots[signal.SIGKILL]
    shutil.rmtree(killed / "artifacts" / stage)
    finish(start(killed, stage), 0)
    assert not left_over(killed)
    assert manifest.identity(killed / "artifacts" / stage) == manifest.identity(undisturbed / "artifacts" / stage)
    if stage == "tune":
        assert "trial 1 of 3" not in log(killed, stage), "the finished trial was run again"
    if stage == "export":
        assert state(killed).keys() == state(finished).keys()


def test_a_stage_ends_with_the_driver_that_started_it(world: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'tasks', 'tune'])"
    with subprocess.Popen([sys.executable, "-c", code], cwd=world, stderr=subprocess.DEVNULL) as driver:
        wait_for((world / "artifacts" / ".tune.partial").exists)
        driver.kill()
    wait_for(lambda: not left_over(world))


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


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


def moved(world: Path, root: Path) -> Path:
    shutil.copytree(world, root, dirs_exist_ok=True)
    return root


def fill(root: Path, room: int) -> Path:
    """Leave ``room`` KiB of the file system."""
    filler = root / "filler"
    filler.write_bytes(b"x" * (shutil.disk_usage(root).free - room * 1024))
    return filler


@pytest.mark.parametrize(
    ("stage", "changes", "room"),
    [
        ("ingest", {}, 24),
        ("validate", {}, 48),
        ("tune", {"storage": "journal"}, 24),
        ("tune", {"storage": "sqlite"}, 40),
        ("compress", {}, 48),
        ("verify", {}, 4),
        ("export", {}, 24),
    ],
)
def test_a_full_disk_leaves_the_previous_artifacts_and_the_next_run_ends_well(
    finished: Path, small_disk: Callable[[int], Path], stage: str, changes: Mapping[str, Any], room: int
) -> None:
    """A real file system with too little room for the stage's second run."""
    root = moved(finished, small_disk(4096))
    settings = worlds.write_params(root, {stage: changes})
    before = state(root)
    filler = fill(root, room)
    with pytest.raises(MachineError, match="no space left"):
        run_stage(stage, settings, root)
    assert state(root) == before
    assert not left_over(root)
    filler.unlink()
    run_stage(stage, settings, root)
    assert manifest.read(root / "artifacts" / stage)


@pytest.mark.parametrize(("stage", "room"), [("ingest", 0), ("validate", 0), ("tune", 0), ("export", 8)])
def test_a_full_disk_is_exit_2_even_when_the_log_cannot_be_written(
    finished: Path, small_disk: Callable[[int], Path], stage: str, room: int
) -> None:
    root = moved(finished, small_disk(4096))
    before = state(root)
    fill(root, room)
    said = finish(start(root, stage), 2)
    assert "no space left" in said
    assert "way out" in said
    assert state(root) == before
    assert not left_over(root)


@pytest.mark.parametrize("stage", ["ingest", "validate", "export"])
def test_a_read_only_disk_is_exit_2(finished: Path, small_disk: Callable[[int], Path], stage: str) -> None:
    """The superuser may write into any folder, but into no file system that is mounted read-only."""
    root = moved(finished, small_disk(4096))
    before = state(root)
    subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
    said = finish(start(root, stage), 2)
    assert "Read-only file system" in said
    assert "base.artifacts_dir" in said
    assert state(root) == before


@pytest.mark.parametrize("stage", ["ingest", "validate", "verify"])
def test_a_folder_that_may_not_be_written_is_exit_2(place: Path, stage: str) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser may write into any folder; see the read-only disk and the injected refusal")
    artifacts = place / "artifacts"
    artifacts.chmod(0o500)
    try:
        said = finish(start(place, stage), 2)
    finally:
        artifacts.chmod(0o700)
    assert "Permission denied" in said


#: What a room calls to write its first file, by the place that the room takes it from.
WRITERS = {
    "ingest": "pyarrow.parquet.ParquetWriter",
    "validate": "pyarrow.parquet.ParquetWriter",
    "tune": "safetensors.torch.save_file",
    "compress": "onnx.save",
    "verify": "pyarrow.parquet.write_table",
    "export": "tasks.export.contents.shutil.copyfile",
}


@pytest.mark.parametrize(
    ("stage", "number"),
    [*((stage, errno.ENOSPC) for stage in STAGES), ("export", errno.EACCES), ("export", errno.EROFS)],
)
def test_a_refusal_of_the_system_in_the_middle_of_a_stage_is_a_machine_error(
    place: Path, monkeypatch: pytest.MonkeyPatch, stage: str, number: int
) -> None:
    """Injected where files are written, for machines on which nothing can be mounted."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    if stage == "tune":
        worlds.write_params(place, {"tune": {"trials": 1, "epochs": 1}})
    before = state(place)
    monkeypatch.setattr(WRITERS[stage], refuse)
    with pytest.raises(MachineError) as caught:
        run_stage(stage, load(place / "params.yaml"), place)
    assert caught.value.exit_code == 2
    assert os.strerror(number).lower() in str(caught.value).lower() or "no space left" in str(caught.value)
    assert state(place) == before
    assert not left_over(place)


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


def test_a_projects_own_modules_never_stand_in_for_ours(world: Path) -> None:
    """The command is DVC's own; verify starts a process of `deploy` as well."""
    for name in ("tasks", "deploy", "flows"):
        (world / f"{name}.py").write_text("raise SystemExit('a module of the project was run')\n")
    command = shlex.split(YAML(typ="safe").load(DVC_YAML.read_text())["stages"]["verify"]["cmd"])
    shutil.rmtree(world / "artifacts" / "verify")
    done = subprocess.run([sys.executable, *command[1:]], cwd=world, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert manifest.read(world / "artifacts" / "verify").stage == "verify"


def test_another_params_file_has_its_own_artifacts(world: Path) -> None:
    """Relative paths start at the params file, wherever the command is given."""
    (world / "sub").mkdir()
    shutil.copytree(world / "artifacts", world / "sub" / "other")
    worlds.write_params(world / "sub", {"base": {"artifacts_dir": "other"}})
    shutil.rmtree(world / "sub" / "other" / "export")
    command = [sys.executable, "-m", "tasks", "export", "--params", "sub/params.yaml"]
    subprocess.run(command, cwd=world, check=True, capture_output=True)
    assert manifest.read(world / "sub" / "other" / "export")
    assert "export: done in" in (world / "sub" / "other" / "logs" / "export.log").read_text()
    assert (world / "sub" / "dist" / "tiny").is_dir()


def test_a_second_run_of_a_running_stage_is_refused(world: Path) -> None:
    with start(world, "tune") as first:
        wait_for(lambda: "rows to learn from" in log(world, "tune"))
        before = log(world, "tune")
        assert "another one is running" in finish(start(world, "tune"), 2)
        assert log(world, "tune").startswith(before), "the log is still that of the first"
        assert "another one" not in log(world, "tune")
        first.kill()


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_measured_is_kept_apart_from_what_it_made(finished: Path, stage: str) -> None:
    found = files.read_json(finished / "artifacts" / "runs" / f"{stage}.json")
    assert found["manifest"] == manifest.identity(finished / "artifacts" / stage)
    assert np.isfinite(found["seconds"])
