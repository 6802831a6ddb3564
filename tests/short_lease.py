"""`python -m prefect.engine`, which renews its lease every three seconds: Prefect's own 225 are written in its code."""

import runpy

from prefect.concurrency import _leases

_leases._RENEWAL_FRACTION = 0.01
runpy.run_module("prefect.engine", run_name="__main__")
