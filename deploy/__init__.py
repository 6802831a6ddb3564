"""What serves a bundle: numpy and onnxruntime only. The verifier and the exporter score with this very code."""
