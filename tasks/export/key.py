"""The key that signs bundles: named by the settings or the environment, and never copied anywhere."""

from __future__ import annotations

import os
from pathlib import Path

from deploy.signing import KeySigner
from tasks.core.errors import UsageError
from tasks.core.stage import StageSettings

KEY, PASSWORD = "ASSAY_SIGNING_KEY", "ASSAY_SIGNING_PASSWORD"


def find(settings: StageSettings) -> Path | None:
    """The private key's file, which opens; None if none is named.

    Raises:
        UsageError: if it is no key, or lies where it would be published or kept by DVC.
    """
    named = settings.own.signing_key or os.environ.get(KEY)
    if not named:
        return None
    key = (settings.root / named).resolve()
    for folder in (settings.artifacts, settings.root / settings.base.dist_dir):
        if key.is_relative_to(folder.resolve()):
            raise UsageError(
                "a private key lies apart from what is published",
                f"{key} is below {folder}",
                f"move it, and name it under export.signing_key or in {KEY}",
            )
    KeySigner(key, password())
    return key


def password() -> bytes | None:
    """What opens the key; None if it is not encrypted."""
    return os.environ[PASSWORD].encode() if os.environ.get(PASSWORD) else None
