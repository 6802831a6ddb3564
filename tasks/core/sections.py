"""How Assay reads a file that people write: YAML into a frozen tree, every mistake reported at once.

The params file and the suite of checks both come through here, so both answer a slip in the same way: the key, the
line, what stands there, the rule, and the nearest key that exists.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.core.errors import Mistake, SettingsError, UsageError

Location = tuple[int | str, ...]


class Section(BaseModel):
    """Base of every section: frozen, no unknown keys, no silent conversion of types, no NaN and no infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


M = TypeVar("M", bound=BaseModel)


def read_yaml(path: Path, what: str, way_out: str) -> Any:
    """Parse a YAML file.

    Args:
        path: the file.
        what: what the file is, for the messages ("a params file").
        way_out: what to do if there is no such file.

    Raises:
        UsageError: if it does not exist, cannot be read, is not UTF-8 or is not YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not path.is_file():
        raise UsageError(f"{what} must exist", f"{path} does not", way_out)
    try:
        return _text_keys(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} must be UTF-8", f"{path}: {error}", "save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{what} must be readable", f"{path}: {error.strerror}", "make it readable") from error
    except (YAMLError, RecursionError) as error:
        found = "it contains itself" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UsageError(f"{what} must be YAML with distinct keys", f"{path}: {found}", "correct it") from error


def _text_keys(node: Any) -> Any:
    """The same tree with every key a text: YAML also allows numbers and dates there."""
    if isinstance(node, dict):
        return {str(key): _text_keys(value) for key, value in node.items()}
    return [_text_keys(item) for item in node] if isinstance(node, list) else node


def check(model: type[M], raw: Any, schema: str) -> tuple[M | None, list[Mistake]]:
    """Check what :func:`read_yaml` gave: the section, or None and every mistake in it.

    Args:
        model: the root section.
        raw: the parsed file.
        schema: name of the JSON Schema that describes the keys.
    """
    try:
        # Strictness would refuse a YAML list for a tuple; JSON mode keeps strict scalars and allows that.
        return model.model_validate_json(json.dumps(raw, default=_iso)), []
    except ValidationError as error:
        found = (_mistake(model, raw, detail, schema) for detail in error.errors(include_url=False))
        return None, list({mistake.key: mistake for mistake in found}.values())


def settings_error(path: str, mistakes: Sequence[Mistake], schema: str) -> SettingsError:
    """The error that lists the mistakes, each with its line if ``path`` is a file."""
    return SettingsError(path, _with_lines(Path(path), mistakes), schema)


def unknown_key(key: str, value: Any, name: str, known: Iterable[str], what: str = "key") -> Mistake:
    """The mistake of writing ``name`` where only one of ``known`` may stand, with the nearest of them."""
    return Mistake(key, short(value), f"unknown {what}", nearest(name, known))


def nearest(name: str, known: Iterable[str]) -> str:
    """A way out: the known name that looks most like ``name``, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(names)}"


def short(value: Any) -> str:
    """JSON of a value, at most 80 characters."""
    text = json.dumps(value, default=_iso, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _iso(value: Any) -> str:
    return value.isoformat() if isinstance(value, date) else str(value)


def _mistake(root: type[BaseModel], raw: Any, detail: Any, schema: str) -> Mistake:
    # pydantic puts the tag of a discriminated or plain union into the location; the file has no such level.
    location = _real_location(raw, detail["loc"], absent=detail["type"] in ("extra_forbidden", "missing"))
    key = ".".join(str(part) for part in location) or "(file)"
    if detail["type"] == "extra_forbidden":
        return unknown_key(key, detail["input"], str(location[-1]), _known_keys(root, location[:-1], raw))
    if detail["type"] == "missing":
        return Mistake(key, "(missing)", "this key is required", f"add `{location[-1]}:`")
    rule = str(detail["msg"]).removeprefix("Value error, ")
    return Mistake(key, short(detail["input"]), rule, f"see the key's description in {schema}")


def _real_location(raw: Any, location: Location, absent: bool) -> Location:
    """Drop the levels that the file does not have; the last one is kept if the mistake is its very absence."""
    real: list[int | str] = []
    node: Any = raw
    for index, part in enumerate(location):
        if (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int)):
            node = node[part]  # type: ignore[index]  # the line above says which
            real.append(part)
        elif absent and index == len(location) - 1:
            real.append(part)
    return tuple(real)


def _known_keys(root: type[BaseModel], location: Location, raw: Any) -> list[str]:
    candidates = [root]
    for part in location:
        if isinstance(part, int):  # an item of a list: still one of the same candidates
            raw = raw[part] if isinstance(raw, list) else None
            continue
        fields = _fields(_best(candidates, raw))
        candidates = _models(fields[part]) if part in fields else []
        raw = raw.get(part) if isinstance(raw, dict) else None
    return list(_fields(_best(candidates, raw)))


def _fields(model: type[BaseModel] | None) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()} if model else {}


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    parts = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return [model for part in parts for model in _models(part)]


def _best(candidates: list[type[BaseModel]], raw: Any) -> type[BaseModel] | None:
    """The candidate that the keys in the file fit: by its tag (a Literal field), else by most keys in common."""
    given = raw if isinstance(raw, dict) else {}

    def fit(model: type[BaseModel]) -> tuple[bool, int]:
        fields = _fields(model)
        tags = (
            key for key, kind in fields.items() if get_origin(kind) is Literal and model.model_fields[key].is_required()
        )
        return any(given.get(key) in get_args(fields[key]) for key in tags), len(given.keys() & fields.keys())

    return max(candidates, key=fit, default=None)


def _with_lines(path: Path, mistakes: Sequence[Mistake]) -> list[Mistake]:
    if not path.is_file():
        return list(mistakes)
    from ruamel.yaml import YAML

    tree = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    found = (dataclasses.replace(mistake, line=_line(tree, mistake.key)) for mistake in mistakes)
    return sorted(found, key=lambda mistake: mistake.line or 0)


def _line(node: Any, key: str) -> int | None:
    """Line (from 1) of the deepest part of a dotted key that the file has."""
    line = None
    for part in key.split("."):
        step: int | str = int(part) if isinstance(node, list) and part.isdigit() else part
        if not hasattr(node, "lc") or step not in (node.lc.data or {}):
            break
        line = node.lc.data[step][0] + 1
        node = node[step]
    return line
