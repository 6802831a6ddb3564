"""BentoML: `bentoml serve bentoml_server:Model`."""

from __future__ import annotations

from typing import Any

import bentoml
import model


@bentoml.service(workers=1, traffic={"max_concurrency": 1000}, logging={"access": {"enabled": False}})
class Model:
    """One method, which takes the request's inputs."""

    def __init__(self) -> None:
        self.session = model.session()
        self.names = [output.name for output in self.session.get_outputs()]

    @bentoml.api
    async def infer(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        outputs = self.session.run(self.names, model.arrays(inputs))
        return {"outputs": [{"name": n, "data": a.ravel().tolist()} for n, a in zip(self.names, outputs, strict=True)]}
