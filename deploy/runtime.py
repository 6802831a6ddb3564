"""Opens ONNX files with the right provider, and says which one really runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deploy.errors import IntegrityError, MachineError, UsageError

if TYPE_CHECKING:
    import onnxruntime

_WARNING, _FATAL = 2, 4
_PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}


def open_session(model: Path, device: str = "auto", threads: int | None = None) -> onnxruntime.InferenceSession:
    """A session on the wanted device.

    Args:
        model: the ONNX file.
        device: ``cpu``, ``cuda`` (an error if CUDA does not really load), or ``auto`` (CUDA if it loads).
        threads: threads inside an operator; None leaves the choice to onnxruntime.

    Raises:
        UsageError: if the device is none of these.
        MachineError: if ``cuda`` was asked for and is not used.
        IntegrityError: if the file is no loadable model.
    """
    import onnxruntime

    if device not in ("auto", *_PROVIDERS):
        raise UsageError("device must be auto, cpu or cuda", repr(device), "choose one of them")
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    offered = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    providers = _PROVIDERS["cuda" if device != "cpu" and offered else "cpu"]
    onnxruntime.set_default_logger_severity(_FATAL)  # a CUDA that cannot load is judged below, not shouted twice
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=providers)
    except Exception as error:  # onnxruntime raises a dozen types, all meaning "not loadable"
        raise IntegrityError("a model file must load", f"{model}: {error}", "fetch or build the bundle anew") from error
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
    if device == "cuda" and provider(session) != "CUDAExecutionProvider":
        raise MachineError(
            "device cuda must really be used",
            f"onnxruntime runs this model on {provider(session)}",
            "install onnxruntime-gpu with a matching CUDA and driver, or use device auto or cpu",
        )
    return session


def provider(session: onnxruntime.InferenceSession) -> str:
    """Name of the provider that has the first say in a session."""
    return str(session.get_providers()[0])
