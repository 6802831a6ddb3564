"""``config.pbtxt``: how Triton Inference Server is to serve a bundled model, with a warm-up."""

from __future__ import annotations

import json
from pathlib import Path

from deploy.signature import Signature
from deploy.variants import Variant
from tasks.core import files
from tasks.export.texts import render

_TYPES = {"BYTES": "TYPE_STRING"}
_BATCH = 64
_WARM_UP = (1, _BATCH)


def write(out: Path, name: str, variant: Variant) -> None:
    """Write the configuration of a variant into its folder.

    Args:
        out: the bundle's folder.
        name: of the model: the folder in Triton's model repository.
        variant: whose folder in ``out`` holds ``signature.json``.
    """
    folder = out / variant.folder
    signature = Signature.read(folder / "signature.json")
    tensors = (*signature.inputs, *signature.outputs)
    text = render(
        "config.pbtxt.j2",
        {"quoted": _quoted},
        name=name,
        batch=_BATCH,
        warm_up=_WARM_UP,
        signature=signature,
        types={t.datatype: _TYPES.get(t.datatype, f"TYPE_{t.datatype}") for t in tensors},
        device=variant.device,
        threads=variant.threads,
    )
    files.write_text(folder / "config.pbtxt", text)


def _quoted(text: object) -> str:
    """A string in protobuf's text format: its escapes are those of JSON, with letters as they are."""
    return json.dumps(str(text), ensure_ascii=False)
