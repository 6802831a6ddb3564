"""Where torch works, with how many threads, and in which precision: decided once, checked, and reproducible."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.core.errors import MachineError
from tasks.core.settings import Base

if TYPE_CHECKING:
    import torch


def prepare(base: Base) -> torch.device:
    """Set threads and deterministic kernels, and return the device that ``base`` asks for.

    Raises:
        MachineError: if ``cuda`` or ``mps`` was asked for and does not answer.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed workspace
    import torch

    torch.set_num_threads(base.threads or cores())
    # The same as torch.use_deterministic_algorithms(True), which also loads the compiler: 1.6 s a stage.
    torch.set_deterministic_debug_mode("error")
    if base.device == "mps":
        if not torch.backends.mps.is_available():
            raise _absent("mps", "an Apple GPU", "this is no Mac with one, or torch was built without MPS")
        return torch.device("mps")
    works = torch.cuda.is_available()
    if base.device == "cuda" and not works:
        raise _absent("cuda", "a CUDA device", "torch finds none (no driver, no device, or a CPU build of torch)")
    return torch.device("cuda" if works and base.device != "cpu" else "cpu")


def _absent(name: str, what: str, found: str) -> MachineError:
    way_out = "set base.device to auto or cpu, or install the driver and torch's build for it"
    return MachineError(f"base.device: {name} needs {what}", found, way_out)


def check_enough(base: Base, processes: int) -> None:
    """Check that so many processes can train one network together on the device that ``base`` asks for.

    Raises:
        MachineError: if there is no GPU for each, or they cannot speak to one another from there.
    """
    if processes == 1 or base.device == "cpu":
        return
    rule = "processes that train together need a CUDA device each, or the CPU"
    if base.device == "mps":  # no library sums gradients of several processes there
        raise MachineError(rule, f"tune.processes: {processes} on mps", "set tune.processes: 1, or base.device: cpu")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else processes
    if count < processes:
        found = f"tune.processes: {processes}, and CUDA devices: {count}"
        raise MachineError(rule, found, f"set tune.processes: {count}, or base.device: cpu")


def placed(tensors: Sequence[torch.Tensor], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Rows on the device; on the CPU where they would take half of a CUDA device's free memory from the training.

    From there :mod:`tasks.core.training` sends them part by part.
    """
    import torch

    if device.type == "cuda" and 2 * sum(tensor.nbytes for tensor in tensors) > torch.cuda.mem_get_info(device)[0]:
        return tuple(tensors)
    return tuple(tensor.to(device) for tensor in tensors)


@functools.cache
def no_compiler(device: torch.device) -> str | None:
    """Why torch.compile makes no code for a device here, if it does not; found out once in a process, by trying."""
    import torch

    layer = torch.nn.Linear(2, 2).to(device)
    try:
        layer.compile()
        layer(torch.zeros(1, 2, device=device)).sum().backward()
    except Exception as error:  # noqa: BLE001 (no compiler, no Triton, an unknown GPU: the library names each in its way)
        return " ".join(str(error).split())[:300] or type(error).__name__
    return None


def cores() -> int:
    """Cores that this process may use: in a container often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype of matrix products in training, or None for plain float32.

    ``auto`` takes bfloat16 where the device has instructions for it: elsewhere it is emulated, and slower.
    """
    import torch

    if precision in ("fp32", "fp16"):
        return torch.float16 if precision == "fp16" else None
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "mps":
        has = False  # nobody has measured it
    else:
        features = torch.cpu.get_capabilities()
        has = bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("bf16"))
    return torch.bfloat16 if has or precision == "bf16" else None


def has_vnni() -> bool:
    """Whether this processor multiplies U8 by S8 without saturation (VNNI on x86, always on ARM)."""
    import torch

    features = torch.cpu.get_capabilities()
    return features.get("architecture") != "x86_64" or bool(features.get("avx512_vnni") or features.get("avx_vnni"))
