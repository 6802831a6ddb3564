"""A user's own package: found by its entry points, checked before anything runs, and used by every room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
import torch
import worlds
from torch import nn

from deploy.predictor import Predictor
from tasks.core import contracts, files, original, plugins, tensors, workloads
from tasks.core.errors import SettingsError, UsageError
from tasks.core.sections import Section
from tasks.core.settings import parse
from tasks.core.space import Decay, FloatRange, Rate
from tasks.core.stage import run_stage
from tasks.core.testing import CompressorContract, MetricContract, ModelContract, WorkloadContract, data

ROOT = Path(__file__).parents[1]
CUSTOM = ROOT / "examples" / "custom"

#: Name -> object, for entry points of this very module.
Install = Callable[[str, str, Any], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes an object of a test the plug-in of an installed package."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setitem(sys.modules, "someones", type(sys)("someones"))

    def make(group: str, name: str, found: Any) -> None:
        attribute = f"plugin_{len(list(site.iterdir()))}"
        setattr(sys.modules["someones"], attribute, found)
        info = site / f"{attribute}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {attribute}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = someones:{attribute}\n")

    return make


# The packaged example, installed.


@pytest.fixture(scope="module")
def custom(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which examples/custom is installed, beside what is installed anyway."""
    folder = tmp_path_factory.mktemp("custom")
    copied = folder / "source"
    copied.mkdir()
    for path in CUSTOM.rglob("*"):
        if path.suffix in (".py", ".toml") and path.is_file():
            (copied / path.relative_to(CUSTOM)).parent.mkdir(parents=True, exist_ok=True)
            (copied / path.relative_to(CUSTOM)).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(folder / "site"), str(copied)], check=True)
    return os.environ | {"PYTHONPATH": f"{folder / 'site'}{os.pathsep}{ROOT}"}


def said(environment: dict[str, str], folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_passes_its_own_contract_tests(custom: dict[str, str], tmp_path: Path) -> None:
    tests = CUSTOM / "tests" / "test_contract.py"
    told = said(custom, tmp_path, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "-q", str(tests))
    assert "12 passed" in told


def test_the_example_goes_through_every_room(custom: dict[str, str], tmp_path: Path) -> None:
    changes = {
        "base": {"metric": "auc"},
        "tune": {"trials": 1, "epochs": 2, "model": None, "space": {}},
        "compress": {"methods": ["int8"]},
    }
    worlds.write(tmp_path, changes)
    text = (tmp_path / "params.yaml").read_text()
    for known, mine in (("model:\n", "model: fm\n"), ("metric: auc", "metric: brier"), ("- int8", "- fp16-weights")):
        assert known in text
        text = text.replace(known, mine)
    (tmp_path / "params.yaml").write_text(text)
    code = """
import sys; sys.path.insert(0, sys.argv[1])
import worlds
from pathlib import Path
from tasks.core import manifest
from tasks.core.settings import load
from tasks.core.stage import run_stage
root, params = Path(), load(Path("params.yaml"))
import shutil; shutil.rmtree("artifacts")
hashes = [manifest.settings_hash(params.base, params.section(stage)) for stage in ("ingest", "validate")]
worlds.finish_validate(root / "artifacts", worlds.rows(), hashes, {})
for stage in ("tune", "compress", "verify", "export"):
    run_stage(stage, params, root)
"""
    said(custom, tmp_path, "-c", code, str(ROOT / "tests"))
    candidates = {line["name"]: line for line in files.read_json(tmp_path / "artifacts/compress/candidates.json")}
    assert candidates["fp16-weights"]["chosen"]
    (line,) = files.read_json(tmp_path / "artifacts" / "verify" / "verdict.json")["lines"]
    assert (line["metric"], line["verdict"]) == ("brier", "ACCEPT")
    assert len(list((tmp_path / "dist" / "tiny").glob("1-*"))) == 1


# Wrong ones: everything at once, before anything runs.


class Bare(Section):
    """No learning rate, no default, nothing sensible."""

    width: int
    names: tuple[str, ...] = ()


class Wrong:
    """Hardly anything is right."""

    workload = 3
    space = Bare
    extra_outputs = ("a", "a")

    def build(self, encoder: Any) -> None: ...


WRONG_MODEL = [
    "its name 'mlp' is that of a built-in one",
    "`workload` must be a text, and is 3",
    "`build` must be callable with (encoder, values), and takes (encoder: 'Any')",
    "`space` has no `learning_rate`",
    "`space` has no `weight_decay`",
    "`space.width` has no default",
    "`space.names` must be a value, a FloatRange or a Choice",
    "`extra_outputs` must be a tuple of different names",
]


def test_everything_wrong_with_a_model_is_told_at_once() -> None:
    found = contracts.problems(plugins.MODELS, "mlp", Wrong())
    assert [told for told in WRONG_MODEL if not any(problem.startswith(told) for problem in found)] == []
    assert len(found) == len(WRONG_MODEL)


def test_everything_wrong_with_a_workload_is_told_at_once() -> None:
    class Mine:
        name = "yours"
        default_model = "net"
        models = {"other": Wrong()}  # noqa: RUF012

        def fit(self, rows: Any) -> None: ...

        def head(self, encoder: Any) -> None: ...

    found = "\n".join(contracts.problems(plugins.WORKLOADS, "mine", Mine()))
    for told in (
        "`default_metric(task)` is missing", "`fit` must be callable with (rows, facts, tune), and takes (rows: 'Any')",
        "`restore(raw)` is missing", "`examples(encoder, rows)` is missing",
        "`loss(network, batch, encoder, tune)` is missing", "`default_model` must be one of `models`: other",
        "model other: `workload` must be a text", "`name` is 'yours', and its entry point is called 'mine'",
    ):  # fmt: skip
        assert told in found
    assert "`head`" not in found


@pytest.mark.parametrize(
    ("group", "found", "told"),
    [
        (plugins.COMPRESSORS, lambda core: core, "it must be callable with (core, calibration), and takes (core)"),
        (plugins.COMPRESSORS, 3, "it must be callable with (core, calibration)"),
        (plugins.MODELS, Wrong, "it is the class Wrong; give an instance of it, or a function"),
        (plugins.METRICS, lambda labels: 0.0, "it must be callable with (labels, answers)"),
    ],
)
def test_other_plug_ins_that_are_wrong(group: str, found: Any, told: str) -> None:
    assert told in contracts.problems(group, "mine", found)


def test_a_params_file_that_names_wrong_plug_ins_is_refused_with_all_of_them(install: Install) -> None:
    install(plugins.MODELS, "broken-net", Wrong())
    install(plugins.COMPRESSORS, "broken-method", lambda: None)
    install(plugins.METRICS, "broken-metric", lambda: None)
    changes = {
        "base": {"metric": "broken-metric"},
        "tune": {"model": "broken-net"},
        "compress": {"methods": ["broken-method", "imt8"]},
    }
    with pytest.raises(SettingsError) as caught:
        parse(worlds.params(changes))
    found = {mistake.key: mistake for mistake in caught.value.mistakes}
    assert set(found) == {"base.metric", "tune.model", "compress.methods.0", "compress.methods.1"}
    assert "`space` has no `weight_decay`" in found["tune.model"].rule
    assert "(core, calibration)" in found["compress.methods.0"].rule
    assert found["compress.methods.1"].way_out == "did you mean `int8`?"


def test_a_plug_in_with_the_name_of_a_built_in_one_is_refused(install: Install) -> None:
    install(plugins.COMPRESSORS, "int8", lambda core, calibration: core)
    with pytest.raises(SettingsError, match="is that of a built-in one"):
        parse(worlds.params({"compress": {"methods": ["int8"]}}))
    parse(worlds.params({"compress": {"methods": []}}))


def test_a_plug_in_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[assay.models]\nmine = nowhere_to_be_found:MODEL\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SettingsError, match="a plug-in must be importable"):
        parse(worlds.params({"tune": {"model": "mine"}}))


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (lambda core, calibration: 1 / 0, "ZeroDivisionError"),
        (lambda core, calibration: "no model", "keep the inputs and outputs"),
        (lambda core, calibration: core.graph.output.pop() and core, "keep the inputs and outputs"),
    ],
)
def test_a_compressor_that_fails_at_its_work_is_told_and_the_original_stays(
    world: Path, install: Install, method: Any, told: str
) -> None:
    install(plugins.COMPRESSORS, "mine", method)
    params = parse(worlds.params({"compress": {"methods": ["mine"]}}))
    assert run_stage("compress", params, world).facts["chosen"] == "fp32"
    rows = {row["name"]: row for row in files.read_json(world / "artifacts" / "compress" / "candidates.json")}
    assert told in rows["mine"]["reason"]


# Several inputs, several outputs.


class PairSpace(Section):
    """Just what a training needs."""

    learning_rate: Rate = 0.02
    weight_decay: Decay = FloatRange(low=1e-3, high=1e-1, log=True)


class Pair(nn.Module):
    """An image and some tokens -> logits, and the vector that they come from."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.image, self.token, self.last = nn.Linear(36, 8), nn.Embedding(100, 8), nn.Linear(8, width)

    def forward(self, image: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vector = self.image(image.flatten(1).float() / 50 - 1) + self.token(tokens).mean(1)
        return self.last(torch.relu(vector)), vector


class PairModel:
    """A model plug-in of two inputs and two outputs."""

    workload = "array"
    space = PairSpace
    extra_outputs: tuple[str, ...] = ("vector",)

    def build(self, encoder: Any, values: Any) -> nn.Module:
        return Pair(encoder.width)


TENSORS = {"image": {"dtype": "uint8", "shape": [6, 6]}, "tokens": {"dtype": "int64", "shape": [5]}}


def pair_world(root: Path, **tune: Any) -> Any:
    count, random = sum(worlds.SIZES.values()), np.random.default_rng(3)
    image = random.integers(0, 100, (count, 6, 6)).astype(np.uint8)
    late = image[:, :3].mean((1, 2)) + random.normal(0, 4, count) > image[:, 3:].mean((1, 2))
    table = pa.table(
        {
            "image": tensors.to_arrow(image),
            "tokens": tensors.to_arrow(random.integers(0, 100, (count, 5))),
            worlds.TARGET: late.astype(np.int64),
        }
    )
    changes = {
        "base": {"workload": "array"},
        "tune": {"model": "pair", "trials": 1, "space": {}, "features": {}} | tune,
    }
    return worlds.write(root, changes, table, TENSORS)


def test_a_model_of_two_inputs_and_two_outputs_goes_through_every_room(tmp_path: Path, install: Install) -> None:
    install(plugins.MODELS, "pair", PairModel())
    root = tmp_path / "w"
    params = pair_world(root)
    for stage in ("tune", "compress", "verify", "export"):
        run_stage(stage, params, root)
    (bundle,) = (root / "dist" / "tiny").glob("1-*")
    predictor = Predictor.load(bundle, "cpu")
    assert [tensor.name for tensor in predictor.signature.inputs] == ["image", "tokens"]
    described = [(tensor.name, tensor.datatype, tensor.shape) for tensor in predictor.signature.outputs]
    assert described == [("probability", "FP32", (-1, 1)), ("vector", "FP32", (-1, 8))]
    model = original.load(root / "artifacts" / "tune")
    rows = worlds.pq.read_table(root / "artifacts" / "validate" / "test.parquet").slice(0, 9)
    found = predictor.predict(model.encoder.raw_inputs(rows))
    assert found["vector"].shape == (9, 8)
    np.testing.assert_allclose(found["probability"], model.predict(rows), atol=0.05)
    (line,) = files.read_json(root / "artifacts" / "verify" / "verdict.json")["lines"]
    assert line["original"] > 0.8


def test_outputs_that_the_model_does_not_name_are_missed(tmp_path: Path, install: Install) -> None:
    silent = PairModel()
    silent.extra_outputs = ()
    install(plugins.MODELS, "pair", silent)
    params = pair_world(tmp_path / "w", epochs=1)
    run_stage("tune", params, tmp_path / "w")
    with pytest.raises(UsageError, match="extra_outputs"):
        run_stage("compress", params, tmp_path / "w")


def test_a_finished_file_of_two_arrays_is_bound_by_name(tmp_path: Path) -> None:
    root = tmp_path / "w"
    params = pair_world(root, model=None, start_from="pair.onnx", output="score")
    torch.manual_seed(0)
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        Pair(1).eval(), (torch.zeros(2, 6, 6, dtype=torch.uint8), torch.zeros(2, 5, dtype=torch.int64)),
        root / "pair.onnx", dynamo=True, input_names=["image", "tokens"], output_names=["score", "vector"],
        dynamic_shapes=({0: batch}, {0: batch}), verbose=False,
    )  # fmt: skip
    run_stage("tune", params, root)
    model = original.load(root / "artifacts" / "tune")
    assert [tensor.name for tensor in model.encoder.signature().outputs] == ["probability", "score", "vector"]
    onnx.checker.check_model(model.encoder.wrap(onnx.load(root / "artifacts" / "tune" / "original.onnx")))


# The contract tests themselves notice what they are there for.


class Restless(PairModel):
    """Answers at random, in evaluation mode too."""

    extra_outputs: tuple[str, ...] = ()

    def build(self, encoder: Any, values: Any) -> nn.Module:
        class Noise(Pair):
            def forward(self, image: torch.Tensor, tokens: torch.Tensor) -> Any:
                return super().forward(image, tokens)[0] + torch.rand(1)

        return Noise(encoder.width)


class Narrow(PairModel):
    """One logit, whatever the number of classes."""

    def build(self, encoder: Any, values: Any) -> nn.Module:
        return Pair(1)


class Forgetful(PairModel):
    """Keeps a part of itself outside of its state."""

    def build(self, encoder: Any, values: Any) -> nn.Module:
        network = Pair(encoder.width)
        plain = torch.rand(1)
        network.last.register_forward_hook(lambda module, inputs, output: output + plain)
        return network


@pytest.mark.parametrize(
    ("model", "test", "told"),
    [
        (Restless(), "test_a_seed_decides_it", "must not be random"),
        (Narrow(), "test_its_logits_loss_and_gradients_are_as_asked", r"\[rows, width\] = \(7, 4\)"),
        (Forgetful(), "test_its_state_survives_a_file", "keep all state in parameters and buffers"),
    ],
)
def test_a_model_that_breaks_its_contract_is_told_how(install: Install, model: Any, test: str, told: str) -> None:
    install(plugins.MODELS, "pair", model)

    class Mine(ModelContract):
        name = "pair"
        tensors = TENSORS

    with pytest.raises(AssertionError, match=told):
        getattr(Mine(), test)()


def test_a_workload_is_tested_with_all_its_models(install: Install) -> None:
    class Pairs(type(workloads.find("array"))):  # type: ignore[misc]
        name = "pairs"
        default_model = "pair"
        models = {"pair": PairModel()}  # noqa: RUF012

    install(plugins.WORKLOADS, "pairs", Pairs())

    class Mine(WorkloadContract):
        name = "pairs"

        def data(self) -> Any:
            return data.make("array", "multiclass", TENSORS)

    for name in (name for name in dir(Mine) if name.startswith("test_")):
        getattr(Mine(), name)()


def test_a_metric_that_points_the_wrong_way_is_told(install: Install) -> None:
    def gain(labels: np.ndarray, answers: np.ndarray) -> float:
        return float(np.abs(labels - answers[:, 0]).mean())

    gain.tasks, gain.higher_is_better = ("binary",), True  # type: ignore[attr-defined]
    install(plugins.METRICS, "gain", gain)

    class Mine(MetricContract):
        name = "gain"

    Mine().test_a_weight_is_a_row_that_often()
    with pytest.raises(AssertionError, match="right answers have"):
        Mine().test_it_tells_better_answers_from_worse_ones()


def test_a_compressor_that_does_nothing_is_told(install: Install) -> None:
    install(plugins.COMPRESSORS, "nothing", lambda core, calibration: core)

    class Mine(CompressorContract):
        name = "nothing"

    Mine().test_it_makes_the_same_file_twice_and_leaves_its_argument()
    with pytest.raises(AssertionError, match="must be smaller"):
        Mine().test_it_keeps_the_interface_and_the_answers()
