"""Pruning by hand, recovery, int8: `python benchmarks/compression/prune_by_hand.py INPUTS OUT --artifacts ARTIFACTS`.

What a practitioner would put together from the best single tools: Torch-Pruning removes channels (magnitude of groups,
ranked over all layers, rounded to 8), the pruned network learns again from the labels and from the original (Hinton et
al. 2015, "Distilling the Knowledge in a Neural Network"; with the original's augmentation), and ONNX Runtime quantizes
it as ort_best.py does. For the networks of this project's `array` workload.

The pruned network before quantization is left beside it, as prune_float.onnx.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import ort_best
import peer
import pyarrow.parquet as pq
import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional

from tasks.core import original
from tasks.core.training import Recipe, train
from tasks.core.workloads.array import WORKLOAD
from tasks.core.workloads.array.augment import augmented
from tasks.core.workloads.onnx_export import WithHead, export_core, finish

_ROUND_TO = 8
_BATCH = 128
_LEARNING_RATE, _WEIGHT_DECAY = 3e-3, 0.05
_TEMPERATURE, _SHARE_OF_TEACHER = 4.0, 0.9
_SEED = 2017


def compress(given: peer.Given) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The pruned, recovered and quantized model, and its sizes."""
    options = given.options
    torch.set_num_threads(options.threads)
    trained = original.load(options.artifacts / "tune")
    assert isinstance(trained, original.Network)
    rows = pq.read_table(options.artifacts / "validate" / "train.parquet")
    images, labels = WORKLOAD.examples(trained.encoder, rows.slice(0, options.rows))
    before = _sizes(trained.network, images[:1])
    network = copy.deepcopy(trained.network)
    _prune(network, images[:1], options.ratio)
    after = _sizes(network, images[:1])
    recovered = _recover(network, trained, (images, labels), options.epochs)

    model = WithHead(recovered, trained.head)
    encoder = trained.encoder
    core = export_core(model, (images[:3].numpy(),), encoder.input_names, encoder.core_outputs, ())
    pruned = options.out / "prune_float.onnx"
    onnx.save(finish(encoder.wrap(core), {"assay.candidate": "prune_float"}), pruned)
    quantized, quantization = ort_best.quantize(replace(given, model=pruned))
    sizes = {"macs": before[0], "parameters": before[1], "pruned_macs": after[0], "pruned_parameters": after[1]}
    recipe = {"ratio": options.ratio, "epochs": options.epochs, "pruned_validation": given.score(pruned)}
    return quantized, sizes | recipe | {"quantization": quantization}


def _prune(network: nn.Module, example: Tensor, ratio: float) -> None:
    """Remove that share of the channels, in place; the classes stay."""
    pruner = torch_pruning.pruner.BasePruner(
        network.train(),
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=ratio,
        round_to=_ROUND_TO,
        ignored_layers=[network.linear],
    )
    pruner.step()


def _sizes(network: nn.Module, example: Tensor) -> tuple[int, int]:
    """Multiply-adds of one row, and parameters."""
    macs, parameters = torch_pruning.utils.count_ops_and_params(copy.deepcopy(network).eval(), example)
    return int(macs), int(parameters)


def _recover(network: nn.Module, trained: original.Network, examples: tuple[Tensor, ...], epochs: int) -> nn.Module:
    """Train the pruned network with labels and the original's answers."""
    teacher, column = trained.network.eval(), trained.encoder.inputs[0]
    mean = torch.tensor(column.mean)

    def loss(student: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        images, labels = batch
        images = augmented(images, column.layout, mean, "flip")
        with torch.no_grad():
            wanted = functional.softmax(teacher(images) / _TEMPERATURE, dim=1)
        logits = student(images)
        soft = functional.kl_div(functional.log_softmax(logits / _TEMPERATURE, dim=1), wanted, reduction="batchmean")
        hard = functional.cross_entropy(logits, labels)
        return _SHARE_OF_TEACHER * _TEMPERATURE**2 * soft + (1 - _SHARE_OF_TEACHER) * hard

    recipe = Recipe(_LEARNING_RATE, _WEIGHT_DECAY, epochs, _BATCH, None)
    done = train(network, recipe, examples, loss, lambda _: 0.0, _SEED, lambda epoch, _: print(f"epoch {epoch}"))
    network.load_state_dict(done.state)
    return network.eval()


def main() -> None:
    """Read the script's own arguments, and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--artifacts", type=Path, default=Path("benchmarks/compression/artifacts"))
    parser.add_argument("--ratio", type=float, default=0.6, help="share of the channels to remove")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, help="training rows, at most")
    peer.run("prune_by_hand", __doc__, compress, parser)


if __name__ == "__main__":
    main()
