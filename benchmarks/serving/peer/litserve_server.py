"""LitServe."""

from __future__ import annotations

import os
from typing import Any

import litserve
import model
import numpy as np


class Api(litserve.LitAPI):
    """Decode, predict, encode."""

    def setup(self, device: str) -> None:
        self.session = model.session()
        self.names = [output.name for output in self.session.get_outputs()]

    def decode_request(self, request) -> dict[str, np.ndarray]:
        return model.arrays(request["inputs"])

    def predict(self, tensors: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self.session.run(self.names, tensors)

    def encode_response(self, outputs: list[np.ndarray]) -> dict[str, Any]:
        return {"outputs": [{"name": n, "data": a.ravel().tolist()} for n, a in zip(self.names, outputs, strict=True)]}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), log_level="error", generate_client_file=False,
               access_log=False, num_api_servers=1)  # fmt: skip
