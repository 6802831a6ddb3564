"""Hot reloads under load: no failed request, and each answer wholly by the version that it names.

    python benchmarks/serving/reload.py BUNDLE [--reloads 100] [--concurrency 8]

Versions that answer differently take turns at a stage of a store: copies of the bundle whose constants were scaled.
Every response is held against what its version must answer.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import client
import numpy as np
import onnx
import uvloop
from onnx import numpy_helper
from served import one_row, process

from deploy import bundle
from deploy.predictor import Predictor

PORT = 18091


def main() -> int:
    """Print the table; 1 if a request failed or an answer was not its version's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=8)
    options = parser.parse_args()
    store = Path(tempfile.mkdtemp(prefix="store-"))
    name = options.bundle.parent.name
    request = one_row(options.bundle)
    # Four versions: two are loaded at any time, so that each change loads one anew.
    versions = [version(options.bundle, store / name, number) for number in range(1, 5)]
    expected = {folder.name: answer(folder, request) for folder in versions}
    assert len({value.tobytes() for value in expected.values()}) == len(versions), "the versions must differ"
    point(store / name, versions[0], 1)
    command = [sys.executable, "-P", "-m", "deploy.server", "--store", str(store), "--name", name, "--stage", "prod",
               "--unsigned", "--port", str(PORT), "--poll", "0.02"]  # fmt: skip
    env = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    log = store / "server.log"
    with process(command, f"http://127.0.0.1:{PORT}/v2/health/ready", None, log, env):
        told = uvloop.run(under_load(store / name, versions, name, request, expected, options))
    failures = sum('"event":"reload_failed"' in line for line in log.read_text().splitlines())
    print(json.dumps(told | {"failed_reloads": failures}, indent=2))
    shutil.rmtree(store)
    return int(told["failed"] > 0 or told["mixed"] > 0 or failures > 0)


async def under_load(
    folder: Path, versions: list[Path], name: str, request: dict[str, Any], expected: dict[str, np.ndarray],
    options: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    """Move the pointer again and again while requests go on."""
    seen: dict[str, int] = {}
    mixed, stopped = 0, asyncio.Event()

    def look(response: bytes) -> None:
        nonlocal mixed
        told = json.loads(response.partition(b"\r\n\r\n")[2])
        if "model_version" not in told:
            return
        seen[told["model_version"]] = seen.get(told["model_version"], 0) + 1
        data = np.array(told["outputs"][0]["data"], np.float32)
        mixed += not np.allclose(data, expected[told["model_version"]], rtol=0, atol=1e-6)

    url = f"http://127.0.0.1:{PORT}/v2/models/{name}/infer"
    sent = client.request(url, json.dumps(request).encode())
    load = asyncio.create_task(
        client.run_in_loop(url, sent, options.concurrency, 3600, float("inf"), look, stopped.is_set)
    )
    took = []
    for revision in range(2, options.reloads + 2):
        wanted = versions[revision % len(versions)]
        started = time.perf_counter()
        before = seen.get(wanted.name, 0)
        point(folder, wanted, revision)
        while seen.get(wanted.name, 0) == before:
            await asyncio.sleep(0.005)
            assert time.perf_counter() - started < 60, f"revision {revision} is not served"
        took.append(time.perf_counter() - started)
    stopped.set()
    outcome = await load
    p50, worst = np.percentile(took, [50, 100])
    return {"reloads": options.reloads, "answers": len(outcome.seconds), "failed": outcome.failed, "mixed": mixed,
            "seconds_to_first_answer_p50": round(float(p50), 3), "worst": round(float(worst), 3),
            "latency": outcome.summary()}  # fmt: skip


def version(made: Path, folder: Path, number: int) -> Path:
    """A bundle that answers a little differently: its float constants are scaled by the number."""
    partial = folder / f".partial-{number}"
    shutil.copytree(made, partial)
    model = onnx.load(partial / "model.onnx")
    floats = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT]
    for one in floats:
        one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one) * np.float32(1 + number / 100), one.name))
    onnx.save(model, partial / "model.onnx")
    predictor = Predictor.open(partial, "cpu", 1)
    for path in (partial / "golden").glob("*.response.json"):
        case = json.loads(path.read_text())
        columns = {c.name: c.columns for c in bundle_cases(partial)}[path.name.removesuffix(".response.json")]
        outputs = predictor.predict(columns)
        for item in case["outputs"]:
            item["data"] = outputs[item["name"]].ravel().tolist()
        path.write_text(json.dumps(case))
    digests(partial)
    content = bundle.digest(bundle.hashes(partial))
    final = folder / f"{number}-{content[:12]}"
    provenance = json.loads((partial / "provenance.json").read_text()) | {"version": final.name, "digest": content}
    (partial / "provenance.json").write_text(json.dumps(provenance))
    bundle.write_manifest(partial)
    return partial.rename(final)


def bundle_cases(folder: Path) -> Any:
    """The golden cases, which have the old answers still."""
    from deploy import golden

    return golden.read(folder)


def digests(folder: Path) -> None:
    """The verdict and the bill of materials name the model by its hash."""
    old = json.loads((folder / "verdict.json").read_text())["model_sha256"]
    new = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    for path in folder.iterdir():
        if path.suffix in (".json", ".md", ".html"):
            path.write_text(path.read_text().replace(old, new))


def answer(folder: Path, request: dict[str, Any]) -> np.ndarray:
    """What a version must say."""
    from deploy.server.requests import infer
    from deploy.server.settings import Limits

    predictor = Predictor.open(folder, "cpu", 1)
    asked = infer(json.dumps(request).encode(), None, predictor.signature, Limits())
    return np.asarray(predictor.session.run([predictor.signature.outputs[0].name], asked.tensors)[0]).ravel()


def point(folder: Path, version: Path, revision: int) -> None:
    """Move the stage's pointer."""
    digest = hashlib.sha256((version / bundle.MANIFEST).read_bytes()).hexdigest()
    path = folder / "stages" / "prod.json"
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"version": version.name, "digest": digest, "revision": revision}))
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
