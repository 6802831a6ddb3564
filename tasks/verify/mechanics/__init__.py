"""Whether a file answers by its rows alone: however it is called, and whatever the rows hold."""

from __future__ import annotations

from tasks.core.measured import Measured
from tasks.verify.case import Case


def measure(case: Case) -> list[Measured]:
    """All checks of kind ``mechanics`` that need answers; about ten processes are started.

    Raises:
        MachineError: if the device or the disk refuses.
        IntegrityError: if the exported file has no readable ``signature.json``.
    """
    from tasks.verify.mechanics import odd_rows, repeats, saturation

    return [
        *repeats.float_file(case),
        *repeats.repeated(case),
        *odd_rows.measure(case),
        *saturation.measure(case),
    ]
