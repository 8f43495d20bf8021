"""Regions prepared for execution and merged, so that one session serves hundreds of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from .bound import SMALLEST_NORMAL, UNIT_ROUNDOFF, Lines, coarsest, lines
from .companion import SUFFIX, add_companion
from .emulation import emulate
from .inference import infer_types
from .kernels import Execution, Runtime, gravest, weakest
from .precision import recast
from .protos import FLOATS, prefix_names, weight_bytes
from .region_inputs import RegionInputs, RegionTrial
from .verdicts import Array, Region


@dataclass(frozen=True, slots=True)
class Item:
    """A region ready to run.

    Args:
        index: its place in the caller's order; also the prefix of its names in a merged model.
        before: the executable original with companions; `after` likewise.
        elem: the coarsest floating type that it runs in.
        lines: the PASS and FAIL lines.
        execution: "native", or what ran instead of the stored types.
        weight: bytes of its weights, roughly.
        length: the reduction length K.
        kernels: what computed its operators.
        emulated: operators that were emulated, with the number of nodes.
    """

    index: int
    region: Region
    inputs: RegionInputs
    before: onnx.ModelProto
    after: onnx.ModelProto
    elem: int
    lines: Lines
    execution: str
    weight: int
    length: int = 1
    kernels: Execution = Execution.NATIVE
    emulated: Mapping[str, int] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """How it was executed, for the report."""
        if self.kernels is Execution.NATIVE:
            return self.execution
        return self.kernels.value if self.execution == "native" else f"{self.execution}, {self.kernels.value}"

    @property
    def prefix(self) -> str:
        """What its names begin with in a merged model."""
        return f"r{self.index}{'w' if self.execution.startswith('widened') else ''}."

    @property
    def key(self) -> tuple[object, ...]:
        """Items with equal keys may share a session."""
        sides = [(side.ir_version, _opsets(side)) for side in (self.before, self.after)]
        alone = self.index if self.before.functions or self.after.functions else -1
        return (*sides, self.execution, self.inputs.plan(1), alone)


def _opsets(model: onnx.ModelProto) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((entry.domain, entry.version) for entry in model.opset_import))


def prepare(
    index: int, region: Region, inputs: RegionInputs, runtime: Runtime | None = None, *, widen: bool = False
) -> Item:
    """Add companions to both sides of `region`, and swap what has no kernel on `runtime`.

    bfloat16 and float64 have no Conv kernel on this runtime; such a region runs in float32, with its stored
    constants widened exactly or, for float64, for the magnitudes only. `widen` does the same for float16: arithmetic
    then rounds so little that what remains is the rounding of the rewritten constants.

    Raises:
        NoCompanionError: an operator without a rounding bound.
    """
    shapes = inputs.shapes[0]
    types = [infer_types(side, shapes) for side in (region.before, region.after)]
    floats = {found.elem for side in types for found in side.values()}
    elem, double = coarsest(floats), TensorProto.DOUBLE in floats
    widen = not double and (widen or elem == TensorProto.BFLOAT16)
    sources = {TensorProto.BFLOAT16, TensorProto.DOUBLE, *({TensorProto.FLOAT16} if widen else ())}
    before, after = (recast(side, TensorProto.FLOAT, sources) for side in (region.before, region.after))
    if sources & floats:
        types = [infer_types(side, shapes) for side in (before, after)]
    if inputs.small:
        for side in (before, after):
            _free_space(side.graph)
    running = TensorProto.FLOAT if widen else elem
    length, _ = add_companion(before, types[0], _halves(region.before), running)
    other, scalings = add_companion(after, types[1], _halves(region.after), running)
    execution = "numpy-float64" if double else "widened to float32" if widen else "native"
    unit, storage = UNIT_ROUNDOFF[elem], 0.0
    if widen:  # one rounding per scaling constant on the way, and a little for products of roundings
        unit, storage = UNIT_ROUNDOFF[TensorProto.FLOAT], 1.02 * max(1, scalings) * unit
        elem = TensorProto.FLOAT
    limits = lines(
        max(length, other), unit, storage=storage, smallest=SMALLEST_NORMAL[elem], statistics=inputs.norm is not None
    )
    sides = [emulate(side, runtime, known) for side, known in zip((before, after), types, strict=True)]
    return Item(
        index, region, inputs, sides[0].model, sides[1].model, elem, limits, execution, weight_bytes(before),
        max(length, other), weakest(side.execution for side in sides), gravest(*(side.ops for side in sides)),
    )  # fmt: skip


def _free_space(graph: onnx.GraphProto) -> None:
    """Declare spatial dims unknown, so that small trials fit."""
    for info in [*graph.input, *graph.output]:
        for dim in info.type.tensor_type.shape.dim[2:]:
            dim.Clear()


def _halves(model: onnx.ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}


def merge(items: Sequence[Item], side: str) -> onnx.ModelProto:
    """Return one model that holds `side` ("before" or "after") of every item, each under its prefix."""
    first: onnx.ModelProto = getattr(items[0], side)
    merged = onnx.ModelProto(ir_version=first.ir_version, producer_name="normfold")
    merged.opset_import.extend(first.opset_import)
    merged.functions.extend(first.functions)
    merged.graph.name = "regions"
    for item in items:
        part = onnx.GraphProto()
        part.CopyFrom(getattr(item, side).graph)
        prefix_names(part, item.prefix)
        for part_of in ("node", "initializer", "sparse_initializer", "input", "output"):
            getattr(merged.graph, part_of).extend(getattr(part, part_of))
    return merged


def feeds(item: Item, trial: RegionTrial) -> dict[str, Array]:
    """Return the feeds of `trial` for the executable models: values and magnitudes, under the item's prefix."""
    result: dict[str, Array] = {}
    declared = {info.name: info.type.tensor_type.elem_type for info in item.before.graph.input}
    for name, values in trial.feeds.items():
        elem = item.inputs.types[name].elem
        run = values if declared[name] == elem else values.astype(_numpy(declared[name]))
        result[item.prefix + name] = run
        if elem in FLOATS:
            result[item.prefix + name + SUFFIX] = _magnitude(values, elem)
    return result


def _magnitude(values: Array, elem: int) -> Array:
    """|x|, but a nonzero subnormal counts as the smallest normal number: its products round absolutely."""
    with np.errstate(all="ignore"):
        size = np.abs(values.astype(np.float64))
        return np.where(size > 0, np.maximum(size, SMALLEST_NORMAL[elem]), 0.0).astype(np.float32)


def _numpy(elem: int) -> Any:
    return onnx.helper.tensor_dtype_to_np_dtype(elem)


def split(item: Item, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs of `item` out of those of a merged model."""
    return {info.name: outputs[item.prefix + info.name] for info in item.before.graph.output}
