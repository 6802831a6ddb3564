"""The drawings of Assay's own pages as Markdown: Prefect's page has no folder to fetch pictures from.

So each is in its own address (``data:``), with the styles of the page that it was drawn for.
"""

from __future__ import annotations

import base64
import html
import re

_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
_FIGURE = re.compile(
    r'<figure><svg viewBox="0 0 (\d+) (\d+)"[^>]*>(.*?)</svg><figcaption>(.*?)</figcaption></figure>', re.DOTALL
)
_LEAST_WIDTH = 400


def markdown(page: str) -> str:
    """The figures of a page (HTML) with their captions, in order; empty without any."""
    style = "".join(_STYLE.findall(page))
    return "\n\n".join(_shown(style, *found) for found in _FIGURE.findall(page))


def _shown(style: str, width: str, height: str, drawn: str, caption: str) -> str:
    least = max(int(width), _LEAST_WIDTH)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{least}">'
        f"<style><![CDATA[{style} svg {{ background: var(--card); font-family: sans-serif; }}]]></style>{drawn}</svg>"
    )
    address = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
    return f"![drawing]({address})\n\n{html.unescape(caption)}"
