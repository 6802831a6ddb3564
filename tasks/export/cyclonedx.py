"""Bills of materials in CycloneDX 1.6, made and strictly validated with its own Python library."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasks.core.errors import IntegrityError
from tasks.export.packages import UNKNOWN, Package

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

SBOM, MLBOM = "sbom.cdx.json", "mlbom.cdx.json"


def of_packages(packages: Sequence[Package], root: str, created: str, identity: str) -> dict[str, Any]:
    """The software that a bundle was made with.

    Args:
        packages: all of them, the root among them.
        root: name of the one that needs the others.
        created: time, in ISO 8601.
        identity: of the bundle, in hexadecimal: equal bundles have equal serial numbers.
    """
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import ComponentType

    components = {
        one.name: _component(one, ComponentType.APPLICATION if one.name == root else ComponentType.LIBRARY)
        for one in packages
    }
    bom = Bom(components=[component for name, component in components.items() if name != root])
    bom.metadata.component = components[root]
    for one in packages:
        bom.register_dependency(components[one.name], [components[name] for name in one.needs])
    raw = _plain(bom) | {"serialNumber": f"urn:uuid:{uuid.UUID(identity[:32], version=5)}"}
    raw["metadata"]["timestamp"] = created
    return valid(raw)


def of_model(name: str, sha256: str, description: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """A model with its card; no time and no serial number, so that it is the same whenever it is made.

    Args:
        name: of the model.
        sha256: of its file.
        description: of what it does.
        card: ``modelCard`` of the standard, for which the library has no classes.
    """
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType

    bom = Bom()
    bom.metadata.component = Component(
        name=name,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        description=description,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
    )
    raw = _plain(bom)
    raw["metadata"]["component"]["modelCard"] = dict(card)
    return valid(raw)


def valid(raw: dict[str, Any]) -> dict[str, Any]:
    """The same, if the library's strict validator has nothing against it.

    Raises:
        IntegrityError: with everything that it has.
    """
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(raw), all_errors=True)
    if errors:
        found = "; ".join(str(error).splitlines()[0] for error in errors)
        raise IntegrityError("a bill of materials must be CycloneDX 1.6", found, "this is a bug: report it")
    return raw


def _component(package: Package, kind: Any) -> Component:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import LicenseAcknowledgement
    from packageurl import PackageURL

    declared = LicenseAcknowledgement.DECLARED
    known = package.licence != UNKNOWN
    licence = LicenseFactory().make_from_string(package.licence, license_acknowledgement=declared) if known else None
    return Component(
        name=package.name,
        version=package.version,
        type=kind,
        bom_ref=f"{package.name}=={package.version}",
        purl=PackageURL("pypi", None, package.name, package.version),
        licenses=[licence] if licence else None,
    )


def _plain(bom: Any) -> dict[str, Any]:
    """JSON values, without what differs each time."""
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    raw: dict[str, Any] = json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    del raw["serialNumber"], raw["metadata"]["timestamp"]
    return raw
