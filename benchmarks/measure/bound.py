"""Inputs and outputs that stay on the device, so that a run times the kernels and not the bus."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper

from benchmarks.measure.session import plain
from normfold.model.dtypes import onnx_dtype


@dataclass(frozen=True, eq=False)
class Bound:
    """A session of one input `x` and one output `y`, bound to memory of its device."""

    session: Any
    binding: Any

    @classmethod
    def of(cls, session: Any, x: NDArray[Any], provider: str) -> Bound:
        """Bind `x`, copied to the device once; the output is allocated there by the first run."""
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x, provider, 0))
        binding.bind_output("y", provider, 0)
        return cls(session, binding)

    def seconds(self) -> float:
        """The time of one inference, until its result is there."""
        start = time.perf_counter()
        self.session.run_with_iobinding(self.binding)
        self.binding.synchronize_outputs()
        return time.perf_counter() - start

    def result(self) -> NDArray[Any]:
        """The output of one inference, on the host."""
        self.seconds()
        found: NDArray[Any] = self.binding.copy_outputs_to_cpu()[0]
        return found


def copy_of(x: NDArray[Any], provider: str) -> Bound:
    """A copy of `x` on the device: the least time in which its bytes can be read and written."""
    kind = onnx_dtype(np.dtype(x.dtype))
    ends = [helper.make_tensor_value_info(name, kind, x.shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "copy", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return Bound.of(plain(model.SerializeToString(), provider), x, provider)
