"""What a bundle says of itself: Triton's configuration, bills of materials, licences, the drift reference, the card."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import worlds
from google.protobuf import text_format

from deploy.predictor import Predictor
from deploy.signature import Signature, Tensor
from deploy.variants import Variant
from tasks.core import files
from tasks.core.errors import IntegrityError
from tasks.export import cyclonedx, drift, packages, triton


@pytest.fixture(scope="session")
def bundled(tiny: Path) -> Path:
    """The published bundle; read only."""
    (version,) = (path for path in (tiny / "dist" / "tiny").iterdir() if path.is_dir())
    return version


# Triton.


def parsed(path: Path) -> Any:
    """The configuration as NVIDIA's own client reads it; its package would also want gRPC."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None
    assert package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return text_format.Parse(path.read_text(encoding="utf-8"), module.ModelConfig())


def kind(config: Any, number: int) -> str:
    return str(config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number[number].name)


def test_triton_is_told_of_every_tensor_and_how_to_warm_up(bundled: Path) -> None:
    config, signature = parsed(bundled / "config.pbtxt"), Signature.read(bundled / "signature.json")
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "onnxruntime", 64)
    types = {"FP32": "TYPE_FP32", "INT64": "TYPE_INT64", "BYTES": "TYPE_STRING"}
    for ours, theirs in ((signature.inputs, config.input), (signature.outputs, config.output)):
        assert [(t.name, types[t.datatype], list(t.shape[1:])) for t in ours] == [
            (t.name, kind(config, t.data_type), list(t.dims)) for t in theirs
        ]
    assert [warm.batch_size for warm in config.model_warmup] == [1, 64]
    for warm in config.model_warmup:
        assert {name: list(value.dims) for name, value in warm.inputs.items()} == {
            t.name: [1] for t in signature.inputs
        }
        assert all(value.zero_data for value in warm.inputs.values())


ODD = Signature(
    (
        Tensor('say "hi"\n\\東京', "BYTES", (-1, -1)),
        Tensor("flat", "INT32", (-1,)),
        Tensor("image", "UINT8", (-1, 3, 8, 8)),
        Tensor("flag", "BOOL", (-1, 1)),
    ),
    (Tensor("p", "FP16", (-1, 2)),),
)


@pytest.mark.parametrize("device", ["cpu", "cuda", "tensorrt"])
def test_triton_understands_every_shape_name_and_device(tmp_path: Path, device: str) -> None:
    folder = tmp_path / "variants" / device
    folder.mkdir(parents=True)
    files.write_json(folder / "signature.json", ODD.as_dict())
    triton.write(tmp_path, "odd", Variant(device, f"variants/{device}", "int8", device, 3))
    config = parsed(folder / "config.pbtxt")
    assert [tensor.name for tensor in config.input] == [tensor.name for tensor in ODD.inputs]
    assert [list(tensor.dims) for tensor in config.input] == [[-1], [1], [3, 8, 8], [1]]
    assert [tensor.HasField("reshape") for tensor in config.input] == [False, True, False, False]
    assert [kind(config, tensor.data_type) for tensor in config.input] == [
        "TYPE_STRING", "TYPE_INT32", "TYPE_UINT8", "TYPE_BOOL",
    ]  # fmt: skip
    assert list(config.model_warmup[0].inputs[ODD.inputs[0].name].dims) == [1]
    (group,) = config.instance_group
    assert group.Kind.Name(group.kind) == ("KIND_CPU" if device == "cpu" else "KIND_GPU")
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert [one.name for one in accelerators] == (["tensorrt"] if device == "tensorrt" else [])
    assert config.parameters["intra_op_thread_count"].string_value == "3"


# Bills of materials, licences.


def test_the_model_s_bill_states_the_evidence(bundled: Path) -> None:
    bill, verdict = (files.read_json(bundled / name) for name in ("mlbom.cdx.json", "verdict.json"))
    model = bill["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": verdict["model_sha256"]}]
    card = model["modelCard"]
    (line,) = verdict["lines"]
    first, second = card["quantitativeAnalysis"]["performanceMetrics"][:2]
    for side, metric in (("original", first), ("shipped", second)):
        assert metric["type"] == "auc"
        assert float(metric["value"]) == line[side]
        interval = metric["confidenceInterval"]
        assert [float(interval["lowerBound"]), float(interval["upperBound"])] == line[f"{side}_interval"]
        assert metric["slice"] == f"{side}, cpu, test, n={worlds.SIZES['test']}"
    datasets = {data["name"]: data for data in card["modelParameters"]["datasets"]}
    assert set(datasets) == {f"tiny {split}" for split in worlds.SIZES}
    told = {one["name"]: one["value"] for one in datasets["tiny train"]["contents"]["properties"]}
    assert told == {"assay:rows": str(worlds.SIZES["train"]), "assay:snapshot": "c0ffee", "assay:licence": "CC0-1.0"}
    assert card["considerations"]["useCases"] == ["A tiny world."]


def test_the_model_s_bill_is_the_same_whenever_it_is_made(bundled: Path) -> None:
    text = (bundled / "mlbom.cdx.json").read_text()
    assert "serialNumber" not in text
    assert "timestamp" not in text


def test_the_software_s_bill_lists_what_is_installed_with_its_needs(bundled: Path) -> None:
    bill = files.read_json(bundled / "sbom.cdx.json")
    found = {one["name"]: one for one in bill["components"]}
    for name in ("torch", "numpy", "prefect", "dvc", "great-expectations", "cryptography"):
        assert (found[name]["version"] == importlib.metadata.version(name)) if name in found else name == "cryptography"
    assert found["numpy"]["purl"] == f"pkg:pypi/numpy@{importlib.metadata.version('numpy')}"
    assert bill["metadata"]["component"]["name"] == "assay"
    needs = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    assert found["numpy"]["bom-ref"] in needs[found["pandas"]["bom-ref"]]
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bill["serialNumber"])
    assert bill["metadata"]["timestamp"] == files.read_json(bundled / "provenance.json")["created"]


def test_a_bill_that_the_standard_does_not_know_is_refused(bundled: Path) -> None:
    bill = files.read_json(bundled / "mlbom.cdx.json")
    bill["metadata"]["component"]["modelCard"] |= {"colour": "blue"}
    bill["version"] = "first"
    with pytest.raises(IntegrityError) as caught:
        cyclonedx.valid(bill)
    assert "colour" in caught.value.found
    assert "'first'" in caught.value.found


def test_licences_are_told_of_data_and_dependencies(bundled: Path) -> None:
    told = files.read_json(bundled / "licences.json")
    assert told["data"] == {"licence": "CC0-1.0", "source": "export.data_licence"}
    found = {one["name"]: one for one in told["dependencies"]}
    assert found["assay"]["licence"] == "Apache-2.0"
    assert "BSD" in found["torch"]["licence"]
    assert told["unknown"] == [name for name, one in found.items() if one["licence"] == "unknown"]


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ("License-Expression: MIT\nLicense: other", ("MIT", "License-Expression")),
        ("License: long\nClassifier: License :: OSI Approved :: MIT License", ("MIT License", "Classifier")),
        ("Classifier: License :: OSI Approved\nLicense: BSD", ("BSD", "License")),
        ("License: " + "words " * 40, (("words " * 40)[:77] + "...", "License")),
        ("License: UNKNOWN", ("unknown", "none")),
        ("Summary: nothing", ("unknown", "none")),
    ],
)
def test_a_licence_nobody_states_is_unknown(tmp_path: Path, fields: str, licence: tuple[str, str]) -> None:
    folder = tmp_path / "x-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: x\nVersion: 1\n{fields}\n")
    assert packages._licence(importlib.metadata.PathDistribution(folder)) == licence


# Drift.


def test_the_drift_reference_counts_every_row_once(tiny: Path, bundled: Path) -> None:
    told = files.read_json(bundled / "drift_reference.json")
    assert told["rows"] == {split: worlds.SIZES[split] for split in ("train", "validation")}
    for name, spread in told["features"].items():
        for split, counts in spread["counts"].items():
            lost = worlds.SIZES[split] - sum(counts)
            small = counts.count(0) * (drift.LEAST - 1)
            assert 0 <= lost <= small, (name, split)
            assert len(counts) == len(spread.get("edges", spread.get("values"))) + 2
    assert told["features"]["carrier"]["values"] == ["a,b", "AA", "Ünï", "DL", "東京", 'say "hi"']
    (prediction,) = told["predictions"].values()
    assert sum(prediction["counts"]["validation"]) == worlds.SIZES["validation"]


def test_no_bin_tells_of_a_single_row(tiny: Path, bundled: Path) -> None:
    import pyarrow.parquet as pq

    told = files.read_json(bundled / "drift_reference.json")
    train = pq.read_table(tiny / "artifacts" / "validate" / "train.parquet")
    for name in ("distance", "pressure"):
        edges = told["features"][name]["edges"]
        values = np.sort(train[name].drop_null().to_numpy().astype(np.float32))
        assert not set(edges) & set(values.tolist())
        assert (np.diff(np.searchsorted(values, edges)) >= drift.LEAST).all()
        assert np.searchsorted(values, edges[0]) >= drift.LEAST
        assert len(values) - np.searchsorted(values, edges[-1]) >= drift.LEAST
    spreads = [*told["features"].values(), *told["predictions"].values()]
    assert not [n for one in spreads for counts in one["counts"].values() for n in counts if 0 < n < drift.LEAST]


NOTHING = np.iinfo(np.int64).min


def spread(tensor: Tensor, people: frozenset[str] = frozenset(), **splits: np.ndarray) -> dict[str, Any]:
    signature = Signature((tensor,), (Tensor("p", "FP32", (-1, 1)),))
    answers = {"validation": np.linspace(0, 1, 100)[:, None]}
    found: dict[str, Any] = drift.reference(signature, {tensor.name: splits}, answers, people)["features"][tensor.name]
    json.dumps(found, allow_nan=False)
    return found


def test_a_number_out_of_range_infinite_or_missing_has_its_bin() -> None:
    train = np.arange(1000, dtype=np.float32)[:, None]
    later = np.repeat(np.array([[-5.0], [2000.0], [np.inf], [-np.inf], [np.nan], [500.25]], np.float32), 10, axis=0)
    found = spread(Tensor("x", "FP32", (-1, 1)), train=train, later=later)
    assert found["edges"][0] == 9.5
    assert found["edges"][-1] == 989.5
    assert found["counts"]["train"] == [10, 90, *[100] * 8, 90, 10, 0]
    assert (found["counts"]["later"][0], found["counts"]["later"][-2], found["counts"]["later"][-1]) == (20, 20, 10)


@pytest.mark.parametrize("values", [[1.0] * 500, [np.nan] * 500, [], [1.0, 2.0, 3.0], [0.0] * 495 + [1.0] * 5])
def test_a_number_with_nothing_to_tell_has_no_borders(values: list[float]) -> None:
    found = spread(Tensor("x", "FP32", (-1, 1)), train=np.array(values, np.float32)[:, None])
    assert found["edges"] == []


def test_a_rare_category_is_one_of_the_others() -> None:
    train = np.array(["a"] * 40 + ["b"] * 20 + ["c"] * 9 + ["d"] * 9 + [""] * 12)[:, None]
    found = spread(Tensor("x", "BYTES", (-1, 1)), train=train)
    assert found["values"] == ["a", "b"]
    assert found["counts"]["train"] == [40, 20, 18, 12]


def test_integers_with_few_equals_are_a_quantity() -> None:
    found = spread(Tensor("x", "INT64", (-1, 1)), train=np.r_[np.arange(990), [NOTHING] * 10][:, None])
    assert found["kind"] == "number"
    assert found["counts"]["train"][-1] == 10


def test_a_moment_is_counted_by_weekday() -> None:
    days = np.array([0] * 20 + [86_400_000_000 * 4] * 15 + [NOTHING] * 10)[:, None]
    found = spread(Tensor("x", "INT64", (-1, 1), format="timestamp"), train=days)
    assert found["counts"]["train"] == [15, 0, 0, 20, 0, 0, 0, 10]


def test_of_people_nothing_is_listed() -> None:
    users = np.array(["ann"] * 50 + ["bob"] * 40 + [""] * 10)[:, None]
    found = spread(Tensor("user", "BYTES", (-1, 1)), frozenset({"user"}), train=users)
    assert found == {"kind": "identifier", "counts": {"train": [90, 10]}}


@pytest.mark.parametrize("dtype", [np.bytes_, np.str_, object])
def test_lists_are_told_by_length_and_items(dtype: Any) -> None:
    rows = np.array([["a", "b", ""]] * 30 + [["a", "", ""]] * 30, dtype)
    found = spread(Tensor("history", "BYTES", (-1, -1)), train=rows)
    assert found["items"]["values"] == ["a", "b"]
    assert found["items"]["counts"]["train"] == [60, 30, 0, 0]
    assert sum(found["length"]["counts"]["train"]) == 60


def test_arrays_are_told_by_mean_deviation_and_contrast() -> None:
    images = np.random.default_rng(0).integers(0, 255, (200, 3, 4, 4)).astype(np.uint8)
    found = spread(Tensor("x", "UINT8", (-1, 3, 4, 4)), train=images)
    assert set(found) == {"kind", "mean", "deviation", "contrast"}
    assert 100 < found["mean"]["edges"][3] < 150


def test_answers_are_told_by_label_and_probability() -> None:
    signature = Signature((Tensor("x", "FP32", (-1, 1)),), (Tensor("p", "FP32", (-1, 2), labels=("cat", 7)),))
    answers = np.array([[0.9, 0.1]] * 60 + [[0.2, 0.8]] * 40, np.float32)
    told = drift.reference(signature, {"x": {"train": np.zeros((100, 1))}}, {"validation": answers}, frozenset())
    assert told["predictions"]["p"]["label"]["values"] == ["cat", "7"]
    assert told["predictions"]["p"]["label"]["counts"]["validation"] == [60, 40, 0, 0]


def test_the_reference_is_of_what_the_model_answers(bundled: Path, tiny: Path) -> None:
    import pyarrow.parquet as pq

    from tasks.core.original import load_encoder

    rows = pq.read_table(tiny / "artifacts" / "validate" / "validation.parquet")
    columns = load_encoder(tiny / "artifacts" / "tune").raw_inputs(rows)
    answers = Predictor.load(bundled, "cpu").predict(columns)["probability"][:, 0]
    told = files.read_json(bundled / "drift_reference.json")["predictions"]["probability"]
    bins = np.bincount(np.searchsorted(told["edges"], answers, side="right"), minlength=len(told["edges"]) + 1)
    assert bins.tolist() == told["counts"]["validation"][:-1]
