"""Gate `supply`: no known vulnerability in what the bundle was made with, and licences that are allowed.

What was not audited is never called clean: every recorded version must stand in a report, of `pip-audit --strict` run
here, or made elsewhere with ``pip-audit --strict --format cyclonedx-json`` (whose time is in it) and not too old.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.core import files
from tasks.core.errors import MachineError, UsageError
from tasks.promote.evidence import Evidence
from tasks.promote.words import Said, Word

#: This project itself is in no registry.
_OURS = "assay"
_SECONDS = 300
_CLOCKS = timedelta(minutes=5)


@dataclass(frozen=True)
class Report:
    """What `pip-audit` found.

    Attributes:
        made: when.
        audited: name -> version of what it looked up.
        found: ``name version: vulnerability`` each.
        source: where the report comes from, in words.
    """

    made: datetime
    audited: Mapping[str, str]
    found: Sequence[str]
    source: str


def ask(
    versions: Mapping[str, str],
    licences: Mapping[str, Sequence[str]],
    allowed: Sequence[str],
    supplied: Path | None,
    most_days: float,
) -> Said:
    """Audit what a bundle was made with.

    Args:
        versions: name -> version, as the bundle has it.
        licences: what is licensed -> SPDX expressions that it is under; all of them must be allowed.
        allowed: licences.
        supplied: a report that was made elsewhere; None runs `pip-audit` now.
        most_days: largest age of such a report.

    Raises:
        UsageError: if the supplied report is none.
        MachineError: if `pip-audit` gives no answer, as without a network.
    """
    wanted = {_normal(name): _public(version) for name, version in versions.items() if _normal(name) != _OURS}
    refused = [
        f"{name} is under {expression or 'no licence'}"
        for name, expressions in sorted(licences.items())
        for expression in (expressions or ("",))
        if not is_allowed(expression, allowed)
    ]
    report = run(wanted) if supplied is None else read(supplied)
    figures = {"report": report.source, "made": report.made.isoformat(), "audited": len(report.audited)}
    problems = [*report.found, *(f"licence: {one}" for one in refused)]
    missing = sorted(name for name, version in wanted.items() if report.audited.get(name) != version)
    word: Word = "FAIL" if problems else "PASS"
    if missing:
        problems.append(f"not audited: {', '.join(f'{name} {wanted[name]}' for name in missing)}")
    age = datetime.now(UTC) - report.made
    if not -_CLOCKS <= age <= timedelta(days=most_days):
        problems.append(f"the report is of {report.made.isoformat()}; at most {most_days:g} days are allowed")
    if word == "PASS" and problems:
        word = "INCONCLUSIVE"
    fine = f"{len(wanted)} packages without a known vulnerability ({report.source}); licences are allowed"
    return Said(word, "; ".join(problems) or fine, figures)


def licences(evidence: Evidence) -> dict[str, tuple[str, ...]]:
    """What the bundle says its data is licensed under; words in parentheses behind an expression are for people."""
    said = str(evidence.provenance.params.get("export", {}).get("data_licence", ""))
    return {"the training data": (re.sub(r"\s+\(.*\)$", "", said),)}


def run(versions: Mapping[str, str]) -> Report:
    """Ask `pip-audit` about exactly these versions.

    Raises:
        MachineError: if it gives no answer.
    """
    with TemporaryDirectory(prefix="assay-") as scratch:
        pinned, out = Path(scratch, "requirements.txt"), Path(scratch, "report.json")
        pinned.write_text("".join(f"{name}=={version}\n" for name, version in sorted(versions.items())))
        command = [sys.executable, "-P", "-m", "pip_audit", "--strict", "--no-deps", "--disable-pip"]
        command += ["--progress-spinner", "off", "--format", "cyclonedx-json"]
        command += ["--requirement", str(pinned), "--output", str(out)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
            said = done.stderr.strip()
        except subprocess.TimeoutExpired:
            said = f"no answer within {_SECONDS} s"
        if not out.is_file():
            way_out = "give it a network, or a report that was made elsewhere: --audit-report FILE"
            raise MachineError("pip-audit must look the packages up", said[-500:], way_out)
        return _parse(json.loads(out.read_text(encoding="utf-8")), "pip-audit, now")


def read(path: Path) -> Report:
    """Read a report that was made elsewhere.

    Raises:
        UsageError: if it is none.
    """
    try:
        return _parse(files.read_json(path), f"{path.name}, sha256 {files.sha256(path)}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        rule = "a report made elsewhere is what `pip-audit --strict --format cyclonedx-json` writes"
        raise UsageError(rule, f"{path}: {type(error).__name__}: {error}", "make it so") from error


def _parse(raw: Any, source: str) -> Report:
    if raw["bomFormat"] != "CycloneDX":
        raise ValueError("no CycloneDX")
    components = raw.get("components", [])
    names = {item["bom-ref"]: f"{item['name']} {item['version']}" for item in components}
    found = [
        f"{names[target['ref']]}: {item['id']}" for item in raw.get("vulnerabilities", []) for target in item["affects"]
    ]
    made = datetime.fromisoformat(raw["metadata"]["timestamp"])
    audited = {_normal(item["name"]): item["version"] for item in components}
    return Report(made, audited, sorted(found), source)


def is_allowed(expression: str, allowed: Iterable[str]) -> bool:
    """Whether an SPDX expression lets one keep to allowed licences: one of those joined by OR, all joined by AND."""
    from license_expression import ExpressionError, get_spdx_licensing

    licensing = get_spdx_licensing()
    known = {one.casefold() for one in allowed}

    def holds(node: Any) -> bool:
        if isinstance(node, (licensing.AND, licensing.OR)):
            return (all if isinstance(node, licensing.AND) else any)(holds(part) for part in node.args)
        return str(node.render()).casefold() in known

    try:
        parsed = licensing.parse(expression)
    except ExpressionError:
        return False
    return parsed is not None and holds(parsed)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _public(version: str) -> str:
    """A version without its local part (``2.13.0+cpu``): registries know it so."""
    return version.partition("+")[0]
