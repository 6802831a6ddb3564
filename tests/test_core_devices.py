"""Where torch works, and in which precision."""

from __future__ import annotations

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


def test_cuda_that_does_not_answer_is_a_machine_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MachineError, match=r"base\.device: cuda") as caught:
        devices.prepare(base(device="cuda", threads=1))
    assert caught.value.exit_code == 2


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
