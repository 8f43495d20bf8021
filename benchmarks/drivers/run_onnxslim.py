"""onnxslim with its defaults: `run_onnxslim.py IN OUT`."""

import sys

import onnxslim

source, destination = sys.argv[1:]
onnxslim.slim(source, destination)
