"""Great Expectations' own Data Docs, for those who know them. They load scripts and fonts from the network."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def build(context: Any, results: Sequence[Any], name: str, folder: Path) -> None:
    """Render Data Docs.

    Args:
        context: the ephemeral context in which the checks ran.
        results: Great Expectations' result of each check.
        name: name of the suite on the pages.
        folder: an empty folder; ``index.html`` is the entry.
    """
    from great_expectations.core import ExpectationSuiteValidationResult, RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    now = datetime.now(UTC)
    passed = sum(bool(result.success) for result in results)
    whole = ExpectationSuiteValidationResult(
        success=passed == len(results),
        results=list(results),
        suite_name=name,
        statistics={
            "evaluated_expectations": len(results),
            "successful_expectations": passed,
            "unsuccessful_expectations": len(results) - passed,
            "success_percent": 100 * passed / len(results) if results else None,
        },
        meta={"run_id": RunIdentifier(run_name=name, run_time=now), "validation_time": now.isoformat()},
    )
    suite = ExpectationSuiteIdentifier(name=name)
    run = RunIdentifier(run_name=name, run_time=now)
    identifier = ValidationResultIdentifier(suite, run, batch_identifier="snapshot")
    context.validation_results_store.set(identifier, whole)
    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.resolve())},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    context.add_data_docs_site("assay", site)
    context.build_data_docs(["assay"])
