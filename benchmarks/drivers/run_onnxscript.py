"""onnxscript's optimizer, then its rewriter with the default rules: `run_onnxscript.py IN OUT`."""

import sys

from onnxscript import ir, optimizer, rewriter

source, destination = sys.argv[1:]
model = ir.load(source)
optimizer.optimize(model)
ir.save(rewriter.rewrite(model), destination)
