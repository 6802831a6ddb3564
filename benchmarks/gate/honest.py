"""How often the gate accepts honest int8 files: real rows, small networks, our own compression, every default check.

Run it from the project's root: `python benchmarks/gate/honest.py` (README.md beside it says what it shows). It goes on
where it stopped: each model that was judged is a line of ``honest.jsonl`` in the work folder, and is not made again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deploy.predictor import Predictor
from tasks.core import files
from tasks.core.errors import AssayError, IntegrityError, MachineError, NotProven
from tasks.core.scoring import Exported
from tasks.core.settings import load, parse
from tasks.core.stage import run_stage

ROOT = Path(__file__).resolve().parents[2]
_ROWS, _IMAGES, _USERS = 24_000, 12_000, 1500
_FASHION = Path("/usr/share/datasets/fashion-mnist")
_TABLES = ("int8", "int8_percentile", "int8_entropy", "int8_dynamic", "int8_weights")
_SUITE = "checks:\n  - expect: expect_table_row_count_to_be_between\n    min_value: 1\n"
_TUNE = {"trials": 1, "top_k": 1, "epochs": 2, "batch_size": 256, "precision": "fp32"}
_NETWORK = {"hidden": 64, "layers": 2}


@dataclass(frozen=True)
class Workload:
    """Rows, and the part of the params that is about them.

    Attributes:
        rows: writes the source into a folder; gives its name there.
        params: sections of the params file.
        methods: of `compress`, a model each.
    """

    rows: Callable[[Path], str]
    params: dict[str, dict[str, Any]]
    methods: tuple[str, ...]


def snapshot(example: Path, folder: Path) -> pa.Table:
    """All rows of a packaged example, as `ingest` reads them."""
    settings = load(example)
    run_stage("ingest", settings.model_copy(update={"ingest": _absolute(settings.ingest, example.parent)}), folder)
    return pq.read_table(folder / settings.base.artifacts_dir / "ingest" / "rows.parquet")


def _absolute(ingest: Any, folder: Path) -> Any:
    return ingest.model_copy(update={"source": str(folder / ingest.source)})


def flights(folder: Path) -> str:
    """Some flights of the packaged example, those whose answers are known."""
    table = snapshot(ROOT / "params.yaml", folder / "example")
    known = table.filter(pc.and_(pc.is_valid(table["late"]), pc.is_valid(table["temp"])))
    chosen = np.random.default_rng(0).choice(known.num_rows, _ROWS, replace=False)
    pq.write_table(known.take(np.sort(chosen)), folder / "rows.parquet")
    return "rows.parquet"


def fashion(folder: Path) -> str:
    """Some of the training pictures, from Debian's package."""
    with gzip.open(_FASHION / "train-images-idx3-ubyte.gz") as images:
        pixels = np.frombuffer(images.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(_FASHION / "train-labels-idx1-ubyte.gz") as labels:
        classes = np.frombuffer(labels.read(), np.uint8, offset=8).astype(np.int64)
    np.savez(folder / "rows.npz", x=pixels[:_IMAGES], y=classes[:_IMAGES])
    return "rows.npz"


def retail(folder: Path) -> str:
    """All purchases of some of the customers who bought most kinds of things."""
    table = snapshot(ROOT / "examples" / "retail" / "params.yaml", folder / "example")
    counts = (
        table.group_by("customer")
        .aggregate([("item", "count_distinct")])
        .sort_by([("item_count_distinct", "descending")])
    )
    kept = table.filter(pc.is_in(table["customer"], counts["customer"].slice(0, _USERS)))
    pq.write_table(kept, folder / "rows.parquet")
    return "rows.parquet"


WORKLOADS = {
    "flights late (AUC)": Workload(
        flights,
        {
            "base": {"target": "late"},
            "tune": {"space": _NETWORK, "features": {"categorical": ["flight"]}},
            "verify": {"margin": 0.005, "slices": ["origin", "distance"]},
        },
        _TABLES,
    ),
    "temperature (RMSE)": Workload(
        flights,
        {
            "base": {"target": "temp", "task": "regression"},
            "tune": {"space": _NETWORK, "features": {"drop": ["late"]}},
            "verify": {"slices": ["origin"]},
        },
        _TABLES,
    ),
    "fashion (accuracy)": Workload(
        fashion,
        {
            "base": {"target": "y", "workload": "array", "task": "multiclass"},
            "tune": {"space": {"width": 8, "stages": 2, "blocks": 1, "learning_rate": 0.005}},
            "verify": {"margin": 0.01},
        },
        ("int8", "int8_percentile", "int8_entropy", "int8_s8s8", "int8_smooth"),
    ),
    "retail (NDCG@10)": Workload(
        retail,
        {
            "base": {
                "target": "item", "workload": "recommender", "user": "customer", "time": "time",
                "task": "ranking", "metric": "ndcg@10",
            },
            "validate": {"split": {"by": "leave_last"}, "min_interactions": 5},
            "tune": {"space": {"dim": 64}},
            "verify": {"margin": 0.005},
        },
        ("int8", "int8_weights", "int8_dynamic"),
    ),
}  # fmt: skip


def params(workload: Workload, source: str, seed: int, method: str) -> dict[str, Any]:
    """A whole params file; the race decides nothing, so that the file of the method is the one that is judged."""
    margin = workload.params["verify"].get("margin", "1%")
    raw: dict[str, dict[str, Any]] = {
        "base": {"name": "honest", "seed": seed, "threads": 1, "device": "cpu"},
        "ingest": {"source": source},
        "validate": {"suite": "suite.yaml", "split": {"by": "random", "test": 0.3}},
        "tune": dict(_TUNE),
        "compress": {
            "methods": [method], "max_metric_drop": margin, "max_slowdown": 1000.0, "pick": "smallest", "rounds": 20,
            "batch_sizes": [1, 64],
        },
        "verify": {},
    }  # fmt: skip
    return {name: values | workload.params.get(name, {}) for name, values in raw.items()}


def judged(
    name: str, workload: Workload, folder: Path, source: str, seed: int, done: set[str]
) -> Iterator[dict[str, Any]]:
    """One original, and what the gate says of each int8 file of it."""
    missing = [method for method in workload.methods if f"{name} {seed} {method}" not in done]
    root = folder / f"seed-{seed}"
    for method in missing:
        settings = parse(params(workload, str(folder / source), seed, method))
        if not (root / "artifacts" / "tune" / "manifest.json").is_file():
            shutil.rmtree(root, ignore_errors=True)  # what a kill left
            root.mkdir()
            (root / "suite.yaml").write_text(_SUITE)
            for stage in ("ingest", "validate", "tune"):
                run_stage(stage, settings, root)
        run_stage("compress", settings, root)
        chosen = files.read_json(root / "artifacts" / "compress" / "manifest.json")["facts"]["chosen"]
        started, place = time.monotonic(), root / "artifacts" / "verify"
        try:
            run_stage("verify", settings, root)
        except NotProven:
            place = root / "artifacts" / "rejected" / "verify"
        told = files.read_json(place / "verdict.json")
        against = [
            {"kind": line["kind"], "verdict": line["verdict"], "reason": line["reason"], "note": line["note"]}
            for line in told["checks"]
            if line["verdict"] != "ACCEPT"
        ]
        yield {
            "key": f"{name} {seed} {method}", "workload": name, "method": method, "chosen": chosen,
            "verdict": told["verdict"], "against": against, "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
    shutil.rmtree(root, ignore_errors=True)


def in_one_process() -> None:
    """Let files be made and scored here: a process takes longer to start than these models take to answer.

    What the gate asks, and how it judges, is the same; only its answer in a second process is no other one.
    """
    from tasks.compress import contest, search, workshop
    from tasks.verify import case

    for module in (contest, search, workshop):
        module.call = _call  # type: ignore[attr-defined]
    case.score = _score  # type: ignore[attr-defined]


def _call(function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:  # noqa: ARG001 (the contract's)
    from tasks.compress.isolated import Crashed

    try:
        return function(*arguments)
    except MachineError:
        raise
    except Exception as error:  # as the process would tell
        raise Crashed(f"{type(error).__name__}: {error}") from error


def _score(
    folder: Path, columns: Mapping[str, Any], device: str, batch: int | None = None, threads: int | None = None
) -> Exported:
    try:
        predictor = Predictor.open(folder, device, threads)
        answers = next(iter(predictor.predict(dict(columns), batch).values()))
    except MachineError:
        raise
    except AssayError as error:
        raise IntegrityError("a model must score rows", f"exit code {error.exit_code}: {error}", "none") from error
    except Exception as error:  # as the process would tell
        raise IntegrityError("a model must score rows", f"exit code 1: {error}", "none") from error
    return Exported(answers.astype(np.str_) if answers.dtype == object else answers, predictor.provider)


def table(found: list[dict[str, Any]]) -> str:
    """Accepted of judged, by workload, and what the others had."""
    rows = ["| workload | int8 models | accepted | not accepted, by the line that says so |", "|---|---|---|---|"]
    made = [one for one in found if one["chosen"] != "fp32"]
    for name in (*WORKLOADS, "all"):
        mine = [one for one in made if name in (one["workload"], "all")]
        against = Counter(
            f"{line['kind']}: {line['verdict']}"
            for one in mine
            for line in {each["kind"]: each for each in one["against"]}.values()
        )
        accepted = sum(one["verdict"] == "ACCEPT" for one in mine)
        said = ", ".join(f"{kind} ({count})" for kind, count in against.most_common()) or "-"
        rows.append(f"| {name} | {len(mine)} | {accepted} | {said} |")
    return "\n".join(rows)


def main() -> None:
    """Judge models in turn over all workloads until there are enough or time is up; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/honest"), help="folder for rows, runs and results")
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=40)
    options = parser.parse_args()
    in_one_process()
    results, end = options.work / "honest.jsonl", time.monotonic() + 60 * options.minutes
    options.work.mkdir(parents=True, exist_ok=True)
    found = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    sources = {}
    for index, (name, workload) in enumerate(WORKLOADS.items()):
        folder = (options.work / str(index)).resolve()
        if not (folder / "source").exists():
            folder.mkdir(exist_ok=True)
            (folder / "source").write_text(workload.rows(folder))
        sources[name] = (folder, (folder / "source").read_text())
    seed = 0
    while len(found) < options.models and time.monotonic() < end:
        for name, workload in WORKLOADS.items():
            done = {one["key"] for one in found}
            for one in judged(name, workload, *sources[name], seed, done):
                found.append(one)
                with results.open("a") as file:
                    file.write(json.dumps(one) + "\n")
                if len(found) >= options.models or time.monotonic() > end:
                    break
        seed += 1
    print(table(found))


if __name__ == "__main__":
    main()
