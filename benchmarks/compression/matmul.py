"""What int8 and int4 weights do for networks of matrix products: a transformer's encoder and a perceptron.

Run it from the project's root: `python benchmarks/compression/matmul.py --out build/matmul`.

A torch.nn.TransformerEncoder of 4 layers (width 256, 4 heads, 64 places) and 4 layers of 1024 x 1024, both with fresh
weights: sizes and times do not depend on training; the error does (a trained network has outliers), so it is a figure
to compare methods by, no promise. The error is the root mean square of the difference from fp32, as a share of the
root mean square of fp32's own answers about their mean, on rows that no method was calibrated with.

The methods are those of `tasks.compress.graph`, by name. One interleaved race for each network, one thread, warm.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from deploy.runtime import open_session
from tasks.compress.graph import find
from tasks.compress.race import race
from tasks.core import devices, files, record
from tasks.core.workloads.onnx_export import export_core, finish

_METHODS = ("int8_weights", "int4_weights", "int8_dynamic", "int8")
_INPUT, _OUTPUT = "values", "answers"
_CALIBRATION_ROWS, _TEST_ROWS = 64, 64
_SEED = 2017


class Answering(nn.Module):
    """A network as the exporter takes it: ``forward(*inputs)`` -> tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        return (self.network(*inputs),)


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Name -> network with fresh weights, and the shape of one row."""
    torch.manual_seed(_SEED)
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator, which no exporter knows
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
    transformer = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    # Torch copies one layer: its equal weights would be stored once, which no trained network shows.
    for matrix in (values for values in transformer.parameters() if values.ndim > 1):
        nn.init.xavier_uniform_(matrix)
    layers = [part for _ in range(4) for part in (nn.Linear(1024, 1024), nn.ReLU())]
    return {
        "transformer": (transformer, (64, 256)),
        "perceptron": (nn.Sequential(*layers[:-1]), (1024,)),
    }


def candidates(network: nn.Module, calibration: np.ndarray, out: Path) -> dict[str, Path]:
    """Write fp32 and what every method makes of it: name -> file."""
    core = export_core(Answering(network), (calibration[:3],), (_INPUT,), (_OUTPUT,), ())
    models = {"fp32": core} | {name: find(name)(core, {_INPUT: calibration}).model for name in _METHODS}
    paths = {}
    for name, model in models.items():
        paths[name] = out / f"{name}.onnx"
        onnx.save(finish(model, {"assay.candidate": name}), paths[name])
    return paths


def errors(paths: Mapping[str, Path], rows: np.ndarray) -> dict[str, float]:
    """Difference of each model's answers from fp32's, as a share of their spread."""
    found = {name: open_session(path, "cpu").run([_OUTPUT], {_INPUT: rows})[0] for name, path in paths.items()}
    reference = found["fp32"].astype(np.float64)
    return {
        name: float(np.sqrt(np.mean((answers - reference) ** 2)) / reference.std()) for name, answers in found.items()
    }


def main() -> None:
    """Print the table, write results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/matmul"))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--rounds", nargs="+", type=int, default=[300, 30], help="one for each batch size")
    options = parser.parse_args()
    columns = [f"faster at {batch}" for batch in options.batch_sizes]
    heads = ["network", "weights", "KiB", "smaller", "gzip KiB", "error", *columns]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    generator = np.random.default_rng(_SEED)
    results = {}
    for kind, (network, shape) in networks().items():
        folder = options.out / kind
        folder.mkdir(parents=True, exist_ok=True)
        calibration = generator.standard_normal((_CALIBRATION_ROWS, *shape), dtype=np.float32)
        test = generator.standard_normal((_TEST_ROWS, *shape), dtype=np.float32)
        paths = candidates(network, calibration, folder)
        lost = errors(paths, test)
        laps = {
            batch: race(paths, "fp32", {_INPUT: test}, (batch,), rounds, 1, "cpu").laps
            for batch, rounds in zip(options.batch_sizes, options.rounds, strict=True)
        }
        original, results[kind] = paths["fp32"].stat().st_size, {}
        for name, path in paths.items():
            size, packed = path.stat().st_size, len(gzip.compress(path.read_bytes(), 9, mtime=0))
            own = {batch: by_name[name][batch] for batch, by_name in laps.items()}
            ups = [(1 / lap.ratio, 1 / lap.ratio_high, 1 / lap.ratio_low) for lap in own.values()]
            speeds = [f"{middle:.2f}x ({low:.2f} to {high:.2f})" for middle, low, high in ups]
            cells = [kind, name, f"{size / 1024:.0f}", f"{original / size:.2f}x", f"{packed / 1024:.0f}"]
            print(f"| {' | '.join([*cells, f'{lost[name]:.4f}', *speeds])} |", flush=True)
            results[kind][name] = {"bytes": size, "gzip_bytes": packed, "error": lost[name]}
            results[kind][name]["laps"] = {str(batch): asdict(lap) for batch, lap in own.items()}
    facts = {"machine": record.hardware() | {"vnni": devices.has_vnni()}, "versions": record.versions()}
    files.write_json(options.out / "results.json", facts | {"networks": results})


if __name__ == "__main__":
    main()
