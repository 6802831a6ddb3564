"""Where torch works, and in which precision."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch

from tasks.core import devices
from tasks.core.errors import MachineError
from tasks.core.settings import Base


def base(**values: Any) -> Base:
    return Base(name="tiny", target="late", **values)


@pytest.fixture(autouse=True)
def _as_before() -> Any:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("default")


def test_the_processor_gets_its_threads_and_deterministic_kernels() -> None:
    assert devices.prepare(base(device="cpu", threads=1)).type == "cpu"
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.prepare(base(threads=1)).type == "cpu"


@pytest.mark.parametrize(("name", "module"), [("cuda", torch.cuda), ("mps", torch.backends.mps)])
def test_a_gpu_that_does_not_answer_is_a_machine_error(monkeypatch: pytest.MonkeyPatch, name: str, module: Any) -> None:
    monkeypatch.setattr(module, "is_available", lambda: False)
    with pytest.raises(MachineError, match=rf"base\.device: {name}") as caught:
        devices.prepare(base(device=name, threads=1))
    assert caught.value.exit_code == 2


def test_apples_gpu_is_taken_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.prepare(base(device="mps", threads=1)).type == "mps"
    assert devices.prepare(base(threads=1)).type == "cpu"
    assert devices.autocast_dtype("auto", torch.device("mps")) is None


@pytest.mark.parametrize(
    ("device", "gpus", "processes", "found"),
    [
        ("cuda", 2, 3, "CUDA devices: 2"),
        ("auto", 1, 2, "CUDA devices: 1"),
        ("mps", 0, 2, "on mps"),
        ("cuda", 2, 2, None),
        ("auto", 0, 2, None),
        ("cpu", 1, 2, None),
        ("mps", 0, 1, None),
    ],
)
def test_processes_that_train_together_have_a_gpu_each_or_the_processor(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, processes: int, found: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    refused = pytest.raises(MachineError, match=found) if found else contextlib.nullcontext()
    with refused:
        devices.check_enough(base(device=device), processes)


def test_rows_that_would_take_the_gpus_memory_stay_with_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, gpu = torch.zeros(100, 10), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (rows.nbytes * 2 - 1, 0))
    assert devices.placed([rows], gpu)[0] is rows
    sent: list[object] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (rows.nbytes * 2, 0))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: sent.append(device) or self)
    devices.placed([rows], gpu)
    assert sent == [gpu]


def test_why_nothing_can_be_compiled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **more: Any) -> Any:
        raise RuntimeError("no C++ compiler\nanywhere")

    monkeypatch.setattr(torch.nn.Module, "compile", fails)
    assert devices.no_compiler.__wrapped__(torch.device("cpu")) == "no C++ compiler anywhere"


@pytest.mark.parametrize(
    ("precision", "features", "expected"),
    [
        ("fp32", {"amx_bf16": True}, None),
        ("auto", {}, None),
        ("auto", {"avx512_bf16": False, "amx_bf16": False}, None),
        ("auto", {"avx512_bf16": True}, torch.bfloat16),
        ("auto", {"amx_bf16": True}, torch.bfloat16),
        ("bf16", {}, torch.bfloat16),
    ],
)
def test_bf16_only_where_the_processor_has_it_or_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, precision: str, features: dict[str, bool], expected: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert devices.autocast_dtype(precision, torch.device("cpu")) == expected


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"architecture": "x86_64"}, False),
        ({"architecture": "x86_64", "avx512_vnni": True}, True),
        ({"architecture": "x86_64", "avx_vnni": True}, True),
        ({"architecture": "aarch64"}, True),
    ],
)
def test_where_int8_products_saturate(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, Any], expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert devices.has_vnni() is expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_taken_where_it_works() -> None:
    assert devices.prepare(base(device="cuda")).type == "cuda"
