"""A model, a metric and a compressor for Assay."""
