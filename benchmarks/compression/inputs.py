"""What every contestant is given: the original as fp32.onnx, and calibration, validation and test rows.

Run it after the stages `validate` and `tune`, from the project's root:
`python benchmarks/compression/inputs.py --artifacts benchmarks/compression/artifacts --out build/compression`.

It writes fp32.onnx (the original with its preprocessing, as `compress` writes it), calibration.npz, validation.npz,
test.npz and task.json (the task and the metric that decides).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
import pyarrow.parquet as pq
from rows import Rows

from tasks.core import files, manifest, original, workloads
from tasks.core.workloads.onnx_export import finish

SPLITS = ("calibration", "validation", "test")


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, default=Path("benchmarks/compression/artifacts"))
    parser.add_argument("--out", type=Path, default=Path("build/compression"))
    parser.add_argument("--metric", help="name of the metric that decides; by default the workload's own")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    validated, tuned = options.artifacts / "validate", options.artifacts / "tune"
    model = original.load(tuned)
    encoder = model.encoder
    tables = {name: pq.read_table(validated / f"{name}.parquet") for name in SPLITS}
    core = model.core(tables["calibration"])
    signature = original.signature(encoder, core)
    onnx.save(finish(encoder.wrap(core), {"assay.candidate": "fp32"}), options.out / "fp32.onnx")
    for name, table in tables.items():
        Rows(signature.tensors(encoder.raw_inputs(table)), encoder.labels(table)).write(options.out / f"{name}.npz")
    task = manifest.read(validated).facts["task"]
    spec = files.read_json(tuned / original.SPEC)
    metric = options.metric or workloads.find(spec["workload"]).default_metric(task)
    files.write_json(options.out / "task.json", {"task": task, "metric": metric})
    sizes = ", ".join(f"{table.num_rows} of {name}" for name, table in tables.items())
    print(f"{options.out}: fp32.onnx with {(options.out / 'fp32.onnx').stat().st_size / 1024:.0f} KiB; rows: {sizes}")


if __name__ == "__main__":
    main()
