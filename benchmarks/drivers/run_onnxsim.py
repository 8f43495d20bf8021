"""onnxsim with its defaults: `run_onnxsim.py IN OUT`."""

import sys

import onnx
import onnxsim

source, destination = sys.argv[1:]
model, _ = onnxsim.simplify(onnx.load(source))
onnx.save(model, destination)
