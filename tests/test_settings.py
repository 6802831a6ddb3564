"""A params file is read whole or not at all, and every mistake in it is told at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import worlds

from tasks.core import settings
from tasks.core.errors import Mistake, SettingsError, UsageError

GOOD = """
base: {name: tiny, target: late}
ingest: {source: rows.csv}
validate: {suite: suite.yaml, split: {by: random}}
"""


def read(folder: Path, text: str | bytes) -> settings.Params:
    path = folder / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return settings.load(path)


def mistakes(folder: Path, text: str) -> dict[str, Mistake]:
    with pytest.raises(SettingsError) as caught:
        read(folder, text)
    return {mistake.key: mistake for mistake in caught.value.mistakes}


def test_a_small_file_is_enough(tmp_path: Path) -> None:
    params = read(tmp_path, GOOD)
    assert params.base.name == "tiny"
    assert params.section("validate").split.by == "random"
    assert params.section("tune").sampler == "auto"


def test_every_mistake_is_told_at_once_with_line_value_rule_and_nearest_key(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        """
base: {name: Tiny!, targt: late}
ingest: {source: 3}
validate: {suite: suite.yaml, split: {by: random, test: 1.5}}
tune:
  trails: 4
  epochs: 0
  sampler: tpee
  space: {dropout: 1, hiden: 64}
verify: {confidence: high}
zzz: 1
""",
    )
    assert set(found) == {
        "base.name", "base.target", "base.targt", "ingest.source", "validate.split.test", "tune.trails", "tune.epochs",
        "tune.sampler", "tune.space.dropout", "tune.space.hiden", "verify.confidence", "zzz",
    }  # fmt: skip
    assert "`target`" in found["base.targt"].way_out
    assert "`trials`" in found["tune.trails"].way_out
    assert "`hidden`" in found["tune.space.hiden"].way_out
    assert found["tune.epochs"].line == 7
    assert found["tune.epochs"].value == "0"
    assert "greater than or equal to 1" in found["tune.epochs"].rule
    assert "'grid'" in found["tune.sampler"].rule
    assert "known here" in found["zzz"].way_out


def test_the_message_holds_every_mistake_and_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, GOOD + "tune: {trails: 4, epochs: 0}\n")
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert "2 mistakes" in text
    assert "tune.trails" in text
    assert "tune.epochs" in text
    assert "way out" in text


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("tune: {trials: '3'}", "tune.trials"),
        ("tune: {trials: 3.0}", "tune.trials"),
        ("tune: {trials: true}", "tune.trials"),
        ("tune: {features: {drop: carrier}}", "tune.features.drop"),
        ("tune: {features: {bins: 1}}", "tune.features.bins"),
        ("tune: []", "tune"),
        ("tune:", "tune"),
        ("compress: {methods: [int4]}", "compress.methods.0"),
        ("compress: {batch_sizes: []}", "compress.batch_sizes"),
        ("compress: {max_metric_drop: -0.1}", "compress.max_metric_drop"),
        ("verify: {confidence: 1}", "verify.confidence"),
        ("verify: {confidence: 0.5}", "verify.confidence"),
        ("verify: {margin: 0}", "verify.margin"),
        ("verify: {margin: .nan}", "verify.margin"),
        ("verify: {margin: .inf}", "verify.margin"),
        ("export: {golden_rows: 0}", "export.golden_rows"),
        ("tune: {space: {learning_rate: 0}}", "tune.space.learning_rate"),
        ("tune: {space: {learning_rate: {low: 0, high: 1}}}", "tune.space.learning_rate"),
        ("tune: {space: {learning_rate: {low: 1, high: 1}}}", "tune.space.learning_rate"),
        ("tune: {space: {learning_rate: {low: 0, high: 1, log: true}}}", "tune.space.learning_rate"),
        ("tune: {space: {weight_decay: -1}}", "tune.space.weight_decay"),
        ("tune: {space: {hidden: 0}}", "tune.space.hidden"),
        ("tune: {space: {hidden: {choices: [64, 64]}}}", "tune.space.hidden"),
        ("tune: {space: {hidden: {choices: []}}}", "tune.space.hidden.choices"),
        ("tune: {space: {layers: 2.5}}", "tune.space.layers"),
        ("tune: {space: {dropout: {low: 0.5, high: 1.5}}}", "tune.space.dropout"),
        ("tune: {space: {feature_dropout: {choices: [0.1, 1]}}}", "tune.space.feature_dropout"),
        ("tune: {space: {number_dim: -8}}", "tune.space.number_dim"),
    ],
)
def test_a_wrong_type_or_a_value_out_of_range_names_its_key(tmp_path: Path, section: str, key: str) -> None:
    assert set(mistakes(tmp_path, f"{GOOD}{section}\n")) == {key}


@pytest.mark.parametrize(
    ("split", "key"),
    [
        ("{by: tme, column: when}", "validate.split"),
        ("{column: when}", "validate.split"),
        ("random", "validate.split"),
        ("{by: random, validation: 0.5, test: 0.5}", "validate.split"),
        ("{by: time, column: t, validation_from: 2013-02-01, test_from: 2013-01-01}", "validate.split"),
        ("{by: time, column: t, validation_from: 2013-02-01, test_from: 2013-02-01}", "validate.split"),
        ("{by: time, column: t, validation_from: soon, test_from: 2013-01-01}", "validate.split.validation_from"),
        ("{by: group}", "validate.split.column"),
    ],
)
def test_a_split_must_be_one_that_can_be_made(tmp_path: Path, split: str, key: str) -> None:
    text = GOOD.replace("{by: random}", split)
    assert text != GOOD
    assert set(mistakes(tmp_path, text)) == {key}


def test_dates_and_times_of_a_split_are_moments_in_utc(tmp_path: Path) -> None:
    split = "{by: time, column: t, validation_from: 2013-02-01, test_from: 2013-03-01T02:00:00+02:00}"
    found = read(tmp_path, GOOD.replace("{by: random}", split)).validate_.split.boundaries
    assert [moment.isoformat() for moment in found] == ["2013-02-01T00:00:00+00:00", "2013-03-01T00:00:00+00:00"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"{GOOD}tune: {{trials: 1, trials: 2}}\n", id="a key twice"),
        pytest.param(f"{GOOD}base: {{name: other, target: late}}\n", id="a section twice"),
        pytest.param("base: {name: tiny", id="unclosed"),
        pytest.param("base:\n\tname: tiny\n", id="tab"),
        pytest.param(f"{GOOD}---\ntune: {{}}\n", id="two documents"),
        pytest.param(f"{GOOD}tune: !!python/object/apply:os.getcwd []\n", id="python object"),
        pytest.param(f"{GOOD}tune: &loop {{space: *loop}}\n", id="contains itself"),
        pytest.param(b"base: {name: caf\xe9, target: late}\n", id="not UTF-8"),
        pytest.param(b"base: {name: \x00}\n", id="a NUL"),
    ],
)
def test_what_is_not_one_plain_yaml_document_is_a_usage_error(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(UsageError, match=r"params\.yaml") as caught:
        read(tmp_path, text)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "late\n", "3\n"])
def test_what_is_no_mapping_is_a_settings_error(tmp_path: Path, text: str) -> None:
    assert set(mistakes(tmp_path, text)) == {"(file)"}


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_missing_file_says_which_option_names_one(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "params.yaml")
    with pytest.raises(UsageError, match="--params"):
        settings.load(tmp_path / "params.yaml")


def test_a_file_that_may_not_be_read_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Injected where the file is opened: the superuser, who runs these tests in CI, may read everything."""
    (tmp_path / "params.yaml").write_text(GOOD)

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(UsageError, match="Permission denied"):
        settings.load(tmp_path / "params.yaml")


def test_settings_cannot_be_changed_after_reading(tmp_path: Path) -> None:
    params = read(tmp_path, GOOD)
    with pytest.raises(ValueError, match="frozen"):
        params.base.name = "other"  # type: ignore[misc]


def test_the_params_file_of_the_repository_is_right() -> None:
    root = Path(__file__).parents[1]
    assert settings.load(root / "params.yaml").base.name == "flights"


def test_the_kept_schema_is_the_one_that_the_settings_have() -> None:
    kept = Path(settings.__file__).with_name("params.schema.json")
    assert json.loads(kept.read_text()) == settings.schema(), "python -m tasks.core.settings > params.schema.json"


def test_every_key_of_the_schema_is_described() -> None:
    undescribed = []
    for name, section in settings.schema()["$defs"].items():
        assert section.get("description"), name
        for key, value in section["properties"].items():
            if not value.get("description"):
                undescribed.append(f"{name}.{key}")
    assert not undescribed


def test_the_schema_knows_every_section(tmp_path: Path) -> None:
    properties = settings.schema()["properties"]
    assert list(properties) == ["base", *settings.STAGES, "promote", "monitor", "retrain"]
    assert set(worlds.PARAMS) == set(properties)
