"""A request that gets a status instead of an answer."""

from __future__ import annotations

from typing import Any

_LONGEST = 300


class Refusal(Exception):
    """The rule that a request broke, with the HTTP status that says so. It ends a request, never the process.

    Args:
        status: of the response.
        rule: what was expected.
        found: what came instead; clipped, since clients choose its length.
        way_out: what the client can do.
        headers: of the response, for example ``Retry-After``.
    """

    def __init__(self, status: int, rule: str, found: str, way_out: str, headers: dict[str, str] | None = None) -> None:
        found = found if len(found) <= _LONGEST else found[:_LONGEST] + "..."
        super().__init__(status, rule, found, way_out)
        self.status, self.rule, self.found, self.way_out = status, rule, found, way_out
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The protocol's error object, with its parts beside the sentence."""
        sentence = f"{self.rule}; found: {self.found}; {self.way_out}"
        return {"error": sentence, "expected": self.rule, "found": self.found, "way_out": self.way_out}


def bad_request(rule: str, found: str, way_out: str = "correct the request") -> Refusal:
    """400."""
    return Refusal(400, rule, found, way_out)


def too_large(rule: str, found: str, way_out: str) -> Refusal:
    """413."""
    return Refusal(413, rule, found, way_out)


def busy(limit: int) -> Refusal:
    """429: more requests at once than allowed."""
    rule = f"at most {limit} requests are answered at once"
    return Refusal(429, rule, "one more", "try again later", {"Retry-After": "1"})


def late(seconds: float) -> Refusal:
    """503: the answer took too long, and its computation was ended."""
    rule = f"an answer takes at most {seconds:g} s"
    return Refusal(503, rule, "more", "send fewer rows, or try again later", {"Retry-After": "1"})
