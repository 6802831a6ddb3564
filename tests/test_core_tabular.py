"""The tabular workload: what torch reads and what the exported graph reads are the same, whatever the rows hold."""

from __future__ import annotations

from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import worlds

from deploy.predictor import Predictor
from deploy.signature import Signature
from tasks.core import files
from tasks.core.errors import DataRejected, UsageError
from tasks.core.original import Network, load, load_encoder
from tasks.core.settings import Features, Tune
from tasks.core.workloads import tabular
from tasks.core.workloads.onnx_export import finish
from tasks.core.workloads.tabular import graph
from tasks.core.workloads.tabular.encoder import MISSING_INTEGER, Category, Number, TabularEncoder, fit, restore
from tasks.core.workloads.tabular.network import Architecture, Head, NumberEmbedding, TabularNetwork

SHAPE = Architecture(hidden=16, layers=2, dropout=0.1, feature_dropout=0.1, number_dim=4, category_dim=3)


FACTS = {"target": "late", "task": "binary", "classes": [0, 1], "split": {"by": "random"}, "time_column": "when"}


def fitted(table: pa.Table, **changes: Any) -> TabularEncoder:
    columns = {
        name: kind for name, kind in (worlds.COLUMNS | changes.pop("columns", {})).items() if name in table.column_names
    }
    facts = FACTS | {"columns": columns} | changes.pop("facts", {})
    if "late" not in columns:
        facts["target"] = None
    options: dict[str, Any] = {"categorical": ("route",), "min_count": 5, "bins": 6} | changes
    if "categorical" not in changes:
        options["categorical"] = tuple(name for name in options["categorical"] if name in columns)
    return fit(table, facts, Features(**options))


def exported_model(model: Network, rows: pa.Table) -> onnx.ModelProto:
    return finish(model.encoder.wrap(model.core(rows)), {})


def exported(model: Network, folder: Path, rows: pa.Table) -> Predictor:
    onnx.save(exported_model(model, rows), folder / "model.onnx")
    files.write_json(folder / "signature.json", model.encoder.signature().as_dict())
    return Predictor.open(folder, "cpu", 1)


def untrained(encoder: TabularEncoder) -> Network:
    torch.manual_seed(0)
    return Network(encoder, TabularNetwork(encoder, SHAPE).eval(), Head(encoder))


@pytest.fixture(scope="module")
def original(tiny: Path) -> Network:
    """The trained model of the tiny world."""
    return load(tiny / "artifacts" / "tune")


@pytest.fixture(scope="module")
def predictor(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """Its float export, in the serving code."""
    folder = tmp_path_factory.mktemp("fp32")
    compress = tiny / "artifacts" / "compress"
    (folder / "model.onnx").write_bytes((compress / "fp32.onnx").read_bytes())
    (folder / "signature.json").write_bytes((compress / "signature.json").read_bytes())
    return Predictor.open(folder, "cpu", 1)


@pytest.fixture(scope="module")
def rows(tiny: Path) -> pa.Table:
    """Rows of the test split."""
    return pq.read_table(tiny / "artifacts" / "validate" / "test.parquet")


def answers(predictor: Predictor, encoder: TabularEncoder, table: pa.Table, batch: int = 4096) -> np.ndarray:
    result: np.ndarray = predictor.predict(encoder.raw_inputs(table), batch)["probability"]
    assert result.shape == (table.num_rows, 1)
    assert result.dtype == np.float32
    return result[:, 0]


def replaced(table: pa.Table, **columns: Any) -> pa.Table:
    for name, value in columns.items():
        index, kind = table.schema.get_field_index(name), table.schema.field(name).type
        array = value if isinstance(value, pa.Array) else pa.array([value] * table.num_rows, kind)
        table = table.set_column(index, name, array)
    return table


FEATURES = ("distance", "pressure", "seats", "route", "carrier", "holiday")
HOSTILE: dict[str, dict[str, Any]] = {
    "as they are": {},
    "nothing known": dict.fromkeys(FEATURES),
    "NaN": {"distance": float("nan")},
    "plus infinity": {"distance": float("inf")},
    "minus infinity": {"distance": float("-inf"), "pressure": float("-inf")},
    "beyond float32": {"distance": 1e300, "pressure": -1e300},
    "extreme integers": {"seats": 2**62, "route": -(2**62)},
    "categories never seen": {"carrier": "never seen", "route": 10**6, "holiday": None},
    "odd texts": {"carrier": "\u0000 \N{SNOWMAN} " + "x" * 500},
    "the code of a missing integer": {"route": MISSING_INTEGER},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_torch_and_the_exported_graph_agree(original: Network, predictor: Predictor, rows: pa.Table, name: str) -> None:
    table = replaced(rows, **HOSTILE[name])
    expected = original.predict(table)[:, 0]
    found = answers(predictor, original.encoder, table)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_the_answers_differ_from_row_to_row(original: Network, rows: pa.Table) -> None:
    """Or else the agreement above would prove nothing."""
    assert len(np.unique(original.predict(rows)[:, 0])) > rows.num_rows / 2


def test_an_extreme_number_is_answered_as_the_nearest_known_one(original: Network, rows: pa.Table) -> None:
    edges = next(number.edges for number in original.encoder.numbers if number.name == "distance")
    at_the_edge = original.predict(replaced(rows, distance=edges[-1]))[:, 0]
    for extreme in (float("inf"), 1e300, edges[-1] * 10):
        np.testing.assert_allclose(original.predict(replaced(rows, distance=extreme))[:, 0], at_the_edge, atol=1e-6)


def test_missing_and_unseen_categories(original: Network, rows: pa.Table) -> None:
    def probabilities(value: Any) -> np.ndarray:
        return original.predict(replaced(rows, carrier=value))[:, 0]

    np.testing.assert_array_equal(probabilities("never seen"), probabilities("neither"))
    assert not np.allclose(probabilities("never seen"), probabilities("AA"))
    # In train a text is missing often enough to have an embedding of its own.
    assert not np.allclose(probabilities(None), probabilities("never seen"))
    np.testing.assert_array_equal(probabilities(None), probabilities(""))


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_batch_does_not_change_the_answer(
    original: Network, predictor: Predictor, rows: pa.Table, batch: int
) -> None:
    table = rows.slice(0, 130)
    whole = answers(predictor, original.encoder, table)
    np.testing.assert_allclose(answers(predictor, original.encoder, table, batch), whole, rtol=0, atol=1e-6)


def test_no_rows_are_answered_with_no_answers(original: Network, predictor: Predictor, rows: pa.Table) -> None:
    empty = rows.slice(0, 0)
    assert answers(predictor, original.encoder, empty).shape == (0,)
    assert original.predict(empty)[:, 0].shape == (0,)


def test_the_file_is_portable(tiny: Path) -> None:
    for name in ("fp32", "int8"):
        model = onnx.load(tiny / "artifacts" / "compress" / f"{name}.onnx")
        onnx.checker.check_model(model, full_check=True)
        opsets = {item.domain: item.version for item in model.opset_import}
        assert opsets == {"": 18, "ai.onnx.ml": 3}
        assert model.ir_version == 10
        for value in (*model.graph.input, *model.graph.output):
            batch, one = value.type.tensor_type.shape.dim
            assert (batch.dim_param, one.dim_value) == ("batch", 1)
        assert [value.name for value in model.graph.input] == list(_columns(tiny))
        assert [value.name for value in model.graph.output] == ["probability"]


def _columns(tiny: Path) -> list[str]:
    return load_encoder(tiny / "artifacts" / "tune").columns


def test_the_file_tells_nothing_of_the_machine_or_the_time(tiny: Path) -> None:
    for path in (tiny / "artifacts" / "compress").glob("*.onnx"):
        content = path.read_bytes()
        for trace in (f"{Path.cwd()}/", f"{gettempdir()}/", "site-packages", ".py", "pkg.torch", "torch.nn"):
            assert trace.encode() not in content, trace
        metadata = {item.key: item.value for item in onnx.load(path).metadata_props}
        assert set(metadata) == {"assay.name", "assay.target", "assay.candidate", "assay.tune_manifest"}


def test_two_exports_are_equal_byte_for_byte_and_leave_the_network_as_it_was(original: Network, rows: pa.Table) -> None:
    before = original.predict(rows)[:, 0]
    first, second = (exported_model(original, rows) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    assert first.SerializeToString() == second.SerializeToString()
    np.testing.assert_array_equal(original.predict(rows)[:, 0], before)


@pytest.mark.parametrize(
    ("columns", "numbers", "categories"),
    [(["distance", "seats"], 2, 0), (["carrier"], 0, 1)],
)
def test_columns_of_one_kind_are_enough(tmp_path: Path, columns: list[str], numbers: int, categories: int) -> None:
    table = worlds.rows(400).select([*columns, "late"])
    model = untrained(fitted(table))
    assert (len(model.encoder.numbers), len(model.encoder.categories)) == (numbers, categories)
    found = answers(exported(model, tmp_path, table), model.encoder, table)
    np.testing.assert_allclose(found, model.predict(table)[:, 0], rtol=0, atol=1e-5)


def test_columns_may_have_the_names_of_the_graphs_own_tensors(tmp_path: Path) -> None:
    names = {
        "distance": "numbers", "pressure": "linear", "seats": "val_7", "route": "codes", "carrier": "embedding",
        "holiday": "carrier/code",
    }  # fmt: skip
    table = worlds.rows(400).rename_columns([names.get(name, name) for name in worlds.COLUMNS])
    kinds = {new: worlds.COLUMNS[old] for old, new in names.items()}
    model = untrained(fitted(table, columns=kinds, categorical=("codes",)))
    assert set(model.encoder.columns) == set(names.values())
    found = answers(exported(model, tmp_path, table), model.encoder, table)
    np.testing.assert_allclose(found, model.predict(table)[:, 0], rtol=0, atol=1e-5)


def test_a_feature_may_not_have_the_name_of_the_output() -> None:
    table = worlds.rows(400).rename_columns(["probability", *list(worlds.COLUMNS)[1:]])
    with pytest.raises(UsageError, match=r"tune\.features\.drop"):
        fitted(table, columns={"probability": "float64"})


@pytest.mark.parametrize("outlier", [1e12, -1e12])
def test_one_outlier_does_not_cost_a_column_its_bins(outlier: float) -> None:
    """Beside it all other quantiles would meet in float32, once the column is mapped to [-1, 1]."""
    tail = np.abs(np.random.default_rng(0).standard_cauchy(2000)) * 0.01
    tail[5] = outlier
    table = pa.table({"distance": tail, "late": np.zeros(2000)})
    model = untrained(fitted(table, bins=16))
    (number,) = model.encoder.numbers
    assert len(number.edges) == 16
    assert max(np.abs(number.edges)) < 1e6
    found = model.predict(table)[:, 0]
    assert np.isfinite(found).all()
    assert len(np.unique(found)) > 1500


def test_edges_are_rising_quantiles_of_what_is_known() -> None:
    values = pa.array([None, float("nan"), float("inf"), *range(101)], pa.float64())
    table = pa.table({"distance": values, "late": pa.array([0] * 104)})
    (number,) = fitted(table, bins=4).numbers
    assert number == Number("distance", (0.0, 25.0, 50.0, 75.0, 100.0))


@pytest.mark.parametrize(
    "values",
    [pa.nulls(9, pa.float64()), pa.array([2.5] * 9), pa.array([float("nan")] * 9), pa.array([1e300] * 9)],
    ids=["all missing", "constant", "all NaN", "constant beyond float32"],
)
def test_a_column_that_says_nothing_is_no_feature(values: pa.Array) -> None:
    table = pa.table({"distance": values, "holiday": pa.array([True] * 9), "late": pa.array([0] * 9)})
    assert fitted(table).columns == ["holiday"]


def test_rare_categories_share_the_code_of_the_unseen() -> None:
    texts = pa.array(["b"] * 5 + ["a"] * 6 + ["rare"] * 4 + [None] * 5)
    encoder = fitted(pa.table({"carrier": texts, "late": pa.array([0] * 20)}))
    assert encoder.categories == (Category("carrier", "text", ("", "a", "b")),)
    _, codes = encoder.encode(pa.table({"carrier": pa.array(["a", "b", None, "rare", "never seen", ""])}))
    assert codes[:, 0].tolist() == [2, 3, 1, 0, 0, 1]


def test_a_category_is_a_text_a_boolean_or_an_integer_that_params_name() -> None:
    encoder = fitted(worlds.rows(400))
    assert {category.name: category.kind for category in encoder.categories} == {
        "route": "integer", "carrier": "text", "holiday": "integer"
    }  # fmt: skip
    assert [number.name for number in encoder.numbers] == ["distance", "pressure", "seats"]


def test_the_offsets_keep_every_category_apart() -> None:
    encoder = fitted(worlds.rows(1000))
    sizes = [len(category.values) + 1 for category in encoder.categories]
    assert encoder.offsets == [0, sizes[0], sizes[0] + sizes[1], sum(sizes)]
    _, codes = encoder.encode(worlds.rows(1000))
    for column in range(3):
        assert codes[:, column].min() >= encoder.offsets[column]
        assert codes[:, column].max() < encoder.offsets[column + 1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"drop": ("carier",)}, "no such column: carier"),
        ({"categorical": ("rute",)}, "no such column: rute"),
        ({"categorical": ("distance",)}, "distance is float64"),
        ({"categorical": ("clock",)}, "clock is timestamp"),
        ({"drop": (*worlds.COLUMNS, "clock")}, "none is left"),
    ],
)
def test_features_that_cannot_be_are_usage_errors(changes: dict[str, Any], said: str) -> None:
    clock = {"clock": "timestamp"}
    with pytest.raises(UsageError, match=said) as caught:
        fit(worlds.rows(100), FACTS | {"columns": worlds.COLUMNS | clock}, Features(**changes))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (pa.array([0, 1, 1]), (0, 1)),
        (pa.array([False, True, True]), (False, True)),
        (pa.array(["no", "yes", "yes"]), ("no", "yes")),
    ],
)
def test_the_second_class_is_the_positive_one(values: pa.Array, classes: tuple[Any, Any]) -> None:
    encoder = TabularEncoder((), (), "late", "binary", classes)
    assert encoder.labels(pa.table({"late": values})).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("values", "classes", "said"),
    [
        (pa.array([0, 1, 2, 2]), (0, 1), "2 rows hold something else, first 2"),
        (pa.array([0, 1, None]), (0, 1), "1 rows"),
        (pa.array(["no", "maybe"]), ("no", "yes"), "'maybe'"),
        (pa.array([True, None]), (False, True), "None"),
    ],
)
def test_a_target_outside_its_classes_is_rejected(values: pa.Array, classes: tuple[Any, Any], said: str) -> None:
    with pytest.raises(DataRejected, match=said) as caught:
        TabularEncoder((), (), "late", "binary", classes).labels(pa.table({"late": values}))
    assert caught.value.exit_code == 3


def test_an_encoder_is_read_as_it_was_written(tmp_path: Path) -> None:
    encoder = fitted(worlds.rows(1000))
    files.write_json(tmp_path / "encoder.json", encoder.as_dict())
    assert restore(files.read_json(tmp_path / "encoder.json")) == encoder


def with_clock(count: int) -> pa.Table:
    """Rows with a timestamp that is a feature: moments before and after 1970, some of them missing."""
    random = np.random.default_rng(3)
    moments = random.integers(-(10**15), 2 * 10**15, count)
    clock = pa.array(moments, pa.int64(), mask=random.random(count) < 0.2).cast(worlds.ARROW["timestamp"])
    return worlds.rows(count).append_column("clock", clock)


def test_a_timestamp_gives_its_hour_and_weekday_in_the_graph_as_in_torch(tmp_path: Path) -> None:
    table = with_clock(400)
    model = untrained(fitted(table, columns={"clock": "timestamp"}))
    predictor = exported(model, tmp_path, table)
    found = answers(predictor, model.encoder, table)
    np.testing.assert_allclose(found, model.predict(table)[:, 0], rtol=0, atol=1e-5)
    numbers, codes = model.encoder.encode(table)
    moments = table["clock"].to_pylist()
    for row, moment in enumerate(moments):
        hour, weekday = numbers[row, -1], codes[row, -1] - model.encoder.offsets[-2] - 1
        if moment is None:
            assert np.isnan(hour)
            assert weekday == -1
        else:
            assert hour == pytest.approx(moment.hour + moment.minute / 60 + moment.second / 3600, abs=1e-3)
            assert weekday == moment.weekday()
    texts = ["" if moment is None else moment.isoformat() for moment in moments]
    raw = model.encoder.raw_inputs(table) | {"clock": np.array(texts)}
    np.testing.assert_array_equal(predictor.predict(raw)["probability"][:, 0], found)


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_the_other_tasks_answer_in_the_graph_as_in_torch(tmp_path: Path, task: str) -> None:
    table = worlds.rows(400)
    target = pa.array(np.arange(400) % 3 if task == "multiclass" else np.arange(400) * 7.5 + 1000)
    table = table.set_column(table.schema.get_field_index("late"), "late", target)
    classes = [0, 1, 2] if task == "multiclass" else []
    model = untrained(fitted(table, facts={"task": task, "classes": classes}))
    predictor = exported(model, tmp_path, table)
    (output,) = predictor.signature.outputs
    found = predictor.predict(model.encoder.raw_inputs(table))[output.name]
    np.testing.assert_allclose(found, model.predict(table), rtol=1e-5, atol=1e-5)
    if task == "multiclass":
        assert found.shape == (400, 3)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    else:
        assert found.shape == (400, 1)
        assert abs(found.mean() - model.encoder.labels(table).mean()) < 2 * model.encoder.scale


def test_rare_classes_weigh_more_when_balanced() -> None:
    table = worlds.rows(400)
    workload, facts = tabular.WORKLOAD, FACTS | {"columns": worlds.COLUMNS}
    plain, balanced = (workload.fit(table, facts, Tune(class_weights=weights)) for weights in ("none", "balanced"))
    assert plain.class_weights == ()
    counts = np.bincount(balanced.labels(table))
    assert np.dot(balanced.class_weights, counts) == pytest.approx(400)
    assert balanced.class_weights[0] * counts[0] == pytest.approx(balanced.class_weights[1] * counts[1])


def test_the_signature_describes_every_input_in_order(original: Network) -> None:
    described = graph.signature(original.encoder)
    assert [tensor.name for tensor in described.inputs] == original.encoder.columns
    kinds = {tensor.name: tensor.datatype for tensor in described.inputs}
    assert kinds == {
        "distance": "FP32", "pressure": "FP32", "seats": "FP32", "route": "INT64", "carrier": "BYTES",
        "holiday": "INT64",
    }  # fmt: skip
    (output,) = described.outputs
    assert (output.name, output.datatype, output.range, output.labels) == ("probability", "FP32", (0.0, 1.0), (0, 1))


def test_a_signature_is_read_as_it_was_written(original: Network, tmp_path: Path) -> None:
    described = graph.signature(original.encoder)
    files.write_json(tmp_path / "signature.json", described.as_dict())
    assert Signature.read(tmp_path / "signature.json") == described


def test_a_missing_number_has_a_vector_of_its_own_and_every_number_stays_finite() -> None:
    embedding = NumberEmbedding([[0.0, 1.0, 2.0], [-5.0, 5.0, 6.0]], 4)
    torch.nn.init.ones_(embedding.missing)
    nan, inf = float("nan"), float("inf")
    found = embedding(torch.tensor([[nan, 1.0], [inf, -inf], [1e38, nan]]))
    assert found.shape == (3, 2, 4)
    assert torch.isfinite(found).all()
    assert torch.equal(found[0, 0], torch.ones(4))
    assert torch.equal(found[2, 1], torch.ones(4))


def test_long_texts_do_not_blow_up_the_memory() -> None:
    """A fixed-width array of one long text times all rows would need 20 GB here."""
    texts = pa.array(["a", "b"] * 25_000 + ["x" * 100_000])
    table = pa.table({"carrier": texts, "late": pa.array([0] * 50_001)})
    encoder = fitted(table)
    assert encoder.categories[0].values == ("a", "b")
    _, codes = encoder.encode(table)
    assert codes[-1, 0] == 0
    assert pc.sum(pa.array(codes[:-1, 0])).as_py() == 75_000
