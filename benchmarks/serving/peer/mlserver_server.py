"""MLServer: `mlserver start FOLDER`, whose model-settings.json names this runtime."""

from __future__ import annotations

import model
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Runtime(MLModel):
    """A custom runtime."""

    async def load(self) -> bool:
        self.session = model.session()
        self.names = [output.name for output in self.session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensors = {
            i.name: model.np.array(i.data.root, model.DTYPES[i.datatype]).reshape(i.shape) for i in payload.inputs
        }
        made = [
            texts(name, array) if array.dtype == object else NumpyCodec.encode_output(name, array)
            for name, array in zip(self.names, self.session.run(self.names, tensors), strict=True)
        ]
        return InferenceResponse(model_name=self.name, outputs=made)


def texts(name: str, array: model.np.ndarray) -> ResponseOutput:
    """Texts of any shape; MLServer's own codec knows lists of them only."""
    return ResponseOutput(name=name, shape=list(array.shape), datatype="BYTES", data=array.ravel().tolist())
