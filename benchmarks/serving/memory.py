"""The server's memory over many requests: flat.

    python benchmarks/serving/memory.py BUNDLE [--requests 1000000] [--core N]

Samples the resident set as requests go on, JSON and binary in turn, good and bad, and prints it at every twentieth of
the way; ends with 1 if the last quarter's median is more than 2 % above that of the second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import client
import psutil
from served import assay, one_row

PORT = 18092
_PARTS = 20


def main() -> int:
    """Print MiB after each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--core", type=int, help="of the server")
    options = parser.parse_args()
    url = f"http://127.0.0.1:{PORT}/v2/models/{options.bundle.parent.name}/infer"
    body = json.dumps(one_row(options.bundle)).encode()
    binary = json.dumps(one_row(options.bundle) | {"parameters": {"binary_data_output": True}}).encode()
    kinds = [client.request(url, body), client.request(url, binary), client.request(url, body[:-20])]
    log = Path(tempfile.mkdtemp(prefix="serving-"), "assay.log")
    sizes, answered, refused = [], 0, 0
    with assay(options.bundle, PORT, options.core, log) as pid:
        for _ in range(_PARTS):
            for sent, share in zip(kinds, (0.6, 0.35, 0.05), strict=True):
                outcome = client.run(url, sent, options.concurrency, most=options.requests * share / _PARTS)
                answered, refused = answered + len(outcome.seconds), refused + outcome.failed
            sizes.append(psutil.Process(pid).memory_info().rss / 2**20)
            print(
                f"{answered + refused:>9} requests, {answered} answered, {refused} refused: {sizes[-1]:.1f} MiB",
                flush=True,
            )
    second, last = sizes[_PARTS // 4 : _PARTS // 2], sizes[-_PARTS // 4 :]
    growth = statistics.median(last) / statistics.median(second) - 1
    print(f"second quarter to last: {growth:+.2%}")
    return int(growth > 0.02)


if __name__ == "__main__":
    sys.exit(main())
