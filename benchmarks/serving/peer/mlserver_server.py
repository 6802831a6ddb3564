"""MLServer: `mlserver start FOLDER`, whose model-settings.json names this runtime."""

from __future__ import annotations

import model
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    """A custom runtime."""

    async def load(self) -> bool:
        self.session = model.session()
        self.outputs = [output.name for output in self.session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensors = {
            i.name: model.np.array(i.data.root, model.DTYPES[i.datatype]).reshape(i.shape) for i in payload.inputs
        }
        made = [
            (StringCodec if array.dtype == object else NumpyCodec).encode_output(name, array)
            for name, array in zip(self.outputs, self.session.run(self.outputs, tensors), strict=True)
        ]
        return InferenceResponse(model_name=self.name, outputs=made)
