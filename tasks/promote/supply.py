"""Gate `supply`: no known vulnerability in what the bundle was made with, and licences that are allowed.

What was not audited is never called clean: every recorded version must stand in a report, of `pip-audit --strict` run
here, or made elsewhere with ``pip-audit --strict --format cyclonedx-json`` (whose time is in it) and not too old.
"""

from __future__ import annotations

import functools
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

from packaging.utils import canonicalize_name

from tasks.core import files
from tasks.core.errors import IntegrityError, MachineError, UsageError
from tasks.core.settings import Promote
from tasks.promote.words import Said

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


@dataclass(frozen=True)
class Bill:
    """What a bundle was made with, by its own words.

    Attributes:
        versions: of the packages.
        licences: of the packages.
        data: licence of the training data.
    """

    versions: Mapping[str, str]
    licences: Mapping[str, str]
    data: str

    @staticmethod
    def read(folder: Path) -> Bill:
        """Read ``licences.json`` of a bundle.

        Raises:
            IntegrityError: if it is none.
        """
        path = folder / "licences.json"
        try:
            raw = files.read_json(path)
            packages = {str(one["name"]): one for one in raw["dependencies"]}
            versions = {name: str(one["version"]) for name, one in packages.items()}
            return Bill(versions, {name: str(one["licence"]) for name, one in packages.items()}, raw["data"]["licence"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            rule, way_out = "a bundle names the licences of its data and packages", "export the bundle again"
            raise IntegrityError(rule, f"{path}: {type(error).__name__}: {error}", way_out) from error


def ask(bill: Bill, rules: Promote, supplied: Path | None) -> Said:
    """Audit what a bundle was made with.

    Args:
        bill: of the bundle.
        rules: of the settings.
        supplied: a report that was made elsewhere; None runs `pip-audit` now.

    Raises:
        UsageError: if the supplied report is none.
        MachineError: if `pip-audit` gives no answer, as without a network, or the extra `audit` is not installed.
    """
    named = {canonicalize_name(name): version for name, version in bill.versions.items()}
    wanted: dict[str, str] = {name: _public(version) for name, version in named.items() if name != _OURS}
    report = run(wanted) if supplied is None else read(supplied)
    figures = {"report": report.source, "made": report.made.isoformat(), "packages": len(wanted)}
    if problems := [*report.found, *_not_allowed(bill, rules)]:
        return Said("FAIL", "; ".join(problems), figures)
    missing = sorted(name for name, version in wanted.items() if report.audited.get(name) != version)
    if missing:
        problems.append(f"not audited: {', '.join(f'{name} {wanted[name]}' for name in missing)}")
    if not -_CLOCKS <= datetime.now(UTC) - report.made <= timedelta(days=rules.audit_days):
        problems.append(f"the report is of {report.made.isoformat()}; at most {rules.audit_days:g} days are allowed")
    if problems:
        return Said("INCONCLUSIVE", "; ".join(problems), figures)
    fine = f"{len(wanted)} packages without a known vulnerability ({report.source}); licences are allowed"
    return Said("PASS", fine, figures)


def _not_allowed(bill: Bill, rules: Promote) -> list[str]:
    # Words in parentheses behind an expression are for people.
    named = {"the training data": re.sub(r"\s+\(.*\)$", "", bill.data)} | {
        name: licence for name, licence in bill.licences.items() if canonicalize_name(name) not in rules.any_licence
    }
    return [
        f"licence of {name}: {licence or 'none'}"
        for name, licence in sorted(named.items())
        if not is_allowed(licence, rules.allowed_licences)
    ]


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
    audited: dict[str, str] = {canonicalize_name(item["name"]): item["version"] for item in components}
    return Report(made, audited, sorted(found), source)


def is_allowed(licence: str, allowed: Iterable[str]) -> bool:
    """Whether one can keep to allowed licences.

    Args:
        licence: an SPDX expression, or other words; of several, with semicolons between them, each must be allowed.
        allowed: SPDX licences, or the very words.
    """
    licensing = _spdx()
    from license_expression import ExpressionError  # there, now

    known = {one.casefold() for one in allowed}

    def holds(node: Any) -> bool:
        if isinstance(node, (licensing.AND, licensing.OR)):
            return (all if isinstance(node, licensing.AND) else any)(holds(part) for part in node.args)
        return str(node.render()).casefold() in known

    def one_holds(text: str) -> bool:
        try:
            return text.casefold() in known or bool(text and holds(licensing.parse(text)))
        except ExpressionError:
            return False

    return all(one_holds(part.strip()) for part in licence.split(";"))


@functools.cache
def _spdx() -> Any:
    """What parses expressions; it takes a while to make."""
    try:
        from license_expression import get_spdx_licensing
    except ImportError as error:
        rule, way_out = "licences are read with the package license-expression", 'pip install ".[audit]"'
        raise MachineError(rule, str(error), way_out) from error
    return get_spdx_licensing()


def _public(version: str) -> str:
    """A version without its local part (``2.13.0+cpu``): registries know it so."""
    return version.partition("+")[0]
