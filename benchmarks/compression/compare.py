"""All contestants against fp32.onnx: speed in one interleaved race, size, quality on test, and what is proven of it.

Put the files side by side and run it from the project's root, in the project's own environment:
`python benchmarks/compression/compare.py FOLDER INPUTS` (INPUTS as inputs.py filled it: fp32.onnx, test.npz, task.json;
the metric and the task can also be given as arguments).

Speed: every model once a round in an order drawn anew, one thread, warm (each has just answered once when it is timed);
medians, and the median of the ratios round by round with its 95 % interval. "Cold" is the same right after another
model's call: then it depends on how many and how large the others are.

Quality: the test of the stage `verify` itself (Tango's interval of paired proportions, or a paired bootstrap) and the
judge on top of it; "proven" means that the one-sided 95 % bound of the drop lies within the margin. Discordant rows are
those on which the two models' own values of the metric differ (right and wrong, hit and miss); a metric that has no
value on one row (AUC) has none. It prints a Markdown table and writes results.json into FOLDER.
"""

from __future__ import annotations

import argparse
import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
from rows import Rows

from deploy.runtime import open_session
from tasks.compress.race import Lap, race
from tasks.core import devices, files, record, statistics
from tasks.core.margins import absolute
from tasks.core.measured import proof
from tasks.core.metrics import Metric, find
from tasks.core.statistics import Comparison
from tasks.core.verdict import Terms, judge

REFERENCE = "fp32"
_CONFIDENCE = 0.95
_RESAMPLES = 2000
_SEED = 2017
_BATCH = 256


def answers(path: Path, rows: Rows) -> np.ndarray:
    """The first output for all rows, [rows, ...], as the labels' type where both are texts or whole numbers."""
    session = open_session(path, "cpu")
    first = [session.get_outputs()[0].name]
    found = np.concatenate([session.run(first, batch)[0] for batch in rows.batches(_BATCH)])
    return found if found.dtype.kind == "f" else found.astype(rows.labels.dtype)


def discordant(metric: Metric, labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> float | None:
    """Share of rows on which the metric says different things of two models' answers; None if it has no value there."""
    if math.isnan(metric(labels[:1], first[:1])):
        return None
    rows = range(len(labels))
    each = [[metric(labels[i : i + 1], given[i : i + 1]) for i in rows] for given in (first, second)]
    return float(np.mean(np.not_equal(*each)))


def quality(metric: Metric, labels: np.ndarray, first: np.ndarray, second: np.ndarray, margins: list[str]) -> Any:
    """The paired test of the second model against the first: figures, and the judge's verdict for each margin."""
    found = statistics.paired(metric, labels, first, second, None, _CONFIDENCE, _RESAMPLES, _SEED)
    return {
        "metric": found.shipped,
        "interval": found.shipped_interval,
        "drop": found.drop,
        "drop_bound": found.upper,
        "discordant": discordant(metric, labels, first, second),
        "rows": found.n,
        "verdicts": {margin: _verdict(found, metric, margin) for margin in margins},
    }


def _verdict(found: Comparison, metric: Metric, margin: str) -> dict[str, Any]:
    within = absolute(margin if margin.endswith("%") else float(margin), metric, found.original)
    # A pruned model that learnt from a teacher may honestly be better than it: no gain is implausible here.
    terms = Terms(_CONFIDENCE, abs(found.original) + 1, found.rarest, metric.bounded)
    judgement = judge([proof(metric.name, found, within)], terms)
    return {"margin": within, "verdict": judgement.verdict, "reason": judgement.reason}


def size(path: Path) -> dict[str, int]:
    """Bytes of the file, and of the file with gzip."""
    content = path.read_bytes()
    return {"bytes": len(content), "gzip_bytes": len(gzip.compress(content, 9, mtime=0))}


def speed(models: dict[str, Path], rows: Rows, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Laps by model and batch size, each with the speed-up over the reference and its interval."""
    result: dict[str, dict[str, Any]] = {name: {} for name in models}
    for batch, rounds in zip(options.batch_sizes, options.rounds, strict=True):
        first = rows.first(batch).inputs
        warm, cold = (
            race(models, REFERENCE, first, (batch,), rounds, options.threads, "cpu", cold).laps
            for cold in (False, True)
        )
        for name in models:
            of_cold = {"cold_speedup": 1 / cold[name][batch].ratio}
            result[name][str(batch)] = _speed(warm[name][batch]) | of_cold | {"rounds": rounds}
    return result


def _speed(lap: Lap) -> dict[str, float]:
    ups = {"speedup": 1 / lap.ratio, "speedup_low": 1 / lap.ratio_high, "speedup_high": 1 / lap.ratio_low}
    return {"p50_ms": lap.p50_ms, "p99_ms": lap.p99_ms, **ups}


def table(results: dict[str, dict[str, Any]], metric: Metric, batches: list[int], margins: list[str]) -> str:
    """The results as Markdown, the fastest at the first batch size last."""
    unit, scale = ("points", 100) if metric.bounded else ("drop", 1)
    proven = [f"proven within {margin}" for margin in margins]
    heads = ["model", metric.name, f"drop, {unit} (95 % bound)", "discordant", *proven, "KiB", "smaller", "gzip KiB"]
    for batch in batches:
        heads += [f"ms at {batch}", f"faster at {batch}", "cold"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    original = results[REFERENCE]
    for name, found in sorted(results.items(), key=lambda item: item[1]["speed"][str(batches[0])]["speedup"]):
        own = found["quality"]
        share = "none" if own["discordant"] is None else f"{own['discordant']:.2%}"
        cells = [name, f"{own['metric']:.4f}", f"{scale * own['drop']:.2f} ({scale * own['drop_bound']:.2f})", share]
        cells += ["yes" if own["verdicts"][margin]["verdict"] == "ACCEPT" else "no" for margin in margins]
        kib = found["bytes"] / 1024, found["gzip_bytes"] / 1024
        cells += [f"{kib[0]:.1f}", f"{original['bytes'] / found['bytes']:.1f}x", f"{kib[1]:.1f}"]
        for batch in batches:
            lap = found["speed"][str(batch)]
            cells.append(f"{lap['p50_ms']:.3f}")
            cells.append(f"{lap['speedup']:.2f}x ({lap['speedup_low']:.2f} to {lap['speedup_high']:.2f})")
            cells.append(f"{lap['cold_speedup']:.2f}x")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with the contestants' .onnx files")
    parser.add_argument("inputs", type=Path, help="with fp32.onnx, test.npz, task.json")
    parser.add_argument("--metric", help="accuracy, auc, hr@10, ...; by default that of task.json")
    parser.add_argument("--task", help="binary, multiclass, regression or ranking; by default that of task.json")
    parser.add_argument("--margins", nargs="+", default=["0.01", "0.005"], help="of the metric, or a share such as 2%%")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--rounds", nargs="+", type=int, default=[300, 100], help="one for each batch size")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Measure, print the table, write results.json."""
    options = _arguments()
    spec = files.read_json(options.inputs / "task.json")
    metric = find(options.metric or spec["metric"], options.task or spec["task"])
    others = {path.stem: path for path in sorted(options.folder.glob("*.onnx"))}
    models = {REFERENCE: options.inputs / "fp32.onnx"} | {n: path for n, path in others.items() if n != REFERENCE}
    test = Rows.read(options.inputs / "test.npz")
    given = {name: answers(path, test) for name, path in models.items()}
    laps = speed(models, test, options)
    results = {
        name: size(path)
        | {"speed": laps[name]}
        | {"quality": quality(metric, test.labels, given[REFERENCE], given[name], options.margins)}
        for name, path in models.items()
    }
    print(table(results, metric, options.batch_sizes, options.margins))
    machine = record.hardware() | {"vnni": devices.has_vnni(), "threads": options.threads}
    facts = {"metric": metric.name, "machine": machine, "versions": record.versions(), "models": results}
    files.write_json(options.folder / "results.json", facts)


if __name__ == "__main__":
    main()
