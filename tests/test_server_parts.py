"""The server's parts in this process: datatypes, time limits, sources of versions, drift, what it tells of itself."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from graph_world import model, node
from onnx import TensorProto
from ruamel.yaml import YAML
from serving_world import KINDS, ROOT, echo, in_thread, publish, settings_of, slow, write_model
from tritonclient.utils import triton_to_np_dtype

from deploy import bins, golden, signing
from deploy.bundle import MANIFEST
from deploy.errors import IntegrityError, UsageError
from deploy.runtime import open_session
from deploy.server import sources
from deploy.server.__main__ import _parser
from deploy.server.door import HEALTH
from deploy.server.lineup import Lineup
from deploy.server.metrics import Metrics
from deploy.server.settings import Limits, Serving
from deploy.server.version import Version, run_bound
from deploy.signature import Signature, Tensor
from deploy.variants import Variant
from tasks.export import golden as export_golden
from tasks.export.drift import reference
from tasks.promote import serving
from tasks.promote.server import Server

VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, False, True], "UINT8": [0, 255, 1, 2], "INT8": [-128, 127, 0, 1],
    "INT32": [-(2**31), 2**31 - 1, 0, 1], "INT64": [-(2**63), 2**63 - 1, 0, 1], "FP16": [0.5, -1.5, np.nan, 60000],
    "FP32": [0.1, -1e38, np.nan, np.inf], "FP64": [0.1, 1e300, np.nan, -np.inf],
    "BYTES": ["", "東京", 'a "b"\n', "x" * 300],
}  # fmt: skip


@pytest.fixture(scope="module")
def echoing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Version]]:
    folder = echo(tmp_path_factory.mktemp("echo") / "1-echo")
    with in_thread(folder, settings_of("echo")) as served:
        yield served


def post(url: str, content: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(f"http://{url}", content, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


# Every datatype, in and out.


def arrays() -> dict[str, np.ndarray]:
    def array(kind: str) -> np.ndarray:
        dtype = np.object_ if kind == "BYTES" else triton_to_np_dtype(kind)
        return np.array(VALUES[kind], dtype).reshape(2, 2)

    return {kind: array(kind) for kind in KINDS}


def same(kind: str, found: np.ndarray, wanted: np.ndarray) -> None:
    if kind == "BYTES":
        found = np.array([[text.decode() if isinstance(text, bytes) else text for text in row] for row in found])
    np.testing.assert_array_equal(found, wanted)


def asked(binary: bool, values: dict[str, np.ndarray]) -> list[triton.InferInput]:
    made = []
    for kind, array in values.items():
        one = triton.InferInput(kind.lower(), list(array.shape), kind)
        one.set_data_from_numpy(array, binary_data=binary)
        made.append(one)
    return made


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_every_datatype_comes_back_as_it_went(echoing: tuple[str, Version], binary_in: bool, binary_out: bool) -> None:
    values = arrays()
    if not (binary_in and binary_out):  # JSON has no infinity
        values["FP32"][1, 1] = values["FP64"][1, 1] = np.nan
    wanted = [triton.InferRequestedOutput(f"same_{kind.lower()}", binary_data=binary_out) for kind in KINDS]
    with triton.InferenceServerClient(echoing[0]) as client:
        answer = client.infer("echo", asked(binary_in, values), outputs=wanted)
        some = client.infer("echo", asked(binary_in, values), outputs=[triton.InferRequestedOutput("same_int8")])
        everything = client.infer("echo", asked(binary_in, values))
    for kind, array in values.items():
        same(kind, answer.as_numpy(f"same_{kind.lower()}"), array)
        same(kind, everything.as_numpy(f"same_{kind.lower()}"), array)
    assert [output["name"] for output in some.get_response()["outputs"]] == ["same_int8"]


def test_an_infinity_in_an_answer_is_null_in_json_and_itself_in_bytes(echoing: tuple[str, Version]) -> None:
    values = arrays()
    outputs = [triton.InferRequestedOutput("same_fp32", binary_data=False), triton.InferRequestedOutput("same_fp64")]
    with triton.InferenceServerClient(echoing[0]) as client:
        answer = client.infer("echo", asked(True, values), outputs=outputs)
    assert answer.get_output("same_fp32")["data"][2:] == [None, None]
    assert answer.as_numpy("same_fp64")[1, 1] == -np.inf


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("FP32", b"\0" * 15, "needs 16 bytes, got 15"),
        ("BOOL", b"\0\1\2\0", "a byte 0 or 1"),
        ("BYTES", b"\0" * 15, "4 texts need 16 bytes"),
        ("BYTES", b"\xff\0\0\0" + b"\0" * 12, "text 0 goes beyond"),
        ("BYTES", b"\0" * 12 + b"\1\0\0\0", "text 3 goes beyond"),
        ("BYTES", b"\0" * 12 + b"\1\0\0\0\xff", "text 3 is not UTF-8"),
        ("BYTES", b"\0" * 17, "1 bytes are left over"),
    ],
)
def test_bytes_that_are_not_the_tensor_s(echoing: tuple[str, Version], kind: str, content: bytes, said: str) -> None:
    entry = {"name": kind.lower(), "datatype": kind, "shape": [2, 2], "parameters": {"binary_data_size": len(content)}}
    head = json.dumps({"inputs": [entry]}).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    status, _, told = post(f"{echoing[0]}/v2/models/echo/infer", head + content, **length)
    assert (status, said in json.loads(told)["found"]) == (400, True), told


def test_bytes_of_no_input_are_refused(echoing: tuple[str, Version]) -> None:
    entries = [one._get_tensor() for one in asked(False, {k: v for k, v in arrays().items() if k[:2] != "FP"})]
    entries += [{"name": k, "datatype": k.upper(), "shape": [2, 2], "data": [0] * 4} for k in ("fp16", "fp32", "fp64")]
    head = json.dumps({"inputs": entries}).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    assert post(f"{echoing[0]}/v2/models/echo/infer", head, **length)[0] == 200
    status, _, told = post(f"{echoing[0]}/v2/models/echo/infer", head + b"more", **length)
    assert (status, "4 bytes after the JSON belong to no input" in json.loads(told)["found"]) == (400, True)


def test_bound_to_a_device_the_answers_are_the_same(tmp_path: Path) -> None:
    session = open_session(slow(tmp_path / "m") / "model.onnx", "cpu", 1)
    rows = {"x": np.random.default_rng(1).normal(size=(1, 256)).astype(np.float32)}
    (bound,), (plain,) = run_bound(session, ["product"], rows, "cpu", None), session.run(["product"], rows)
    np.testing.assert_array_equal(bound, plain)
    texts = open_session(echo(tmp_path / "e") / "model.onnx", "cpu", 1)
    values = {kind.lower(): array for kind, array in arrays().items()}
    (told,) = run_bound(texts, ["same_bytes"], values, "cpu", None)
    assert told.tolist() == values["bytes"].tolist()


# Time.


def test_an_answer_that_takes_too_long_is_ended_and_the_next_one_is_given(tmp_path: Path) -> None:
    settings = settings_of("slow", limits=Limits(seconds=0.3), workers=1)
    with in_thread(slow(tmp_path / "1-slow"), settings) as (url, version):

        def ask(rows: int, width: int = 256) -> tuple[int, dict[str, str], bytes]:
            entry = {"name": "x", "datatype": "FP32", "shape": [rows, width],
                     "parameters": {"binary_data_size": 4 * rows * width}}  # fmt: skip
            head = json.dumps({"inputs": [entry]}).encode()
            length = {"Inference-Header-Content-Length": str(len(head))}
            return post(f"{url}/v2/models/slow/infer", head + bytes(4 * rows * width), **length)

        started = time.monotonic()
        status, headers, told = ask(1000)
        assert (status, headers["retry-after"]) == (503, "1"), told[:200]
        assert time.monotonic() - started < 5
        assert version.inline_bytes == 0
        end = time.monotonic() + 20
        while ask(1)[0] != 200:  # the one thread has to get to the end of a node first
            assert time.monotonic() < end
        # A shape that the signature leaves open and the graph cannot take.
        assert ask(1, 3)[0] == 400
        assert ask(1, 0)[0] == 400


# Sources, and what fails beside what serves.


def point(store: Path, folder: Path, revision: int, digest: str | None = None) -> None:
    path = store / "tiny" / "stages" / "prod.json"
    path.parent.mkdir(exist_ok=True)
    found = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    path.write_text(json.dumps({"version": folder.name, "digest": digest or found, "revision": revision}))


def test_a_stage_is_followed_forwards_and_back_and_its_digest_counts(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = sources.Stage(tmp_path, "tiny", "prod")
    with pytest.raises(UsageError, match="promoted to prod"):
        source.wanted()
    key, public = signing.new_keys(tmp_path / "keys")
    first, second = (publish(tiny, tmp_path / "tiny", number, key) for number in (1, 2))
    point(tmp_path, first, 1)
    lineup = Lineup(source, Serving("tiny", public, "cpu"), Metrics("tiny"))
    assert lineup.loaded.current.name == first.name
    old = lineup.loaded.current
    point(tmp_path, second, 2, digest="0" * 64)
    lineup.refresh()
    lineup.refresh()
    assert lineup.loaded.current is old
    assert capsys.readouterr().out.count("reload_failed") == 1  # told once, not at every look
    point(tmp_path, second, 3)
    lineup.refresh()
    assert [one.name for one in lineup.loaded.both] == [second.name, first.name]
    point(tmp_path, first, 4)
    lineup.refresh()
    assert lineup.loaded.current is old  # back at once: it was still loaded
    shutil.rmtree(tmp_path / "tiny" / "stages")
    lineup.refresh()
    assert lineup.loaded.current is old
    metrics = lineup._metrics.page().decode()
    assert 'assay_reloads_total{model="tiny",outcome="done"} 2.0' in metrics
    assert 'assay_reloads_total{model="tiny",outcome="failed"} 2.0' in metrics


def test_a_version_that_answers_otherwise_than_its_golden_cases_is_not_served(tiny: Path, tmp_path: Path) -> None:
    def answer_otherwise(folder: Path) -> None:
        path = next((folder / "golden").glob("*.response.json"))
        told = json.loads(path.read_text())
        told["outputs"][0]["data"][0] += 0.1
        path.write_text(json.dumps(told))

    folder = publish(tiny, tmp_path / "tiny", 1, None, answer_otherwise)
    with pytest.raises(IntegrityError, match=r"golden case .*off by 0\.1"):
        Version.load(folder, Serving("tiny", None, "cpu"))
    # Beside a good one it is left out, if it is the version before; the newest one that fails ends the start.
    publish(tiny, tmp_path / "tiny", 2, None)
    lineup = Lineup(sources.local(tmp_path / "tiny"), Serving("tiny", None, "cpu"), Metrics("tiny"))
    assert lineup.loaded.before is None


def test_versions_are_ordered_by_number(tmp_path: Path) -> None:
    for name in ("2-b", "10-a", "9-c", ".partial-11-d", "notes"):
        (tmp_path / "m" / name).mkdir(parents=True)
        (tmp_path / "m" / name / MANIFEST).touch()
    (tmp_path / "m" / "12-e").mkdir()
    assert [path.name for path in sources.local(tmp_path / "m").wanted()] == ["10-a", "9-c"]


# What it tells of itself.


def test_the_openapi_document_has_the_predictions_with_the_model_s_signature(echoing: tuple[str, Version]) -> None:
    with urllib.request.urlopen(f"http://{echoing[0]}/openapi.json", timeout=20) as response:
        told = json.load(response)
    post_ = told["paths"]["/v2/models/{name}/infer"]["post"]
    items = post_["requestBody"]["content"]["application/json"]["schema"]["properties"]["inputs"]["items"]["anyOf"]
    assert [item["properties"]["name"]["const"] for item in items] == [kind.lower() for kind in KINDS]
    assert {"200", "400", "401", "413", "415", "429", "503"} <= post_["responses"].keys()
    assert "/v2/health/ready" in told["paths"]
    for route in ("infer", "rows"):  # its examples are answered
        example = told["paths"][f"/v2/models/{{name}}/{route}"]["post"]["requestBody"]["content"]["application/json"]
        assert post(f"{echoing[0]}/v2/models/echo/{route}", json.dumps(example["example"]).encode())[0] == 200
    assert not any("admin" in path or "load" in path for path in told["paths"])


# Drift.


def test_what_is_served_is_counted_in_the_bins_that_export_counted_in(tmp_path: Path) -> None:
    """The rows that the reference was made of have its counts; those too small to tell are 0 there."""
    random = np.random.default_rng(3)
    n = 3000
    columns: dict[str, tuple[Tensor, np.ndarray]] = {
        "number": (Tensor("number", "FP32", (-1, 1)), random.normal(size=(n, 1)).astype(np.float32)),
        "word": (Tensor("word", "BYTES", (-1, 1)), random.choice(["", "a", "ü"], (n, 1), p=[0.001, 0.5, 0.499])),
        "code": (Tensor("code", "INT64", (-1, 1)), random.choice([-(2**63), 0, 5], (n, 1))),
        "quantity": (Tensor("quantity", "INT64", (-1, 1)), random.integers(0, 10**6, (n, 1))),
        "when": (Tensor("when", "INT64", (-1, 1), format="timestamp"), random.integers(0, 2 * 10**15, (n, 1))),
        "who": (Tensor("who", "BYTES", (-1, 1)), random.choice(["", "x", "y"], (n, 1))),
        "image": (Tensor("image", "UINT8", (-1, 4, 4)), random.integers(0, 255, (n, 4, 4)).astype(np.uint8)),
        "history": (Tensor("history", "BYTES", (-1, -1)), random.choice(["", "i", "j"], (n, 6))),
    }  # fmt: skip
    columns["number"][1][:50] = np.nan
    arrays = {
        name: array.astype(np.object_) if array.dtype.kind == "U" else array for name, (_, array) in columns.items()
    }
    chances = random.dirichlet([1, 1, 1], n).astype(np.float32)
    signature = Signature(
        tuple(tensor for tensor, _ in columns.values()),
        (Tensor("probability", "FP32", (-1, 3), labels=("x", "y", "z")),),
    )
    splits = {name: {"train": array} for name, array in arrays.items()}
    made = reference(signature, splits, {"validation": chances}, frozenset({"who"}))
    (tmp_path / bins.NAME).write_text(json.dumps(made))
    counts = bins.read(tmp_path, signature)
    assert counts.keys() == {*arrays, "probability"}

    def kept(spread: dict[str, Any], split: str) -> dict[str, int]:
        if "counts" not in spread:
            parts = {name: kept(part, split) for name, part in spread.items() if name != "kind"}
            return {f"{part}:{name}": count for part, found in parts.items() for name, count in found.items()}
        names = [str(place) for place in range(len(spread["counts"][split]) - 1)] + ["missing"]
        if spread["kind"] in ("category", "identifier"):
            names[-2] = "other"
        return {name: count for name, count in zip(names, spread["counts"][split], strict=True) if count}

    for name, array in (arrays | {"probability": chances}).items():
        spread, split = (made["features"] | made["predictions"])[name], "train" if name in arrays else "validation"
        assert {k: v for k, v in bins.count(counts[name], array).items() if v >= made["least_count"]} == kept(
            spread, split
        ), name
    (tmp_path / bins.NAME).write_text('{"features": {"number": {"kind": "shape"}}, "predictions": {}}')
    with pytest.raises(IntegrityError, match="kind 'shape'"):
        bins.read(tmp_path, signature)
    (tmp_path / bins.NAME).unlink()
    assert bins.read(tmp_path, signature) == {}


# The files around it.


def test_the_image_has_what_the_lock_has_and_nothing_of_training() -> None:
    lines = (ROOT / "deploy" / "docker" / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    locked = (ROOT / "requirements.lock").read_text().replace("onnxruntime-gpu", "onnxruntime")
    assert [
        name for name, version in pins.items() if f"\n{name}=={version}" not in locked.lower().replace("_", "-")
    ] == []
    assert not pins.keys() & {"torch", "dvc", "prefect", "pandas", "pyarrow", "onnx", "optuna", "great-expectations"}
    needed = Path(sources.__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(needed.read_text())["project"]["optional-dependencies"]
    named = {re.split(r"[<>=;\[]", line)[0] for extra in ("serve", "sign") for line in extras[extra]}
    assert named <= pins.keys()


def test_the_image_is_pinned_and_not_run_as_root() -> None:
    docker = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", docker, re.MULTILINE)
    assert bases == ["python:3.11-slim-bookworm@${PYTHON_DIGEST}"] * 2
    assert re.search(r"^ARG PYTHON_DIGEST$", docker, re.MULTILINE), "a digest that is forgotten must end the build"
    assert re.search(r"^USER 10001:10001$", docker, re.MULTILINE)
    service = read_yaml("docker/compose.yaml")["services"]["model"]
    assert service["build"]["args"]["PYTHON_DIGEST"].startswith("${PYTHON_DIGEST:?")
    assert (service["read_only"], service["cap_drop"], service["user"]) == (True, ["ALL"], "10001:10001")
    _parser().parse_args([re.sub(r"\$\{(\w+).*", r"\1", word) for word in service["command"]])


def test_kserve_s_file_runs_this_server_with_this_server_s_probes(echoing: tuple[str, Version]) -> None:
    service = read_yaml("kubernetes/inference-service.yaml")
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    (container,) = service["spec"]["predictor"]["containers"]
    options = _parser().parse_args(container["args"])
    assert str(options.folder) == "/mnt/models"
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {f"/{path.parts[1]}" for path in (options.key, options.token_file)} == mounts
    assert {volume["name"] for volume in service["spec"]["predictor"]["volumes"]} == {
        mount["name"] for mount in container["volumeMounts"]
    }
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = container[probe]["httpGet"]["path"]
        assert path in HEALTH
        assert urllib.request.urlopen(f"http://{echoing[0]}{path}", timeout=20).status == 200
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert "@sha256:" in container["image"]


def test_argo_s_questions_are_about_metrics_that_there_are(echoing: tuple[str, Version]) -> None:
    template = read_yaml("kubernetes/analysis-template.yaml")
    assert (template["apiVersion"], template["kind"]) == ("argoproj.io/v1alpha1", "AnalysisTemplate")
    post(f"{echoing[0]}/v2/models/echo/infer", b"{}")
    empty = [{"name": k.lower(), "datatype": k, "shape": [0, 2], "data": []} for k in KINDS]
    assert post(f"{echoing[0]}/v2/models/echo/infer", json.dumps({"inputs": empty}).encode())[0] == 200
    with urllib.request.urlopen(f"http://{echoing[0]}/metrics", timeout=20) as response:
        page = response.read().decode()
    there = {line.partition("{")[0]: set(re.findall(r'(\w+)="', line)) for line in page.splitlines() if "{" in line}
    there["assay_version"] = {"model", "version", "provider"}  # the lineup says it, which `echoing` has none of
    arguments = {argument["name"] for argument in template["spec"]["args"]}
    for metric in template["spec"]["metrics"]:
        query = metric["provider"]["prometheus"]["query"]
        asked = re.findall(r"(assay_\w+)\{([^}]*(?:\}\}[^}]*)*)\}", query)
        assert asked
        for name, labels in asked:
            assert set(re.findall(r'(\w+)=~?"', labels)) <= there[name], name
        assert set(re.findall(r"\{\{args\.(\w+)\}\}", query)) <= arguments
        assert query.count("(") == query.count(")")


def read_yaml(name: str) -> Any:
    return YAML(typ="safe").load((ROOT / "deploy" / name).read_text())


def test_triton_s_repository_has_its_layout(tiny: Path, tmp_path: Path) -> None:
    folder = publish(tiny, tmp_path / "tiny", 7, None)
    script = ROOT / "deploy" / "triton" / "repository.sh"
    subprocess.run(["sh", script, folder, tmp_path / "repository"], check=True)
    made = {path.relative_to(tmp_path / "repository").as_posix() for path in (tmp_path / "repository").rglob("*.*")}
    assert made == {"tiny/config.pbtxt", "tiny/7/model.onnx"}
    assert (tmp_path / "repository/tiny/7/model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()


def test_an_infinite_golden_answer_is_the_null_that_a_server_says(tmp_path: Path) -> None:
    """A second output without bound, from `export` through a server to the gate of promotions."""
    row = {"x": (TensorProto.FLOAT, ["N", 2])}
    answers = {name: (TensorProto.FLOAT, ["N", 2]) for name in ("same", "beyond")}
    nodes = [node("Identity", "x", "same"), node("Div", "x zero", "beyond")]
    made = model(nodes, row, answers, {"zero": np.zeros(1, np.float32)})
    outputs = tuple(Tensor(name, "FP32", (-1, 2)) for name in answers)
    folder = write_model(tmp_path / "beyond", made, (Tensor("x", "FP32", (-1, 2)),), outputs)
    export_golden.write(folder, Variant("cpu", ".", "x", "cpu", 1), {"x": np.array([[1.0, -2.0]] * 3, np.float32)}, 2)

    def said(change: Callable[[list[float | None]], None] = lambda _: None) -> list[str]:
        path = folder / "golden" / "typical.response.json"
        told = json.loads(path.read_text())
        change(told["outputs"][1]["data"])
        path.write_text(json.dumps(told))
        return list(serving._golden(asked, golden.read(folder)))

    with in_thread(folder, settings_of("beyond")) as (address, _):
        asked = Server("beyond", "CPUExecutionProvider", None, 0.0, "127.0.0.1", int(address.rpartition(":")[2]))
        assert said() == []
        assert "output beyond: off by" in said(lambda data: data.__setitem__(0, 1.0))[0], "infinite, and should not be"
    assert golden.read(folder)[2].answers["beyond"].expected[0, 1] == -golden.GREATEST
