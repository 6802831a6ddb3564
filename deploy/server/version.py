"""One version of a model: checked, loaded, tested on its golden cases, then answering."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from deploy import bins, bundle, golden
from deploy.errors import IntegrityError
from deploy.predictor import Predictor
from deploy.server import requests, responses
from deploy.server.refusal import Refusal, bad_request
from deploy.server.requests import Request
from deploy.server.settings import Limits, Serving

if TYPE_CHECKING:
    import onnxruntime

#: Longest time that an answer may be computed between two other requests, in seconds; a longer one gets a thread.
_INLINE_SECONDS = 0.002
_DEVICES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}
_NO_LIMITS = Limits(rows=1 << 30)


class Version:
    """A loaded bundle. What it says about itself never changes, so that one request is answered by one version.

    Attributes:
        name: its folder's name.
        digest: SHA-256 of its manifest, in hexadecimal.
        signature: what it takes and gives.
        provider: of onnxruntime, what it really runs on.
        target: whose variant serves, of a bundle for several targets; else None.
        folder: where it was loaded from.
        drift: name of an input or output -> its spreads in the bundle's reference; empty if the bundle has none.
        inline_bytes: longest body that is answered without a thread of its own.
    """

    def __init__(self, model: str, folder: Path, digest: str, predictor: Predictor) -> None:
        self.name, self.folder, self.digest = folder.name, folder, digest
        self.signature, self.provider, self.target = predictor.signature, predictor.provider, predictor.target
        self.drift: bins.Reference = {}
        self.inline_bytes = 0
        self._session = predictor.session
        self._device = _DEVICES.get(self.provider)
        self._outputs = {tensor.name: tensor.datatype for tensor in self.signature.outputs}
        self._any_length = any(-1 in tensor.shape[1:] for tensor in self.signature.inputs)
        self._head = {"model_name": model, "model_version": self.name}

    @staticmethod
    def load(folder: Path, serving: Serving) -> Version:
        """Check a bundle, load it, and have it answer its golden cases.

        Raises:
            UsageError: if it is no bundle.
            IntegrityError: if its signature, a file of it, or an answer is not what it must be.
            MachineError: if a device was asked for and is not used.
        """
        bundle.verify(folder, serving.key)
        predictor = Predictor.load(folder, serving.device, serving.threads, serving.target)
        version = Version(serving.name, folder, bundle.manifest_digest(folder), predictor)
        version.drift = bins.read(folder, version.signature)
        version.prove(golden.read(predictor.folder or folder))
        return version

    def prove(self, cases: Sequence[golden.Case]) -> None:
        """Answer the golden cases the way that requests are answered, and learn how long that takes.

        Raises:
            IntegrityError: naming every answer that is wrong.
        """
        problems: list[str] = []
        for case in cases:
            body = orjson.dumps(case.request)
            try:
                asked = requests.infer(body, None, self.signature, _NO_LIMITS)
                problems += case.differences(self.run(asked), self.provider)
                seconds = min(self._seconds(body) for _ in range(3))  # the machine may be busy with something else
            except Exception as error:  # noqa: BLE001 (onnxruntime has a dozen types; all mean that it does not answer)
                said = error.found if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
                problems.append(f"golden case {case.name}: {said}")
            else:
                self.inline_bytes = max(self.inline_bytes, int(len(body) * _INLINE_SECONDS / seconds))
        if problems:
            rule = "a version answers its golden cases before it serves"
            raise IntegrityError(rule, f"{self.folder}: {'; '.join(problems)}", "export the bundle again")

    def _seconds(self, body: bytes) -> float:
        started = time.perf_counter()
        self.infer(body, None, _NO_LIMITS)
        return time.perf_counter() - started

    def infer(
        self, body: bytes, json_length: int | None, limits: Limits, options: onnxruntime.RunOptions | None = None
    ) -> Answer:
        """Answer a request of the protocol; for the arguments and refusals see :func:`deploy.server.requests.infer`."""
        request = requests.infer(body, json_length, self.signature, limits)
        outputs = self.run(request, options)
        return Answer(*responses.infer(request, outputs, self._outputs, self._head), request, outputs)

    def columns(
        self, body: bytes, _json_length: int | None, limits: Limits, options: onnxruntime.RunOptions | None = None
    ) -> Answer:
        """Answer columns by name, which are JSON throughout."""
        request = requests.columns(body, self.signature, limits)
        outputs = self.run(request, options)
        return Answer(*responses.columns(request, outputs, self._head), request, outputs)

    def run(self, request: Request, options: onnxruntime.RunOptions | None = None) -> dict[str, np.ndarray]:
        """The wanted outputs, name -> array [rows, ...]. ``options.terminate`` set by another thread ends it."""
        names = list(request.outputs)
        if request.rows == 0:  # some kernels of onnxruntime divide by the number of rows, and end the process
            empty = dict(zip(self._outputs, self.signature.empty_outputs(), strict=True))
            return {name: empty[name] for name in names}
        try:
            if self._device is None:
                answers = self._session.run(names, request.tensors, options)
            else:
                answers = run_bound(self._session, names, request.tensors, self._device, options)
        except Exception as error:
            if self._any_length and type(error).__module__.startswith("onnxruntime"):
                shapes = {name: array.shape for name, array in request.tensors.items()}
                raise bad_request("axes of any length must fit the graph, too", f"{shapes}: {error}") from error
            raise
        return dict(zip(names, answers, strict=True))


class Answer:
    """A response's body and headers, and what it was computed from."""

    __slots__ = ("body", "headers", "outputs", "request")

    def __init__(
        self, body: bytes, headers: responses.Headers, request: Request, outputs: dict[str, np.ndarray]
    ) -> None:
        self.body, self.headers, self.request, self.outputs = body, headers, request, outputs


def run_bound(
    session: onnxruntime.InferenceSession, names: list[str], tensors: dict[str, np.ndarray], device: str, options: Any
) -> list[np.ndarray]:
    """Run with inputs and outputs bound to the device: one copy there, one back, none between. Texts stay here."""
    import onnxruntime

    binding = session.io_binding()
    for name, array in tensors.items():
        if array.dtype.hasobject:
            return list(session.run(names, tensors, options))
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0))
    for name in names:
        binding.bind_output(name, device)
    session.run_with_iobinding(binding, options)
    return list(binding.copy_outputs_to_cpu())
