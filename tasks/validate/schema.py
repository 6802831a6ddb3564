"""`python -m tasks.validate.schema` prints the JSON Schema of a suite, kept in ``suite.schema.json``."""

from __future__ import annotations

import json

from tasks.validate.suite import schema

if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))
