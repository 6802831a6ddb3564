"""Load on loopback: Assay's server beside MLServer, KServe's SDK, LitServe and BentoML, and the raw session.

    python benchmarks/serving/load.py BUNDLE... [--peers FOLDER] [--server-core 0 --client-core 1] [--seconds 5]

All serve the same file with one worker and one thread; a request is one row of the bundle's golden request, as JSON.
The servers are up together and take turns in each round, so that they share the machine's moods; figures are medians
over the rounds. ``--peers`` is the folder that ``peers.sh`` filled. JSON goes to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import client
import numpy as np
from served import assay, one_row, process

from deploy.predictor import Predictor
from deploy.server.requests import infer
from deploy.server.settings import Limits

HERE = Path(__file__).resolve().parent
FIRST_PORT = 18080
ROUTES = {
    "mlserver": "/v2/models/m/infer", "kserve": "/v2/models/m/infer", "litserve": "/predict", "bentoml": "/infer",
}  # fmt: skip
ALIVE = {"mlserver": "/v2/models/m/ready", "kserve": "/v2/models/m/ready", "litserve": "/health", "bentoml": "/readyz"}


def command(peer: str, python: Path, port: int, scratch: Path) -> list[str]:
    """How a peer is started."""
    if peer == "mlserver":
        settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": port + 100, "metrics_port": port + 200,
                    "parallel_workers": 0, "debug": False, "metrics_endpoint": None}  # fmt: skip
        (scratch / "settings.json").write_text(json.dumps(settings))
        (scratch / "model-settings.json").write_text('{"name": "m", "implementation": "mlserver_server.Runtime"}')
        quiet = {"version": 1, "disable_existing_loggers": True, "root": {"level": "ERROR"}}
        (scratch / "logging.json").write_text(json.dumps(quiet))
        return [str(python.with_name("mlserver")), "start", str(scratch)]
    if peer == "bentoml":
        return [str(python.with_name("bentoml")), "serve", "bentoml_server:Model", "--host", "127.0.0.1", "--port",
                str(port), "--working-dir", str(HERE / "peer")]  # fmt: skip
    return [str(python), str(HERE / "peer" / f"{peer}_server.py")]


def raw(bundle: Path, body: bytes, seconds: float) -> dict[str, float]:
    """The session alone, in this process: the limit."""
    predictor = Predictor.open(bundle, "cpu", 1)
    request = infer(body, None, predictor.signature, Limits())
    names, took = list(request.outputs), []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        predictor.session.run(names, request.tensors)
        took.append(time.perf_counter() - started)
    p50, p99 = np.percentile(took, [50, 99]) * 1e3
    return {"p50_ms": round(float(p50), 4), "p99_ms": round(float(p99), 4), "per_second": round(len(took) / seconds, 1)}


def measure(bundle: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Rounds over all servers for one bundle."""
    request = one_row(bundle)
    body = json.dumps(request).encode()
    scratch = Path(tempfile.mkdtemp(prefix="serving-"))
    urls: dict[str, str] = {}
    with ExitStack() as stack:
        port = FIRST_PORT
        stack.enter_context(assay(bundle, port, options.server_core, scratch / "assay.log", "--max-concurrency", "256"))
        urls["assay"] = f"http://127.0.0.1:{port}/v2/models/{bundle.parent.name}/infer"
        for peer in ROUTES if options.peers else ():
            port += 1
            python = options.peers.resolve() / peer / "bin" / "python"
            env = {"MODEL": str(bundle.resolve() / "model.onnx"), "PORT": str(port), "PYTHONPATH": str(HERE / "peer"),
                   "BENTOML_DO_NOT_TRACK": "true", "DO_NOT_TRACK": "1", "MLSERVER_LOGGING_SETTINGS": str(scratch / "logging.json"),
                   "PATH": f"{python.parent}:{os.environ['PATH']}"}  # fmt: skip
            made = process(command(peer, python, port, scratch), f"http://127.0.0.1:{port}{ALIVE[peer]}",
                           options.server_core, scratch / f"{peer}.log", env)  # fmt: skip
            stack.enter_context(made)
            urls[peer] = f"http://127.0.0.1:{port}{ROUTES[peer]}"
        rounds: dict[str, list[dict[str, float]]] = {}
        for name, url in urls.items():
            warm = client.run(url, client.request(url, body), 4, most=200)
            if warm.failed:
                raise RuntimeError(f"{name} failed {warm.failed} of 200 requests; its log is in {scratch}")
        for _ in range(options.rounds):
            for concurrency in options.concurrency:
                for name, url in urls.items():
                    outcome = client.run(url, client.request(url, body), concurrency, options.seconds)
                    rounds.setdefault(f"{name} {concurrency}", []).append(outcome.summary())
            rounds.setdefault("raw 1", []).append(raw(bundle, body, options.seconds))
    middle: Callable[[str, str], float] = lambda run, key: statistics.median(one[key] for one in rounds[run])  # noqa: E731
    table = {run: {key: middle(run, key) for key in lines[0]} for run, lines in rounds.items()}
    return {"bundle": bundle.parent.name, "body_bytes": len(body), "rounds": options.rounds, "runs": table}


def main() -> None:
    """Print a table for each bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.client_core})
    found = []
    for bundle in options.bundles:
        found.append(measure(bundle, options))
        print(f"{found[-1]['bundle']}: a request of {found[-1]['body_bytes']} bytes")
        for run, line in found[-1]["runs"].items():
            print(f"  {run:12}" + "".join(f"  {key} {value:>10g}" for key, value in line.items()))
        if options.out:
            options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
