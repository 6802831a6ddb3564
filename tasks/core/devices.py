"""Where torch works, with how many threads, and in which precision: decided once, checked, and reproducible."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tasks.core.errors import MachineError
from tasks.core.settings import Base

if TYPE_CHECKING:
    import torch


def prepare(base: Base) -> torch.device:
    """Set threads and deterministic kernels, and return the device that ``base`` asks for.

    Raises:
        MachineError: if ``cuda`` was asked for and no CUDA device answers.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a fixed workspace
    import torch

    torch.set_num_threads(base.threads or cores())
    # The same as torch.use_deterministic_algorithms(True), which also loads the compiler: 1.6 s a stage.
    torch.set_deterministic_debug_mode("error")
    works = torch.cuda.is_available()
    if base.device == "cuda" and not works:
        raise MachineError(
            "base.device: cuda needs a CUDA device",
            "torch finds none (no driver, no device, or a CPU build of torch)",
            "set base.device to auto or cpu, or install torch's CUDA build and the driver",
        )
    return torch.device("cuda" if works and base.device != "cpu" else "cpu")


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
    else:
        features = torch.cpu.get_capabilities()
        has = bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("bf16"))
    return torch.bfloat16 if has or precision == "bf16" else None


def has_vnni() -> bool:
    """Whether this processor multiplies U8 by S8 without saturation (VNNI on x86, always on ARM)."""
    import torch

    features = torch.cpu.get_capabilities()
    return features.get("architecture") != "x86_64" or bool(features.get("avx512_vnni") or features.get("avx_vnni"))
