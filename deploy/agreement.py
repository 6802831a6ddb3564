"""Whether the files of a bundle agree: the model with its signature, verdict, golden cases and name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import golden
from deploy.errors import IntegrityError
from deploy.signature import Signature, Tensor
from deploy.variants import NAME as VARIANTS
from deploy.variants import Variants

#: Field 1 of an ONNX file, the version of its format, which every writer puts first.
_ONNX = b"\x08"
_FOREIGN = {
    b"PK": "a zip archive, as torch pickles into", b"\x80": "a pickle", b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive", b"\xfd7zXZ": "an xz archive", b"\x93NUMPY": "a NumPy array", b"\x7fELF": "a program",
}  # fmt: skip
#: How protobuf writes the key of a tensor's file, where its values lie outside the model's.
_OUTSIDE = b"\x0a\x08location\x12"
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Parts:
    """What is read of a bundle.

    Attributes:
        folder: of it.
        hashes: of its files, by name.
        json: parsed files, by name.
        served: folders that hold a model: the bundle's own, and its variants'.
        content: the bundle's identity.
    """

    folder: Path
    hashes: Mapping[str, str]
    json: Mapping[str, Any]
    served: tuple[str, ...]
    content: str


def problems(folder: Path, hashes: Mapping[str, str], content: str) -> list[str]:
    """Everything that does not fit together.

    Args:
        folder: a bundle of plain files.
        hashes: of its files, by name.
        content: its identity (:func:`deploy.bundle.digest`).
    """
    parsed: dict[str, Any] = {}
    found: list[str] = []
    for name in sorted(name for name in hashes if name.endswith(".json")):
        try:
            parsed[name] = strict_json(folder / name)
        except (ValueError, RecursionError) as error:
            found.append(f"{name}: no JSON: {error}")
    served = sorted(name.removesuffix("model.onnx") for name in hashes if name.rpartition("/")[2] == "model.onnx")
    parts = Parts(folder, hashes, parsed, tuple(served), content)
    checks: tuple[Callable[[Parts], Iterator[str]], ...] = (
        _models, _texts, _signatures, _golden, _verdict, _variants, _metrics, _materials, _drift, _name,
    )  # fmt: skip
    for check in checks:
        found += _guarded(check, parts)
    return found


def strict_json(path: Path) -> Any:
    """A JSON file without what the standard does not have: NaN, infinity, a key twice.

    Raises:
        ValueError: if it is none.
    """

    def refuse(word: str) -> None:
        raise ValueError(f"it holds {word}")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("it holds a key twice")
        return found

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse, object_pairs_hook=once)


def _guarded(check: Callable[[Parts], Iterator[str]], parts: Parts) -> list[str]:
    """What a check finds; a file that is of another build than the check expects is a finding, too."""
    found: list[str] = []
    try:
        found.extend(check(parts))
    except IntegrityError as error:
        found.append(error.found)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        about = check.__name__.lstrip("_")
        found.append(f"what the bundle says of its {about} is not as expected: {type(error).__name__}: {error}")
    return found


def _models(parts: Parts) -> Iterator[str]:
    for folder in parts.served:
        name = f"{folder}model.onnx"
        with (parts.folder / name).open("rb") as file:
            start = file.read(8)
            foreign = next((what for magic, what in _FOREIGN.items() if start.startswith(magic)), None)
            if foreign or not start.startswith(_ONNX):
                yield f"{name}: {foreign or 'no ONNX file'}"
                continue
            file.seek(0)
            tail = b""
            while chunk := file.read(_CHUNK):
                if _OUTSIDE in tail + chunk:
                    yield f"{name}: its weights lie outside it"
                    break
                tail = chunk[-len(_OUTSIDE) :]


def _texts(parts: Parts) -> Iterator[str]:
    for name in sorted(name for name in parts.hashes if not name.endswith((".json", ".onnx"))):
        try:
            (parts.folder / name).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            yield f"{name}: no text: {error}"


def _signatures(parts: Parts) -> Iterator[str]:
    first = _words(Signature.read(parts.folder / "signature.json"))
    for folder in parts.served:
        if _words(Signature.read(parts.folder / folder / "signature.json")) != first:
            yield f"{folder}signature.json: other inputs or outputs than signature.json"


def _words(signature: Signature) -> Any:
    return [[(one.name, one.datatype, one.shape) for one in side] for side in (signature.inputs, signature.outputs)]


def _golden(parts: Parts) -> Iterator[str]:
    signature = Signature.read(parts.folder / "signature.json")
    inputs = {one.name: one for one in signature.inputs}
    outputs = {one.name: one for one in signature.outputs}
    asked, told = (
        {name.removesuffix(end) for name in parts.hashes if name.endswith(end)}
        for end in (golden.REQUEST, golden.RESPONSE)
    )
    yield from (f"{case}{golden.REQUEST}: missing" for case in sorted(told - asked))
    for folder in parts.served:
        for case in golden.read(parts.folder / folder):
            where = f"{folder}golden/{case.name}"
            rows = {len(array) for array in case.columns.values()}
            rows |= {len(answer.expected) for answer in case.answers.values()}
            if len(rows) != 1 or 0 in rows:
                yield f"{where}: {sorted(rows)} rows, in one case"
            if set(case.columns) != set(inputs):
                yield f"{where}{golden.REQUEST}: other inputs than those of signature.json"
            tensors = [*case.request["inputs"], *parts.json[f"{where}{golden.RESPONSE}"]["outputs"]]
            known = {**inputs, **outputs}
            yield from (
                f"{where}: {item['name']} is no tensor of signature.json with its datatype and shape"
                for item in tensors
                if item["name"] not in known or not _fits(item, known[item["name"]])
            )


def _fits(item: Mapping[str, Any], tensor: Tensor) -> bool:
    found, wanted = item["shape"], tensor.shape
    sizes = len(found) == len(wanted) and all(want in (-1, size) for want, size in zip(wanted, found, strict=True))
    return sizes and item["datatype"] == tensor.datatype and len(item["data"]) == math.prod(found)


def _verdict(parts: Parts) -> Iterator[str]:
    verdict = parts.json["verdict.json"]
    if verdict["verdict"] != "ACCEPT":
        yield f"verdict.json: {verdict['verdict']}, of a model that is shipped"
    if verdict["model_sha256"] != parts.hashes["model.onnx"]:
        yield "verdict.json: it is about another model.onnx"
    judged = {line["model_sha256"] for line in verdict["lines"]}
    yield from (
        f"verdict.json: it has no line about {folder}model.onnx"
        for folder in parts.served
        if parts.hashes[f"{folder}model.onnx"] not in judged
    )


def _variants(parts: Parts) -> Iterator[str]:
    if VARIANTS not in parts.hashes:
        yield from (f"{folder}model.onnx: a variant without {VARIANTS}" for folder in parts.served if folder)
        return
    named = {one.model for one in Variants.read(parts.folder).order}
    there = {f"{folder}model.onnx" for folder in parts.served}
    yield from (f"{name}: named in {VARIANTS}, and missing" for name in sorted(named - there))
    yield from (f"{name}: not named in {VARIANTS}" for name in sorted(there - named))


def _metrics(parts: Parts) -> Iterator[str]:
    if parts.json["metrics.json"]["intervals"] != parts.json["verdict.json"]["lines"]:
        yield "metrics.json: other intervals than those of verdict.json"


def _materials(parts: Parts) -> Iterator[str]:
    for name in ("sbom.cdx.json", "mlbom.cdx.json"):
        if parts.json[name]["bomFormat"] != "CycloneDX":
            yield f"{name}: no bill of materials"
    hashes = {one["content"] for one in parts.json["mlbom.cdx.json"]["metadata"]["component"]["hashes"]}
    if hashes != {parts.hashes["model.onnx"]}:
        yield "mlbom.cdx.json: it is about another model.onnx"


def _drift(parts: Parts) -> Iterator[str]:
    signature = Signature.read(parts.folder / "signature.json")
    if set(parts.json["drift_reference.json"]["features"]) != {tensor.name for tensor in signature.inputs}:
        yield "drift_reference.json: other features than the inputs of signature.json"


def _name(parts: Parts) -> Iterator[str]:
    """A version is named for its content, and its provenance names it."""
    provenance, content = parts.json["provenance.json"], parts.content
    if provenance["digest"] != content:
        yield f"provenance.json: it is about the content {provenance['digest'][:12]}, and this is {content[:12]}"
    for name in (parts.folder.name, provenance["version"]):
        if name.partition("-")[2] != content[:12]:
            yield f"the version {name} is not named for this content, {content[:12]}"
    if parts.folder.name != provenance["version"]:
        yield f"the folder is called {parts.folder.name}, and this is version {provenance['version']}"
