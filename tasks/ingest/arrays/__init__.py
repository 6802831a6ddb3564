"""Sources of arrays: an ``.npz`` file, idx files, or a folder of class folders with image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import MachineError, UsageError

if TYPE_CHECKING:
    from tasks.core.settings import Ingest
    from tasks.ingest.source import Part


def found(root: Path, own: Ingest, target: str) -> tuple[list[Part], dict[str, Any]] | None:
    """The parts of an array source and where they come from; None if ``ingest.source`` is no such source.

    Raises:
        UsageError: if a file is named that is only half of a source.
        DataRejected: if the arrays are not whole, or do not fit together.
    """
    place = root / own.source
    if place.suffix.lower() == ".npz" and place.is_file():
        return _npz(place, root, own.pattern, target)
    if place.is_dir():
        return _in_folder(place, root, own, target)
    from tasks.ingest.arrays import idx

    if place.is_file() and idx.is_idx(place):
        raise UsageError(
            "idx files come in pairs of images and labels", f"ingest.source names one file, {place}", "name its folder"
        )
    return None


def _npz(place: Path, root: Path, pattern: str | None, target: str) -> tuple[list[Part], dict[str, Any]]:
    from tasks.ingest import locate
    from tasks.ingest.arrays import npz

    locate.refuse_pattern(place, pattern)
    return [npz.part(place, target)], {"kind": "npz", "files": [locate.portable(place, root)]}


def _in_folder(folder: Path, root: Path, own: Ingest, target: str) -> tuple[list[Part], dict[str, Any]] | None:
    from tasks.ingest import locate
    from tasks.ingest.arrays import idx, images

    there = locate.matching(folder, own.pattern) if own.pattern is not None else sorted(folder.iterdir())
    paths = [path for path in there if path.is_file() and idx.is_idx(path)]
    if paths:
        provenance = {"kind": "idx", "files": [locate.portable(path, root) for path in paths]}
        return idx.parts(_idx_sets(paths), target), provenance
    if own.pattern is None and not locate.has_tables(folder) and (image_files := images.files(folder)):
        part = images.part(folder, image_files, target, own.image_size, own.channels)
        return [part], {"kind": "images", "folder": locate.portable(folder, root), "files": len(image_files)}
    return None


def _idx_sets(paths: Sequence[Path]) -> list[Any]:
    from tasks.ingest.arrays import idx

    def array(path: Path) -> Any:
        try:
            return idx.parse(path.read_bytes(), str(path))
        except OSError as error:
            raise MachineError("a source file must be readable", str(error), "allow this user to read it") from error

    return [idx.IdxSet(name, array(images), array(labels)) for name, (images, labels) in idx.pairs(paths).items()]
