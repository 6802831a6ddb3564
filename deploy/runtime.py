"""Opens ONNX files with the right provider, and says which one really runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deploy.errors import IntegrityError, MachineError, UsageError

if TYPE_CHECKING:
    import onnxruntime

_WARNING, _FATAL = 2, 4
_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_PROVIDERS = {"cpu": [_CPU], "cuda": [_CUDA, _CPU], "tensorrt": [_TENSORRT, _CUDA, _CPU]}


def open_session(
    model: Path,
    device: str = "auto",
    threads: int | None = None,
    profile: Path | None = None,
    optimized: bool = True,
) -> onnxruntime.InferenceSession:
    """A session on the wanted device.

    Args:
        model: the ONNX file.
        device: ``cpu``, ``cuda`` or ``tensorrt`` (an error if it does not really load), or ``auto`` (CUDA if it loads).
        threads: threads inside an operator; None leaves the choice to onnxruntime.
        profile: prefix of the file that :meth:`onnxruntime.InferenceSession.end_profiling` is to write; None for none.
        optimized: False leaves every node as it is in the file.

    Raises:
        UsageError: if the device is none of these.
        MachineError: if a device was asked for by name and is not used.
        IntegrityError: if the file is no loadable model.
    """
    import onnxruntime

    if device not in ("auto", *_PROVIDERS):
        raise UsageError("device must be auto, cpu, cuda or tensorrt", repr(device), "choose one of them")
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    offered = onnxruntime.get_available_providers()
    wanted = _PROVIDERS["cuda" if device == "auto" else device]
    providers = [name for name in wanted if name in offered]
    onnxruntime.set_default_logger_severity(_FATAL)  # a CUDA that cannot load is judged below, not shouted twice
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=providers)
    except Exception as error:  # onnxruntime raises a dozen types, all meaning "not loadable"
        raise IntegrityError("a model file must load", f"{model}: {error}", "fetch or build the bundle anew") from error
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
    if device != "auto" and provider(session) != wanted[0]:
        raise MachineError(
            f"device {device} must really be used",
            f"onnxruntime runs this model on {provider(session)}",
            "install onnxruntime-gpu with the libraries and driver that it needs, or use device auto or cpu",
        )
    return session


def provider(session: onnxruntime.InferenceSession) -> str:
    """Name of the provider that has the first say in a session."""
    return str(session.get_providers()[0])
