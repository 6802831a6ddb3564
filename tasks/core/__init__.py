"""What the rooms share: settings, errors, manifests, files, logging, and the workloads."""
