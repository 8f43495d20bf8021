"""onnxoptimizer with every fusing and eliminating pass: `run_onnxoptimizer.py IN OUT`."""

import sys

import onnx
import onnxoptimizer

source, destination = sys.argv[1:]
passes = onnxoptimizer.get_fuse_and_elimination_passes()
onnx.save(onnxoptimizer.optimize(onnx.load(source), passes), destination)
