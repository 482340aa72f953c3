"""What runs a trained generator: PyTorch, a recorded CUDA graph, OpenVINO, ONNX Runtime; images in, image out (models.backends.network)."""
