"""normfold makes the normalisation layers of an exported ONNX model cost nothing, and proves that nothing else changed."""
