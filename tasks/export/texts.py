"""Texts out of the templates beside this file: Markdown and configuration, where HTML's escapes would be mistakes."""

from __future__ import annotations

from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, filters: dict[str, Callable[[object], str]], **values: object) -> str:
    """Fill in a template; a name that is missing is an error.

    Args:
        template: its file.
        filters: what it may pipe values through: how they are quoted.
        values: by name.
    """
    environment = Environment(
        loader=PackageLoader("tasks.export"),
        autoescape=False,  # noqa: S701 - no HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= filters
    return environment.get_template(template).render(values)
