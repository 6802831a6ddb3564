"""Gate `stage`: a bundle goes to production only from staging."""

from __future__ import annotations

from tasks.promote.moves import State
from tasks.promote.words import Said


def ask(state: State, stage: str, version: str, digest: str) -> Said:
    """Whether the bundle may go to a stage now.

    Args:
        state: of the model in the store.
        stage: where it is to go.
        version: of the bundle.
        digest: SHA-256 of its manifest.
    """
    if stage == "staging":
        return Said("PASS", "every bundle may go to staging")
    serves = state.serves("staging")
    if serves is not None and (serves.version, serves.digest) == (version, digest):
        return Said("PASS", f"{version} serves at staging since {serves.when}")
    found = f"{serves.version} does" if serves else "nothing does"
    return Said("FAIL", f"{version} must serve at staging first; {found}")
