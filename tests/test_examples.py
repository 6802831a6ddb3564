"""The packaged examples: settings, suites and source cards that load, pipelines in step with the one DAG."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import pipeline, template
from tasks.core.settings import load
from tasks.ingest.card import read_card
from tasks.validate import suite

ROOT = Path(__file__).parent.parent
EXAMPLES = [ROOT / "params.yaml", ROOT / "examples/fashion/params.yaml", ROOT / "examples/retail/params.yaml"]


@pytest.mark.parametrize("params", EXAMPLES, ids=lambda path: path.parent.name)
def test_an_example_is_whole(params: Path) -> None:
    settings = load(params)
    card = read_card(params.parent / settings.ingest.source)
    assert settings.base.target in card.columns
    checks = suite.load(params.parent / settings.section("validate").suite, dict.fromkeys(card.columns, "string"))
    assert checks.checks


@pytest.mark.parametrize("params", EXAMPLES[1:], ids=lambda path: path.parent.name)
def test_an_examples_pipeline_is_the_one_that_a_run_would_write(params: Path) -> None:
    dvc_yaml = params.with_name("dvc.yaml")
    assert dvc_yaml.read_text(encoding="utf-8") == pipeline._MARK + template.text(params, dvc_yaml)


def test_examples_have_names_of_their_own() -> None:
    names = [load(params).base.name for params in EXAMPLES]
    assert len(set(names)) == len(names)
