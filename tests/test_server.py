"""The server as a process of its own: the independent client, bad input, tokens, limits, new versions, the end."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from serving_world import Process, publish
from tritonclient.utils import InferenceServerException

from deploy import golden, signing
from deploy.predictor import Predictor
from deploy.server.__main__ import main

TOKEN = "a-token-that-is-long-enough"  # noqa: S105 (of a server that lives as long as this file)
HEADERS = MappingProxyType({"Authorization": f"Bearer {TOKEN}"})  # the client adds its own to what it is given
LIMITS = {"--max-body": 60_000, "--max-rows": 64, "--max-concurrency": 6, "--max-seconds": 1.5, "--poll": 0.1}


class Served:
    """The server of this file, and what it serves."""

    def __init__(self, root: Path, tiny: Path) -> None:
        self.tiny, self.dist = tiny, root / "tiny"
        self.key, self.public = signing.new_keys(root / "keys")
        self.tokens = root / "tokens"
        self.tokens.write_text(f"{TOKEN}\n")
        self.first = publish(tiny, self.dist, 1, self.key)
        limits = [part for pair in LIMITS.items() for part in pair]
        self.process = Process(self.dist, "--key", self.public, "--token-file", self.tokens, *limits)
        self.case = next(case for case in golden.read(self.first) if case.name == "typical")
        self.expected = Predictor.open(self.first, "cpu").predict(self.case.columns)["probability"]

    def ask(
        self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, method: str | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of a response."""
        given = {**HEADERS, "Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(f"{self.process.ready['url']}{path}", body, given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, dict(response.headers), _parsed(response.read())
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), _parsed(error.read())

    def metric(self, start: str) -> float:
        page = self.ask("/metrics")[2]
        return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(start))


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


@pytest.fixture(scope="session")
def served(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    world = Served(tmp_path_factory.mktemp("served"), tiny)
    yield world
    if world.process.running.poll() is None:
        world.process.stop()


@pytest.fixture
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(f"127.0.0.1:{served.process.port}")
    yield made
    made.close()


def inputs(case: golden.Case, binary: bool) -> list[triton.InferInput]:
    made = []
    for item in case.request["inputs"]:
        array = case.columns[item["name"]]
        array = array.astype(np.object_) if item["datatype"] == "BYTES" else array
        one = triton.InferInput(item["name"], list(array.shape), item["datatype"])
        one.set_data_from_numpy(array, binary_data=binary)
        made.append(one)
    return made


def body(case: golden.Case, **changes: Any) -> bytes:
    return json.dumps({**case.request, **changes}).encode()


# The independent client.


def test_the_client_s_questions_about_the_server_and_the_model(
    served: Served, client: triton.InferenceServerClient
) -> None:
    assert client.is_server_live(headers={**HEADERS})
    assert client.is_server_ready(headers={**HEADERS})
    assert client.is_model_ready("tiny", headers={**HEADERS})
    assert client.is_model_ready("tiny", served.first.name, headers={**HEADERS})
    assert not client.is_model_ready("tiny", "0-none", headers={**HEADERS})
    assert client.get_server_metadata(headers={**HEADERS})["extensions"] == ["binary_tensor_data"]
    told = client.get_model_metadata("tiny", headers={**HEADERS})
    assert told["versions"][0] == served.first.name
    written = json.loads((served.first / "signature.json").read_text())
    for side in ("inputs", "outputs"):
        kept = [{key: item[key] for key in ("name", "datatype", "shape")} for item in told[side]]
        assert kept == [{key: item[key] for key in ("name", "datatype", "shape")} for item in written[side]]
    assert told["parameters"]["provider"] == "CPUExecutionProvider"


@pytest.mark.parametrize("version", ["", "named"])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_the_client_s_predictions(
    served: Served, client: triton.InferenceServerClient, binary_in: bool, binary_out: bool, version: str
) -> None:
    wanted = [triton.InferRequestedOutput("probability", binary_data=binary_out)]
    name = served.first.name if version else ""
    answer = client.infer(
        "tiny", inputs(served.case, binary_in), name, outputs=wanted, request_id="mine", headers={**HEADERS}
    )
    np.testing.assert_allclose(answer.as_numpy("probability"), served.expected, rtol=0, atol=1e-5)
    assert answer.get_response()["id"] == "mine"
    assert answer.get_response()["model_version"] == served.first.name


@pytest.mark.parametrize("packed", ["gzip", "deflate"])
def test_the_client_s_compression_and_its_asynchronous_call(
    served: Served, client: triton.InferenceServerClient, packed: str
) -> None:
    waiting = client.async_infer(
        "tiny", inputs(served.case, True), headers={**HEADERS}, request_compression_algorithm=packed,
        response_compression_algorithm=packed,
    )  # fmt: skip
    np.testing.assert_allclose(waiting.get_result().as_numpy("probability"), served.expected, rtol=0, atol=1e-5)


def test_the_client_is_told_what_is_not_supported(served: Served, client: triton.InferenceServerClient) -> None:
    counted = triton.InferRequestedOutput("probability", class_count=2)
    shared = triton.InferRequestedOutput("probability")
    shared.set_shared_memory("region", 20)
    for output in (counted, shared):
        with pytest.raises(InferenceServerException, match="only the parameter binary_data is supported"):
            client.infer("tiny", inputs(served.case, True), outputs=[output], headers={**HEADERS})
    with pytest.raises(InferenceServerException, match="there is nothing at /v2/repository"):
        client.load_model("tiny", headers={**HEADERS})


def test_columns_by_name(served: Served) -> None:
    columns = {item["name"]: item["data"] for item in served.case.request["inputs"]}
    columns |= {"unread": [0] * len(served.expected)}
    status, _, told = served.ask("/v2/models/tiny/rows", json.dumps({"columns": columns}).encode())
    assert status == 200, told
    np.testing.assert_allclose(told["columns"]["probability"], served.expected[:, 0], rtol=0, atol=1e-5)
    assert told["model_version"] == served.first.name
    columns["seats"] = ["many"] * len(served.expected)
    status, _, told = served.ask("/v2/models/tiny/rows", json.dumps({"columns": columns}).encode())
    assert (status, "seats: FP32 expected" in told["found"]) == (400, True)


def test_no_rows_have_no_answers(served: Served) -> None:
    empty = [item | {"shape": [0, 1], "data": []} for item in served.case.request["inputs"]]
    status, _, told = served.ask("/v2/models/tiny/infer", json.dumps({"inputs": empty}).encode())
    assert (status, told["outputs"][0]["shape"], told["outputs"][0]["data"]) == (200, [0, 1], [])


# Bad input: what was expected is said, and nothing is answered.


def first_input(**changes: Any) -> Any:
    """A change of the first input, `distance` (FP32 [5, 1])."""

    def change(case: golden.Case) -> bytes:
        first, *others = case.request["inputs"]
        changed = {key: value for key, value in (first | changes).items() if value is not ...}
        return body(case, inputs=[changed, *others])

    return change


def raw(content: bytes) -> Any:
    return lambda case: content


def named(name: str, **changes: Any) -> Any:
    def change(case: golden.Case) -> bytes:
        return body(case, inputs=[i | changes if i["name"] == name else i for i in case.request["inputs"]])

    return change


BAD = {
    "no JSON": (raw(b"{"), 400, "no JSON"),
    "nothing": (raw(b""), 400, "no JSON"),
    "a list": (raw(b"[]"), 400, "JSON of type list"),
    "no inputs": (raw(b"{}"), 400, "`inputs` is absent"),
    "inputs that are none": (raw(b'{"inputs": [1]}'), 400, "`inputs` is absent"),
    "Infinity": (first_input(data=[float("inf")] * 5), 400, "no JSON"),
    "beyond a double": (lambda c: body(c).replace(b'"data": [', b'"data": [1e999, ', 1), 400, "no JSON"),
    "not UTF-8": (lambda c: body(c).replace(b'"AA"', b'"\xff\xfe"'), 400, "no JSON"),
    "half a surrogate pair": (lambda c: body(c).replace(b'"AA"', rb'"\ud800"'), 400, "no JSON"),
    "nested too deep": (raw(b'{"inputs":' + b"[" * 30_000), 400, "no JSON"),
    "a long number": (lambda c: body(c).replace(b'"data": [', b'"data": [' + b"9" * 5000 + b",", 1), 400, "no JSON"),
    "no name": (first_input(name=...), 400, "None: no input of this model"),
    "a name that is a list": (first_input(name=["distance"]), 400, "no input of this model"),
    "another name": (first_input(name="distanse"), 400, "'distanse': no input of this model"),
    "an input twice": (lambda c: body(c, inputs=[*c.request["inputs"], c.request["inputs"][0]]), 400, "given twice"),
    "an input less": (lambda c: body(c, inputs=c.request["inputs"][1:]), 400, "distance: not given"),
    "another datatype": (first_input(datatype="FP64"), 400, "datatype FP32 expected, got 'FP64'"),
    "no shape": (first_input(shape=...), 400, "shape must be a list of sizes"),
    "a negative shape": (first_input(shape=[-5, 1]), 400, "shape must be a list of sizes"),
    "a boolean shape": (first_input(shape=[5, True]), 400, "shape must be a list of sizes"),
    "another shape": (first_input(shape=[5, 2]), 400, "shape [rows, 1] expected, got [5, 2]"),
    "a flat shape": (first_input(shape=[5]), 400, "shape [rows, 1] expected, got [5]"),
    "fewer values": (first_input(data=[1.0]), 400, "shape [5, 1] needs 5 values, got 1"),
    "other rows": (first_input(shape=[1, 1], data=[1.0]), 400, "different numbers of rows: [1, 5]"),
    "nested otherwise": (first_input(data=[[1.0, 2.0], [3.0], [4.0], [5.0]]), 400, "nested data must follow"),
    "no data": (first_input(data=...), 400, "data must be a list, got null"),
    "texts for numbers": (first_input(data=["1"] * 5), 400, "got a text"),
    "booleans for numbers": (first_input(data=[True] * 5), 400, "got a boolean"),
    "objects for numbers": (first_input(data=[{}] * 5), 400, "got an object"),
    "fractions for integers": (named("route", data=[1.5] * 5), 400, "each value must be an integer or null"),
    "beyond int64": (named("route", data=[2**64] * 5), 400, "route"),
    "numbers for texts": (named("carrier", data=[1] * 5), 400, "got an integer"),
    "another output": (lambda c: body(c, outputs=[{"name": "p"}]), 400, "none of probability"),
    "an output twice": (lambda c: body(c, outputs=[{"name": "probability"}] * 2), 400, "asked for twice"),
    "outputs that are none": (lambda c: body(c, outputs=[1]), 400, "`outputs` must be a list"),
    "an id that is no text": (lambda c: body(c, id=7), 400, "`id` that is no text"),
    "binary data without any": (first_input(data=..., parameters={"binary_data_size": 20}), 400, "20 bytes expected"),
    "shared memory": (first_input(data=..., parameters={"shared_memory_region": "r"}), 400, "not supported"),
    "too many rows": (first_input(shape=[65, 1], data=[0.0] * 65), 413, "65"),
    "astronomically many rows": (first_input(shape=[10**18, 1]), 413, "1000000000000000000"),
    "too many bytes": (lambda c: body(c, padding="x" * 60_000), 413, "bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(served: Served, name: str) -> None:
    make, status, found = BAD[name]
    answer = served.ask("/v2/models/tiny/infer", make(served.case))
    assert answer[0] == status, answer
    assert found in answer[2]["found"]
    assert answer[2]["error"] == "; ".join(
        (answer[2]["expected"], f"found: {answer[2]['found']}", answer[2]["way_out"])
    )


def test_every_mistake_is_told_at_once(served: Served) -> None:
    first, second, *others = served.case.request["inputs"]
    wrong = body(served.case, inputs=[first | {"datatype": "INT8"}, second | {"data": []}, *others], outputs=[{}])
    found = served.ask("/v2/models/tiny/infer", wrong)[2]["found"]
    assert all(word in found for word in ("distance: datatype", "pressure: shape", "output None"))


def test_the_last_of_two_equal_keys_counts_and_null_is_missing(served: Served) -> None:
    plain = body(served.case).decode()
    twice = plain.replace('"inputs":', '"inputs": 7, "inputs":', 1).encode()
    assert served.ask("/v2/models/tiny/infer", twice)[0] == 200
    missing, nan = first_input(data=[None] * 5)(served.case), first_input(data=[float("nan")] * 5)(served.case)
    assert b"NaN" in nan
    told = [served.ask("/v2/models/tiny/infer", content) for content in (missing, nan)]
    assert told[0][0] == 200
    assert told[0][2]["outputs"] == told[1][2]["outputs"]
    nested = first_input(data=[[value] for value in served.case.columns["distance"][:, 0].tolist()])(served.case)
    np.testing.assert_allclose(
        served.ask("/v2/models/tiny/infer", nested)[2]["outputs"][0]["data"], served.expected[:, 0], atol=1e-5
    )


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"Content-Type": "text/plain"}, None, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, None, 415),
        ({"Content-Encoding": "br"}, None, 415),
        ({"Content-Encoding": "gzip"}, b"not gzip", 400),
        ({"Content-Encoding": "gzip"}, gzip.compress(b"{}", mtime=0)[:-4], 400),
        ({"Content-Encoding": "gzip"}, gzip.compress(b"{}", mtime=0) * 2, 400),
        ({"Content-Encoding": "deflate"}, zlib.compress(b" " * 10_000_000), 413),
        ({"Inference-Header-Content-Length": "-1"}, None, 400),
        ({"Inference-Header-Content-Length": "999999"}, None, 400),
        ({"Inference-Header-Content-Length": "9" * 5000}, None, 400),
    ],
)
def test_bad_headers(served: Served, headers: dict[str, str], content: bytes | None, status: int) -> None:
    answer = served.ask("/v2/models/tiny/infer", body(served.case) if content is None else content, headers)
    assert (answer[0], "error" in answer[2]) == (status, True)


def test_other_paths_and_methods(served: Served) -> None:
    for path, method, status in (
        ("/", "GET", 404), ("/v2/models/other", "GET", 404), ("/v2/models/other/infer", "POST", 404),
        ("/v2/models/tiny/versions/0-none/infer", "POST", 404), ("/v2/models/tiny/versions/0-none", "GET", 404),
        ("/v2/models/tiny/infer", "GET", 405), ("/v2/models/tiny", "DELETE", 405), ("/docs", "GET", 404),
        ("/v2/repository/index", "POST", 404),
    ):  # fmt: skip
        answer = served.ask(path, b"{}" if method == "POST" else None, method=method)
        assert (answer[0], "error" in answer[2]) == (status, True), (path, answer)


# Tokens.


def test_without_a_token_only_health_is_told(served: Served) -> None:
    for token in ("", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer é"):
        for path in ("/v2", "/metrics", "/openapi.json", "/v2/models/tiny/infer"):
            status, headers, told = served.ask(path, headers={"Authorization": token})
            assert (status, headers["www-authenticate"], "error" in told) == (401, "Bearer", True)
    assert served.ask("/v2/health/live", headers={"Authorization": ""})[0] == 200
    assert served.ask("/v2/health/ready", headers={"Authorization": ""})[0] == 200


def test_tokens_change_while_the_server_runs(served: Served) -> None:
    def until(status: int, token: str) -> None:
        end = time.monotonic() + 10
        while served.ask("/v2", headers={"Authorization": f"Bearer {token}"})[0] != status:
            assert time.monotonic() < end
            time.sleep(0.05)

    new = "another-token-of-some-length"
    try:
        served.tokens.write_text(f"{TOKEN}\n{new}\n")
        until(200, new)
        until(200, TOKEN)
        served.tokens.write_text(f"{new}\n")
        until(401, TOKEN)
        served.tokens.unlink()
        until(401, new)
        served.process.wait("token_file_refused")
    finally:
        served.tokens.write_text(f"{TOKEN}\n")
        until(200, TOKEN)


# Limits.


def half(served: Served, path: str = "/v2/models/tiny/infer") -> tuple[socket.socket, bytes]:
    """A connection with half a request sent, and the other half."""
    content = body(served.case)
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}", f"Content-Length: {len(content)}")
    whole = "\r\n".join((*lines, "", "")).encode() + content
    connection = socket.create_connection(("127.0.0.1", served.process.port), timeout=20)
    connection.sendall(whole[:-10])
    return connection, whole[-10:]


def test_requests_at_once_are_limited_and_slow_ones_are_ended(served: Served) -> None:
    opened = [half(served)[0] for _ in range(int(LIMITS["--max-concurrency"]))]
    end = time.monotonic() + 5
    while (answer := served.ask("/v2/models/tiny/infer", body(served.case)))[0] != 429:
        assert time.monotonic() < end
    assert answer[1]["retry-after"] == "1"
    assert served.ask("/v2/health/live")[0] == 200
    for connection in opened:
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
        connection.close()
    assert served.ask("/v2/models/tiny/infer", body(served.case))[0] == 200
    assert served.metric("assay_in_flight") == 0


# Metrics.


def test_metrics_count_answers_and_refusals(served: Served) -> None:
    version = f'version="{served.ask("/v2/models/tiny")[2]["versions"][0]}"'
    good = f'assay_requests_total{{code="200",model="tiny",{version}}}'
    bad = f'assay_requests_total{{code="400",model="tiny",{version}}}'
    before = served.metric(good), served.metric(bad), served.metric("assay_batch_rows_sum")
    served.ask("/v2/models/tiny/infer", body(served.case))
    served.ask("/v2/models/tiny/infer", b"{")
    after = served.metric(good), served.metric(bad), served.metric("assay_batch_rows_sum")
    assert (after[0] - before[0], after[1] - before[1], after[2] - before[2]) == (1, 1, len(served.expected))
    assert served.metric(f'assay_request_seconds_count{{model="tiny",{version}}}') == after[0]
    assert served.metric('assay_requests_total{code="401",model="tiny",version=""}') > 0


# New versions, and the end. These come last: they change what is served.


def test_a_new_version_takes_over_while_requests_go_on_and_a_bad_one_does_not(served: Served) -> None:
    answers: list[tuple[int, str]] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            status, _, told = served.ask("/v2/models/tiny/infer", body(served.case))
            answers.append((status, told.get("model_version", told.get("error"))))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        second = publish(served.tiny, served.dist, 2, served.key)
        served.process.wait("reloaded", version=second.name)
        # One byte of the third is changed after it was signed.
        third = publish(served.tiny, served.dist, 3, served.key)
        served.process.wait("reloaded", version=third.name)
        bad = publish(served.tiny, served.dist.parent / "other", 4, served.key)
        card = bad / "README.md"
        card.write_text(card.read_text() + " ")
        signing.signature_path(bad).rename(served.dist / f"{bad.name}.sig")
        bad.rename(served.dist / bad.name)
        refused = served.process.wait("reload_failed")
    finally:
        time.sleep(0.2)
        stop.set()
        for thread in threads:
            thread.join()
    assert "README.md: changed" in refused["error"]
    assert refused["serving"] == third.name
    assert {status for status, _ in answers} == {200}
    seen = list(dict.fromkeys(version for _, version in answers))
    assert set(seen) == {served.first.name, second.name, third.name}
    assert answers[-1][1] == third.name
    assert served.ask("/v2/models/tiny")[2]["versions"] == [third.name, second.name]
    assert served.ask(f"/v2/models/tiny/versions/{second.name}/infer", body(served.case))[0] == 200
    assert served.ask(f"/v2/models/tiny/versions/{served.first.name}/infer", body(served.case))[0] == 404
    assert served.metric('assay_reloads_total{model="tiny",outcome="failed"}') == 1
    assert served.metric("assay_version{") == 1
    assert served.metric(f'assay_requests_total{{code="200",model="tiny",version="{served.first.name}"') == 0
    shutil.rmtree(served.dist / bad.name)


def test_the_end_waits_for_what_is_under_way(served: Served) -> None:
    connection, rest = half(served)
    time.sleep(0.1)
    served.process.running.terminate()
    time.sleep(0.4)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", served.process.port), timeout=1)
    connection.sendall(rest)
    assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
    assert served.process.running.wait(20) == 0
    assert served.process.wait("stopped")


# What never gets ready.


def test_a_bundle_that_was_tampered_with_is_never_served(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, public = signing.new_keys(tmp_path / "keys")
    folder = publish(tiny, tmp_path / "tiny", 1, key)
    with (folder / "model.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\1\2\3")
    assert main([str(folder), "--key", str(public), "--port", "0"]) == 5
    out, error = capsys.readouterr()
    assert "model.onnx: changed" in error
    assert "ready" not in out


def test_what_is_said_wrongly_is_a_matter_of_use(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["server"])
    folder = publish(tiny, tmp_path / "tiny", 1, None)
    (tmp_path / "short").write_text("abc")
    taken = socket.create_server(("127.0.0.1", 0))
    for arguments, said in (
        ([], "takes a folder, or --store"),
        ([folder], "--key, or served --unsigned"),
        ([tmp_path / "none", "--unsigned"], "is none"),
        ([tmp_path, "--unsigned"], "has no version"),
        ([folder, "--unsigned", "--token-file", tmp_path / "short"], "at least 16 characters"),
        ([folder, "--unsigned", "--token-file", tmp_path / "none"], "No such file"),
        ([folder, "--unsigned", "--name", "a/b"], "'a/b'"),
        ([folder, "--unsigned", "--port", taken.getsockname()[1]], "Address already in use"),
        ([folder, "--unsigned", "--device", "cuda", "--port", 0], "device cuda must really be used"),
        (["--store", tmp_path, "--name", "tiny", "--stage", "prod", "--unsigned", "--port", 0], "promoted to prod"),
    ):
        assert main([str(argument) for argument in arguments]) == 2, arguments
        assert said in capsys.readouterr().err
    taken.close()
