"""Serves a bundle over HTTP in the Open Inference Protocol v2: ``python -m deploy.server --help``.

A request takes this way: :mod:`door` (token, limits) -> :mod:`requests` (JSON and binary into tensors) ->
:mod:`version` (one loaded bundle answers) -> :mod:`responses`. Beside it: :mod:`lineup` (which versions are loaded, and
the change to a new one), :mod:`drift` and :mod:`predictions` (what is kept of requests and answers, in bins),
:mod:`pages` (health, metadata, metrics: FastAPI), :mod:`process` (start, ready, drain, stop).
"""
