"""Assay's contract tests, run on this package's plug-ins: `pytest` in this folder, once the package is installed."""

from tasks.core.testing import CompressorContract, MetricContract, ModelContract


class TestModel(ModelContract):
    name = "fm"


class TestMetric(MetricContract):
    name = "brier"


class TestCompressor(CompressorContract):
    name = "fp16-weights"
    tolerance = 0.01
