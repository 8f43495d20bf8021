"""onnxruntime's offline optimisation: `run_ort.py basic|extended IN OUT`."""

import sys

import onnxruntime as ort

LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}

level, source, destination = sys.argv[1:]
options = ort.SessionOptions()
options.log_severity_level = 4
options.graph_optimization_level = LEVELS[level]
options.optimized_model_filepath = destination
ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
