"""Predicts from raw rows with a bundle: checks its hashes, picks the provider, converts the columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploy import bundle
from deploy.errors import IntegrityError, MachineError, UsageError
from deploy.runtime import open_session, provider
from deploy.signature import Signature
from deploy.variants import NAME, Variant, Variants

if TYPE_CHECKING:
    import onnxruntime

_MOST_ROWS, _MOST_BYTES = 4096, 32 << 20


class Predictor:
    """A loaded model.

    Attributes:
        session: of onnxruntime.
        signature: what it takes and gives.
        provider: what it really runs on.
        folder: where its ``model.onnx`` lies, the bundle or a variant in it; None if it was not loaded from there.
        target: whose variant it is; None if it comes from no bundle for several targets.
    """

    def __init__(self, session: onnxruntime.InferenceSession, signature: Signature, folder: Path | None = None) -> None:
        self.session = session
        self.signature = signature
        self.folder = folder
        self.target: str | None = None
        self.provider = provider(session)

    @staticmethod
    def load(folder: Path, device: str = "auto", threads: int | None = None, target: str | None = None) -> Predictor:
        """Load a bundle after checking every file of it.

        Args:
            folder: the bundle.
            device: see :func:`deploy.runtime.open_session`; ``auto`` is the variant's own, if the bundle has several.
            threads: inside an operator; None takes the variant's own, or leaves the choice to onnxruntime.
            target: whose variant to take out of a bundle for several; None chooses by its rule (``variants.json``).

        Raises:
            UsageError: if ``folder`` is no bundle, or has no variant for the target.
            IntegrityError: if any file is not what the bundle's manifest says.
            MachineError: if ``cuda`` was asked for and is not used.
        """
        bundle.check(folder)
        if (folder / NAME).is_file():
            return _serving(folder, device, threads, target)
        if target is not None:
            found = f"{folder} holds one model, and was asked for target {target}"
            raise UsageError("a target is chosen in a bundle that was made for several", found, "leave the target out")
        return Predictor.open(folder, device, threads)

    @staticmethod
    def open(folder: Path, device: str = "auto", threads: int | None = None) -> Predictor:
        """Load the ``model.onnx`` and ``signature.json`` of a folder that is no bundle yet, without checking hashes.

        Raises:
            IntegrityError: if one of them does not load, or they name different inputs or outputs.
        """
        signature = Signature.read(folder / "signature.json")
        session = open_session(folder / "model.onnx", device, threads)
        described = ({tensor.name for tensor in signature.inputs}, {tensor.name for tensor in signature.outputs})
        real = ({value.name for value in session.get_inputs()}, {value.name for value in session.get_outputs()})
        if described != real:
            differ = sorted((described[0] ^ real[0]) | (described[1] ^ real[1]))
            raise IntegrityError(
                "signature.json must describe the model beside it",
                f"{folder}: they differ in {', '.join(differ)}",
                "fetch or build the bundle anew",
            )
        return Predictor(session, signature, folder)

    def predict(self, columns: Mapping[str, np.ndarray], batch: int | None = None) -> dict[str, np.ndarray]:
        """Answer raw rows.

        Args:
            columns: name -> array [rows, ...]; see :meth:`deploy.signature.Signature.tensors`.
            batch: rows given to the model at once, which bounds the memory and does not change the answer; by default
                at most 4,096, and fewer if they hold more than 32 MiB.

        Returns:
            Output name -> array [rows, ...] (``probability``: float32 [rows, 1]).

        Raises:
            DataRejected: if the columns do not fit the signature.
        """
        tensors = self.signature.tensors(columns)
        rows = len(next(iter(tensors.values())))
        size = batch or max(1, min(_MOST_ROWS, _MOST_BYTES * rows // max(1, sum(a.nbytes for a in tensors.values()))))
        names = [tensor.name for tensor in self.signature.outputs]
        # Some kernels of onnxruntime divide by the number of rows, and end the process when it is zero.
        parts = [
            self.session.run(names, {name: array[start : start + size] for name, array in tensors.items()})
            for start in range(0, rows, size)
        ] or [self.signature.empty_outputs()]
        return {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*parts, strict=True), strict=True)}


def _serving(folder: Path, device: str, threads: int | None, target: str | None) -> Predictor:
    """What the bundle's rule chooses; unless it was named, one whose device does not load is passed over."""
    variants = Variants.read(folder)
    for one in variants.suited(device, target):
        try:
            return _opened(folder, one, one.device if device == "auto" else device, threads)
        except (MachineError, IntegrityError):  # its hash holds: what does not load lacks its device here
            if device != "auto" or target is not None:
                raise
    return _opened(folder, variants.first, device, threads)


def _opened(folder: Path, one: Variant, device: str, threads: int | None) -> Predictor:
    found = Predictor.open(folder / one.folder, device, threads or one.threads)
    found.target = one.target
    return found
