"""What computes the image embeddings of an encoder: PyTorch, ONNX Runtime or OpenVINO."""
