"""Schemathesis against the server, by the server's own OpenAPI document: no 5xx.

    python benchmarks/serving/fuzz.py BUNDLE [--requests 20000] [--seed 1]

Runs the `schemathesis` command in rounds with rising seeds until the server has counted so many requests, with data
that fits the document and data that does not; ends with 1 if a check failed or a response was 5xx.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from pathlib import Path

from served import assay

PORT = 18090
#: A refusal that the document names is right for anything odd, and 5xx never is; the server must survive all of it.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def main() -> int:
    """Print the number of requests by status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=50, help="of an operation in a round")
    options = parser.parse_args()
    url, failed, seed = f"http://127.0.0.1:{PORT}", False, options.seed
    log = Path(tempfile.mkdtemp(prefix="serving-"), "assay.log")
    with assay(options.bundle, PORT, None, log, "--access-log"):
        while sum(statuses(log).values()) < options.requests:
            command = [
                str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json", "--seed", str(seed),
                "--max-examples", str(options.examples), "--mode", "all", "--checks", CHECKS, "--phases",
                "examples,coverage,fuzzing", "--continue-on-failure", "--no-color",
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=log.parent)
            if done.returncode:
                failed = True
                print(done.stdout[-6000:], done.stderr[-2000:])
                break
            seed += 1
            print(f"round {seed - options.seed}: {sum(statuses(log).values())} requests", flush=True)
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5) as response:
            alive = response.status == 200
    counted = statuses(log)
    wrong = sum(number for code, number in counted.items() if code >= 500 and code != 503)
    print(f"{sum(counted.values())} predictions asked for, by status: {dict(sorted(counted.items()))}")
    errors = len(re.findall("request_failed", log.read_text()))
    print(f"5xx: {wrong}; alive afterwards: {alive}; errors in the log: {errors}")
    return int(failed or wrong > 0 or not alive)


def statuses(log: Path) -> Counter[int]:
    """Requests by status, of the access log."""
    lines = (json.loads(line) for line in log.read_text().splitlines() if '"event":"request"' in line)
    return Counter(line["code"] for line in lines)


if __name__ == "__main__":
    sys.exit(main())
