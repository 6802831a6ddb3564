"""Gate `server`: the real server answers the golden requests, refuses bad ones, keeps to the budget, and ends well."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy import golden
from deploy.variants import Variants
from tasks.core.settings import Latency
from tasks.promote.bad_requests import suite
from tasks.promote.server import Server, started
from tasks.promote.words import Said, judged

_JSON = {"Content-Type": "application/json"}
_WARM_UP = 20


def ask(arguments: Sequence[str], folder: Path, budget: Latency) -> Said:
    """Start the server, question it, stop it.

    Args:
        arguments: its command.
        folder: the bundle that it serves.
        budget: of time.

    Raises:
        IntegrityError: if the server does not start with this bundle, or the bundle has no golden request.
        MachineError: if it is not ready in time.
    """
    problems: list[str] = []
    with started(arguments, budget.start_seconds) as server:
        own = "." if server.target is None else Variants.read(folder).named(server.target).folder
        cases = golden.read(folder / own)
        usual = next((case for case in cases if case.name == "typical"), cases[0]).request
        problems += _golden(server, cases)
        refused = _bad_input(server, usual, problems)
        problems += _golden(server, cases)  # it must still answer after all that
        times = [] if problems else _times(server, usual, budget.requests, problems)
    if server.exit_code != 0:
        problems.append(f"it must end with exit code 0 when it is told to; it ended with {server.exit_code}")
    figures: dict[str, Any] = {"ready_seconds": server.ready_seconds, "provider": server.provider, "refused": refused}
    figures |= {} if server.target is None else {"target": server.target}
    if times:
        p50, p99 = (round(float(value), 3) for value in np.percentile(times, (50, 99)))
        figures |= {"p50_ms": p50, "p99_ms": p99, "requests": len(times)}
        if p99 > budget.p99_ms:
            problems.append(f"the 99th percentile of one row is {p99:.3g} ms, the budget {budget.p99_ms:g} ms")
    return judged(problems, _fine(figures, len(cases)), figures)


def _fine(figures: Mapping[str, Any], cases: int) -> str:
    whose = f"the variant {figures['target']}: " if "target" in figures else ""
    asked = f"{whose}{cases} golden request{'s' if cases > 1 else ''} answered, {figures['refused']} bad ones refused"
    return f"{asked}; one row takes {figures.get('p50_ms')} ms, 99 % at most {figures.get('p99_ms')} ms"


def _path(server: Server) -> str:
    return f"/v2/models/{server.model}/infer"


def _golden(server: Server, cases: Sequence[golden.Case]) -> Iterator[str]:
    for case in cases:
        try:
            answer = server.ask("POST", _path(server), json.dumps(case.request).encode())
        except (OSError, http.client.HTTPException) as error:
            yield f"golden case {case.name}: no answer ({type(error).__name__}: {error})"
            continue
        if answer.status != 200:
            yield f"golden case {case.name}: status {answer.status}: {answer.body[:200].decode(errors='replace')}"
            continue
        try:
            outputs = {item["name"]: golden.array(item) for item in json.loads(answer.body)["outputs"]}
            outputs = {name: _infinite(array, case.answers.get(name)) for name, array in outputs.items()}
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            yield f"golden case {case.name}: the answer is no answer of the protocol: {error}"
            continue
        yield from case.differences(outputs, server.provider)


def _infinite(given: np.ndarray, wanted: golden.Answer | None) -> np.ndarray:
    """JSON has no infinity, and a server answers ``null``, which reads as NaN: what it may stand for.

    A real NaN there would pass, too; the server itself, which holds the arrays, has refused it before it was ready.
    """
    if wanted is None or wanted.expected.dtype.kind != "f" or given.shape != wanted.expected.shape:
        return given
    infinite = np.isnan(given) & (np.abs(wanted.expected) >= golden.GREATEST)
    return np.asarray(np.where(infinite, wanted.expected, given))


def _bad_input(server: Server, good: Mapping[str, Any], problems: list[str]) -> int:
    """How many bad requests were refused as they should be; the others are added to the problems."""
    refused = 0
    for bad in suite(server.model, good):
        try:
            status = server.ask(bad.method, bad.path, bad.body, bad.headers).status
        except (OSError, http.client.HTTPException) as error:
            problems.append(f"{bad.name}: no answer ({type(error).__name__}: {error})")
            continue
        if 400 <= status < 500:
            refused += 1
        else:
            problems.append(f"{bad.name}: status {status}, where the client's mistake is a 4xx")
    return refused


def _times(server: Server, request: Mapping[str, Any], count: int, problems: list[str]) -> list[float]:
    """Milliseconds of one request after the other with one row, on one connection."""
    body = json.dumps(_one_row(request)).encode()
    connection = server.connect()
    times = []
    try:
        for _ in range(_WARM_UP + count):
            begun = time.perf_counter()
            connection.request("POST", _path(server), body, _JSON)
            response = connection.getresponse()
            said = response.read()
            if response.status != 200:  # a refusal is quick
                problems.append(f"one row alone: status {response.status}: {said[:200].decode(errors='replace')}")
                break
            times.append((time.perf_counter() - begun) * 1000)
    except (OSError, http.client.HTTPException) as error:
        problems.append(f"after {len(times)} requests on one connection: {type(error).__name__}: {error}")
    finally:
        connection.close()
    return times[_WARM_UP:]


def _one_row(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request with the first row alone."""
    inputs = []
    for item in request["inputs"]:
        each = len(item["data"]) // item["shape"][0]
        inputs.append({**item, "shape": [1, *item["shape"][1:]], "data": item["data"][:each]})
    return {**request, "inputs": inputs}
