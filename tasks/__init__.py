"""The rooms of the pipeline: pure domain, files in, files out. No Prefect, no DVC."""
