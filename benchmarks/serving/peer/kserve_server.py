"""KServe's SDK, on its v2 route."""

from __future__ import annotations

import logging
import os
from typing import Any

import model
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Served(Model):
    """Predicts in the event loop, as its async models do."""

    def __init__(self) -> None:
        super().__init__("m")
        self.session = model.session()
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.ready = True

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        tensors = {i.name: model.np.array(i.data, model.DTYPES[i.datatype]).reshape(i.shape) for i in payload.inputs}
        made = []
        for name, array in zip(self.outputs, self.session.run(self.outputs, tensors), strict=True):
            kind = next(kind for kind, dtype in model.DTYPES.items() if array.dtype == dtype)
            output = InferOutput(name, list(array.shape), kind)
            output.set_data_from_numpy(array, binary_data=False)
            made.append(output)
        return InferResponse(payload.id or "none", "m", made)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    ModelServer(http_port=int(os.environ["PORT"]), workers=1, enable_grpc=False, access_log_format=None).start([Served()])
