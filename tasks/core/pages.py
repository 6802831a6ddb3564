"""Pages for a person: HTML out of a template, every value escaped, a name that is missing an error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def environment(package: str) -> Environment:
    """Where the templates beside a package's code are rendered; filters and globals are the caller's to add.

    What several pages share lies here, and is imported by name (``drawing.html.j2``). The filter ``names`` sets
    what a message has between backticks in type of its own.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("tasks.core", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["names"] = _names
    return found


def _names(text: str) -> Markup:
    from markupsafe import Markup, escape

    return Markup(re.sub("`([^`\n]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before
