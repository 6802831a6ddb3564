"""A stage's output is complete exactly when its manifest exists and holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core import manifest
from tasks.core.errors import IntegrityError, UsageError
from tasks.core.settings import STAGES
from tasks.core.stage import UPSTREAM


@pytest.fixture
def stages(tmp_path: Path) -> Path:
    """Two stages, the second made from the first."""
    for name in ("ingest", "validate"):
        folder = tmp_path / name
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "rows.bin").write_bytes(b"0123456789")
        upstream = {up: tmp_path / up for up in UPSTREAM[name]}
        built = manifest.build(
            name, "hash", upstream, folder, {"sub/rows.bin": "rows"}, {f"{name}.rows": 3.0}, {"b": [1], "a": None}
        )
        manifest.write(built, folder)
    return tmp_path


def read(stages: Path) -> manifest.Manifest:
    return manifest.read(stages / "validate", {"ingest": stages / "ingest"})


def test_what_is_written_is_read_again(stages: Path) -> None:
    found = read(stages)
    assert found.stage == "validate"
    assert found.files["sub/rows.bin"].bytes == 10
    assert found.files["sub/rows.bin"].role == "rows"
    assert found.metrics == {"validate.rows": 3.0}
    assert found.facts == {"a": None, "b": [1]}


def test_equal_outputs_have_equal_bytes_with_sorted_keys_and_no_path_of_the_machine(stages: Path) -> None:
    text = (stages / "validate" / "manifest.json").read_text()
    assert json.dumps(json.loads(text), sort_keys=True, indent=2) + "\n" == text
    assert str(stages) not in text
    before = manifest.identity(stages / "validate")
    manifest.write(read(stages), stages / "validate")
    assert manifest.identity(stages / "validate") == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b"01234"), "has 5 bytes, expected 10"),
        (lambda path: path.write_bytes(b"0123456780"), "has sha256"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: (path.unlink(), path.mkdir()), "is missing"),
    ],
)
def test_a_damaged_file_is_named_with_the_command_that_rebuilds_it(
    stages: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(stages / "validate" / "sub" / "rows.bin")
    with pytest.raises(IntegrityError, match=said) as caught:
        read(stages)
    assert "rows.bin" in caught.value.found
    assert "dvc repro --force validate" in caught.value.way_out
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"{}", b'{"files": 3}', b'{"files": {"a": {}}}', b"\xff\xfe", b'{"files": {}, "x": 1}'],
)
def test_a_damaged_manifest_is_no_traceback(stages: Path, content: bytes) -> None:
    (stages / "validate" / "manifest.json").write_bytes(content)
    with pytest.raises(IntegrityError, match="manifest"):
        read(stages)


def test_a_manifest_of_another_schema_version_is_refused(stages: Path) -> None:
    path = stages / "validate" / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(IntegrityError, match="schema version 2"):
        read(stages)


def test_an_edited_manifest_is_no_longer_the_one_that_later_stages_were_made_from(stages: Path) -> None:
    path = stages / "ingest" / "manifest.json"
    path.write_text(path.read_text().replace("3.0", "4.0"))
    with pytest.raises(IntegrityError, match="validate was made from") as caught:
        read(stages)
    assert "validate" in caught.value.way_out


def test_a_stage_made_from_an_earlier_upstream_is_stale(stages: Path) -> None:
    folder = stages / "ingest"
    (folder / "sub" / "rows.bin").write_bytes(b"other")
    manifest.write(manifest.build("ingest", "hash", {}, folder, {"sub/rows.bin": "rows", "manifest.json": "x"}), folder)
    with pytest.raises(IntegrityError, match="must have been made from the ingest"):
        read(stages)


@pytest.mark.parametrize("absent", ["ingest", "validate"])
def test_a_stage_that_has_not_run_is_a_usage_error_with_the_command(stages: Path, absent: str) -> None:
    shutil.rmtree(stages / absent)
    with pytest.raises(UsageError, match=f"dvc repro {absent}") as caught:
        read(stages)
    assert caught.value.exit_code == 2


def test_files_and_roles_must_agree(stages: Path) -> None:
    with pytest.raises(ValueError, match=r"other\.bin"):
        manifest.build("x", "hash", {}, stages / "validate", {"sub/rows.bin": "rows", "other.bin": "rows"})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_metric_that_json_does_not_have_is_refused(stages: Path, number: float) -> None:
    folder = stages / "validate"
    built = manifest.build("x", "hash", {}, folder, {"sub/rows.bin": "r", "manifest.json": "m"}, {"auc": number})
    before = manifest.identity(folder)
    with pytest.raises(ValueError, match="JSON"):
        manifest.write(built, folder)
    assert manifest.identity(folder) == before


def test_every_stage_reads_only_stages_before_it() -> None:
    assert list(UPSTREAM) == list(STAGES)
    for index, stage in enumerate(STAGES):
        assert set(UPSTREAM[stage]) <= set(STAGES[:index])
