"""The files of a bundle that differ from run to run and machine to machine: :data:`deploy.bundle.RECORDS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.core.manifest import Manifest
from tasks.core.stage import StageSettings
from tasks.export import cyclonedx, packages, provenance
from tasks.export.packages import UNKNOWN, Package


def collect(settings: StageSettings, stages: Mapping[str, Manifest], digest: str) -> dict[str, dict[str, Any]]:
    """Their JSON values by file (see :func:`tasks.export.provenance.collect`)."""
    told = provenance.collect(settings, stages, digest)
    installed = packages.installed()
    return {
        "provenance.json": told,
        cyclonedx.SBOM: cyclonedx.of_packages(installed, packages.ROOT, told["created"], digest),
        "licences.json": _licences(settings.own.data_licence, installed),
    }


def _licences(data: str, installed: Sequence[Package]) -> dict[str, Any]:
    """Licences of the data and of what the bundle was made with, in the words of those who gave them."""
    return {
        "data": {"licence": data, "source": "none" if data == UNKNOWN else "export.data_licence"},
        "dependencies": [
            {"name": one.name, "version": one.version, "licence": one.licence, "source": one.source}
            for one in installed
        ],
        "unknown": [one.name for one in installed if one.licence == UNKNOWN],
    }
