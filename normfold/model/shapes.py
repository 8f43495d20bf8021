"""Shapes and element types, derived from graph inputs, weights and operators; asked for one value at a time.

A declared `value_info` may be stale, so nothing is taken from it: a dimension that is not proven is None. A dimension
is an int, a symbolic name (two equal names are the same number), or None. No native code runs here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnx import TypeProto

from normfold.model import attributes
from normfold.model.constants import Constants, shape_part, slice_bounds, slice_index
from normfold.model.graph import Node, Value

Dim = int | str | None
Dims = tuple[Dim, ...]

# Real shape arithmetic (Shape, Gather, Unsqueeze, Concat) is shallow; the bound keeps a made-up one off the stack.
_DATA_DEPTH = 32

_INT64 = 7
_BOOL = 9


class Shapes:
    """Answers `dims(value)` and `data_type(value)`; remembers every answer."""

    def __init__(self, constants: Constants) -> None:
        self.constants = constants
        constants.type_of = constants.type_of or self.data_type
        self._dims: dict[int, Dims | None] = {}
        self._types: dict[int, int | None] = {}
        self._data: dict[int, list[Dim] | None] = {}
        self._data_depth = 0

    def rank(self, value: Value) -> int | None:
        """Number of dimensions, None if unknown."""
        dims = self.dims(value)
        return None if dims is None else len(dims)

    def dims(self, value: Value) -> Dims | None:
        """The dimensions of a value, None if even the rank is unknown."""
        pending = [value]
        while pending:
            current = pending[-1]
            if id(current) in self._dims:
                pending.pop()
                continue
            missing = [v for v in self._needed(current) if id(v) not in self._dims]
            if missing:
                pending.extend(missing)
                continue
            self._dims[id(current)] = self._infer(current)
            pending.pop()
        return self._dims[id(value)]

    def known(self, value: Value | None) -> Dims | None:
        """The dimensions already derived (for use inside the rules)."""
        return None if value is None else self._dims.get(id(value))

    def _needed(self, value: Value) -> list[Value]:
        node = value.producer
        if value.tensor is not None or node is None or node.domain or node.op_type not in _RULES:
            return []
        reach = 16 if node.op_type in _ALL_INPUTS else 1
        needed = [operand for operand in node.inputs[:reach] if operand is not None]
        if node.op_type in _SHAPE_INPUT and node.input(_SHAPE_INPUT[node.op_type]) is not None:
            needed += self._shape_sources(node.inputs[_SHAPE_INPUT[node.op_type]])
        return needed

    def _shape_sources(self, value: Value | None) -> list[Value]:
        """The tensors whose Shape a shape computation asks for."""
        found: list[Value] = []
        pending = [value]
        seen: set[int] = set()
        while pending and len(seen) < 64:
            current = pending.pop()
            node = current.producer if current is not None else None
            if current is None or node is None or id(current) in seen:
                continue
            seen.add(id(current))
            if node.op_type == "Shape" and not node.domain:
                found += [operand for operand in node.inputs[:1] if operand is not None]
            elif node.op_type in _DATA_RULES and not node.domain:
                pending.extend(node.inputs)
        return found

    def _infer(self, value: Value) -> Dims | None:
        if value.tensor is not None and not value.exposed:
            return value.tensor.dims
        if value.producer is None:
            return declared_dims(value.type)
        source = self.constants.get(value)
        if source is not None:
            return source.dims
        node = value.producer
        rule = None if node.domain or attributes.is_bound_by_caller(node) else _RULES.get(node.op_type)
        if rule is None:
            return None
        try:
            return rule(self, node, value.output_slot)
        except (ValueError, IndexError, TypeError, ZeroDivisionError):
            return None

    def data(self, value: Value | None) -> list[Dim] | None:
        """The elements of a small integer tensor as far as they are known: shapes computed from shapes."""
        if value is None:
            return None
        numbers = self.constants.ints(value)
        if numbers is not None:
            return list(numbers)
        if id(value) in self._data:
            return self._data[id(value)]
        node = value.producer
        rule = None if node is None or node.domain else _DATA_RULES.get(node.op_type)
        if rule is None or node is None or self._data_depth > _DATA_DEPTH or attributes.is_bound_by_caller(node):
            return None
        self._data_depth += 1
        try:
            result = self._data[id(value)] = rule(self, node)
        finally:
            self._data_depth -= 1
        return result

    def data_type(self, value: Value) -> int | None:
        """The ONNX element type of a value, None if unknown."""
        path: list[Value] = []
        current: Value | None = value
        found: int | None = None
        while current is not None:
            if id(current) in self._types:
                found = self._types[id(current)]
                break
            path.append(current)
            found, current = self._type_step(current)
        for item in path:
            self._types[id(item)] = found
        return found

    def _type_step(self, value: Value) -> tuple[int | None, Value | None]:
        if value.tensor is not None:
            return value.tensor.data_type, None
        node = value.producer
        if node is None:
            return declared_type(value.type), None
        if node.domain:
            return None, None
        if node.op_type == "Cast":
            known = not attributes.unexpected(node, ("to", "saturate"))
            return (int(attributes.get(node, "to", 0)) or None if known else None), None
        if node.op_type in _FIXED_TYPE:
            return _FIXED_TYPE[node.op_type], None
        if node.op_type in ("Constant", "ConstantOfShape"):
            source = self.constants.get(value)
            return (None if source is None else source.data_type), None
        if value.output_slot and node.op_type not in _SAME_TYPE_OUTPUTS:
            return None, None
        return (None, node.input(_TYPE_INPUT.get(node.op_type, 0))) if node.op_type in _RULES else (None, None)


def declared_dims(kind: TypeProto | None) -> Dims | None:
    """The dimensions that a graph input declares; runtimes enforce them."""
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    return tuple(
        int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value >= 0 else (dim.dim_param or None)
        for dim in kind.tensor_type.shape.dim
    )


def declared_type(kind: TypeProto | None) -> int | None:
    """The element type that a graph input declares."""
    if kind is None or not kind.HasField("tensor_type"):
        return None
    return int(kind.tensor_type.elem_type) or None


def broadcast(shapes: Sequence[Dims | None]) -> Dims | None:
    """The shape of an elementwise operator; a dimension that cannot be decided is None."""
    known = [dims for dims in shapes if dims is not None]
    if len(known) != len(shapes) or not known:
        return None
    rank = max(len(dims) for dims in known)
    padded = [(1,) * (rank - len(dims)) + dims for dims in known]
    return tuple(_broadcast_dim(column) for column in zip(*padded, strict=True))


def _broadcast_dim(column: Sequence[Dim]) -> Dim:
    numbers = {dim for dim in column if isinstance(dim, int) and dim != 1}
    if numbers:
        return numbers.pop() if len(numbers) == 1 else None
    symbols = {dim for dim in column if dim != 1}
    if not symbols:
        return 1
    return symbols.pop() if len(symbols) == 1 else None


# --- rules -----------------------------------------------------------------------------------------------------------


def _same(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return shapes.known(node.input(0)) if slot == 0 else None


def _same_all(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return shapes.known(node.input(0))


def _batch_norm(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    """As the data, with as many channels as there are scales: a fold may leave an Add of that many values here."""
    data, scale = shapes.known(node.input(0)), shapes.known(node.input(1))
    if slot or data is None or scale is None or len(data) < 2 or len(scale) != 1 or isinstance(data[1], int):
        return None if slot else data
    return (data[0], scale[0], *data[2:])


def _elementwise(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    if node.attributes.get("broadcast") is not None or node.attributes.get("axis") is not None:
        return shapes.known(node.input(0))  # before opset 7 the second operand is stretched to the first
    return broadcast([shapes.known(operand) for operand in node.inputs])


def _channels_first(shapes: Shapes, node: Node, channels: Dim, spatial: list[Dim]) -> Dims | None:
    data = shapes.known(node.input(0))
    return None if data is None else (data[0], channels, *spatial)


def window(size: Dim, kernel: int, stride: int, dilation: int, pads: int, ceil: bool) -> Dim:
    """Output length of a sliding window; `pads` is the sum of both sides."""
    if not isinstance(size, int):
        return None
    span = size + pads - ((kernel - 1) * dilation + 1)
    return (-(-span // stride) if ceil else span // stride) + 1


def _windows(node: Node, spatial: Sequence[Dim], kernel: Sequence[int]) -> list[Dim]:
    count = len(spatial)
    strides = attributes.ints(node, "strides") or [1] * count
    dilations = attributes.ints(node, "dilations") or [1] * count
    pads = attributes.ints(node, "pads") or [0] * (2 * count)
    mode = attributes.get(node, "auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        return [-(-size // strides[i]) if isinstance(size, int) else None for i, size in enumerate(spatial)]
    if mode == "VALID":
        pads = [0] * (2 * count)
    ceil = bool(attributes.get(node, "ceil_mode", 0))
    if ceil:
        return [None] * count  # runtimes differ on the last partial window
    return [
        window(s, kernel[i], strides[i], dilations[i], pads[i] + pads[i + count], ceil) for i, s in enumerate(spatial)
    ]


def _conv(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    weight = shapes.known(node.input(1))
    data = shapes.known(node.input(0))
    if weight is None:
        return None
    if data is None:
        return (None, weight[0], *([None] * (len(weight) - 2)))
    kernel = weight[2:]
    if not all(isinstance(k, int) for k in kernel):
        return (data[0], weight[0], *([None] * (len(weight) - 2)))
    return (data[0], weight[0], *_windows(node, data[2:], [k for k in kernel if isinstance(k, int)]))


def _conv_transpose(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    weight = shapes.known(node.input(1))
    data = shapes.known(node.input(0))
    if weight is None or not isinstance(weight[1], int):
        return None
    channels = weight[1] * int(attributes.get(node, "group", 1))
    return (None if data is None else data[0], channels, *_stretched(node, data, weight))


def _stretched(node: Node, data: Dims | None, weight: Dims) -> list[Dim]:
    """Spatial sizes behind ConvTranspose: (size - 1)·stride + output_padding + (kernel - 1)·dilation + 1 - pads."""
    count = len(weight) - 2
    wanted = attributes.ints(node, "output_shape")
    if wanted is not None:
        return list(wanted[-count:])
    if attributes.get(node, "auto_pad", "NOTSET") != "NOTSET" or data is None:
        return [None] * count
    strides = attributes.ints(node, "strides") or [1] * count
    dilations = attributes.ints(node, "dilations") or [1] * count
    extra = attributes.ints(node, "output_padding") or [0] * count
    pads = attributes.ints(node, "pads") or [0] * (2 * count)
    sizes: list[Dim] = []
    for i, (size, kernel) in enumerate(zip(data[2:], weight[2:], strict=True)):
        if isinstance(size, int) and isinstance(kernel, int):
            sizes.append(
                (size - 1) * strides[i] + extra[i] + (kernel - 1) * dilations[i] + 1 - pads[i] - pads[i + count]
            )
        else:
            sizes.append(None)
    return sizes


def _pool(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    kernel = attributes.ints(node, "kernel_shape")
    if data is None or kernel is None:
        return None
    dilated = any(step != 1 for step in attributes.ints(node, "dilations") or ())
    if dilated and attributes.get(node, "auto_pad", "NOTSET").startswith("SAME"):
        return (*data[:2], *([None] * len(kernel)))  # runtimes forget the dilation when they compute the padding
    return (*data[:2], *_windows(node, data[2:], kernel))


def _global_pool(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    return None if data is None else (*data[:2], *([1] * (len(data) - 2)))


def _matmul(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    a, b = shapes.known(node.input(0)), shapes.known(node.input(1))
    if a is None or b is None or not a or not b:
        return None
    batch = broadcast([a[:-2], b[:-2]])
    rows = a[-2:-1] if len(a) > 1 else ()
    columns = b[-1:] if len(b) > 1 else ()
    return None if batch is None else (*batch, *rows, *columns)


def _gemm(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    a, b = shapes.known(node.input(0)), shapes.known(node.input(1))
    rows = a[1 if attributes.get(node, "transA", 0) else 0] if a is not None and len(a) == 2 else None
    columns = b[0 if attributes.get(node, "transB", 0) else 1] if b is not None and len(b) == 2 else None
    return (rows, columns)


def _transpose(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None:
        return None
    perm = attributes.ints(node, "perm") or list(range(len(data)))[::-1]
    return tuple(data[axis] for axis in perm)


def _reshape(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    wanted = attributes.ints(node, "shape") if len(node.inputs) < 2 else shapes.data(node.input(1))
    data = shapes.known(node.input(0))
    if wanted is None:
        return None
    if not attributes.get(node, "allowzero", 0):
        wanted = [
            (data[i] if data is not None and i < len(data) else None) if size == 0 else size
            for i, size in enumerate(wanted)
        ]
    return tuple(_inferred(list(wanted), data))


def _inferred(wanted: list[Dim], data: Dims | None) -> list[Dim]:
    """Replace the one -1 where the other dimensions decide it."""
    if -1 not in wanted:
        return wanted
    at = wanted.index(-1)
    wanted[at] = None
    if data is None:
        return wanted
    left = list(data)
    for size in [item for i, item in enumerate(wanted) if i != at]:
        if size in left and size is not None:
            left.remove(size)  # the same factor on both sides, number or symbol
        else:
            left.append(-size if isinstance(size, int) else None)
    if len(left) == 1 and isinstance(left[0], str):
        wanted[at] = left[0]
    elif all(isinstance(item, int) for item in left):
        above = math.prod(item for item in left if isinstance(item, int) and item >= 0)
        below = math.prod(-item for item in left if isinstance(item, int) and item < 0)
        wanted[at] = above // below if below and above % below == 0 else None
    return wanted


def _flatten(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None:
        return (None, None)
    axis = int(attributes.get(node, "axis", 1))
    axis += len(data) if axis < 0 else 0
    return (_product(data[:axis]), _product(data[axis:]))


def _product(dims: Dims) -> Dim:
    if len(dims) == 1:
        return dims[0]
    return math.prod(d for d in dims if isinstance(d, int)) if all(isinstance(d, int) for d in dims) else None


def node_axes(shapes: Shapes, node: Node, slot: int = 1) -> list[int] | None:
    """Axes as an input (newer opsets) or an attribute; None if absent or unknown."""
    if node.input(slot) is not None:
        return shapes.constants.ints(node.input(slot))
    return attributes.ints(node, "axes")


def _squeeze(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data, axes = shapes.known(node.input(0)), node_axes(shapes, node)
    if data is None or (
        axes is None and (node.input(1) is not None or None in data or any(isinstance(d, str) for d in data))
    ):
        return None
    gone = {i for i, d in enumerate(data) if d == 1} if axes is None else {a % len(data) for a in axes}
    return tuple(dim for i, dim in enumerate(data) if i not in gone)


def _unsqueeze(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data, axes = shapes.known(node.input(0)), node_axes(shapes, node)
    if data is None or axes is None:
        return None
    rank = len(data) + len(axes)
    new = {a % rank for a in axes}
    rest = iter(data)
    return tuple(1 if i in new else next(rest) for i in range(rank))


def _concat(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    known = [dims for operand in node.inputs if (dims := shapes.known(operand)) is not None]
    if not known:
        return None
    axis = int(attributes.get(node, "axis", 1)) % len(known[0])
    sizes = [dims[axis] for dims in known]
    whole = len(known) == len(node.inputs) and all(isinstance(s, int) for s in sizes)
    result: list[Dim] = [
        next((d for d in column if isinstance(d, int)), column[0]) for column in zip(*known, strict=True)
    ]
    result[axis] = sum(s for s in sizes if isinstance(s, int)) if whole else None
    return tuple(result)


def split_sizes(shapes: Shapes, node: Node, size: Dim) -> list[int] | None:
    """Lengths of the parts of a Split along its axis of length `size`; None if unknown."""
    given = shapes.constants.ints(node.input(1)) if node.input(1) is not None else attributes.ints(node, "split")
    if given is not None or node.input(1) is not None:
        return given
    count = int(attributes.get(node, "num_outputs", len(node.outputs)))
    if not isinstance(size, int) or not count:
        return None
    part = -(-size // count)
    return [min(part, size - part * i) for i in range(count)]


def _split(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None:
        return None
    axis = int(attributes.get(node, "axis", 0)) % len(data)
    sizes = split_sizes(shapes, node, data[axis])
    return (*data[:axis], sizes[slot] if sizes else None, *data[axis + 1 :])


def _slice(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None:
        return None
    try:
        bounds = slice_bounds(node, [shapes.constants.ints(v) for v in node.inputs[1:]])
    except ValueError:
        axes = shapes.constants.ints(node.input(3)) if node.input(3) is not None else None
        touched = set(range(len(data))) if axes is None else {a % len(data) for a in axes}
        return tuple(None if i in touched else d for i, d in enumerate(data))
    index = slice_index(len(data), bounds)
    return tuple(
        len(range(*part.indices(d))) if isinstance(d, int) else (d if part == slice(None) else None)
        for part, d in zip(index, data, strict=True)
    )


def _gather(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data, indices = shapes.known(node.input(0)), shapes.known(node.input(1))
    if data is None or indices is None:
        return None
    axis = int(attributes.get(node, "axis", 0)) % len(data)
    return (*data[:axis], *indices, *data[axis + 1 :])


def _pad(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None:
        return None
    amounts = pad_amounts(shapes, node, len(data))
    if amounts is None:
        return (None,) * len(data)
    return tuple(
        d + before + after if isinstance(d, int) else (d if before == after == 0 else None)
        for d, (before, after) in zip(data, amounts, strict=True)
    )


def pad_amounts(shapes: Shapes, node: Node, rank: int) -> list[tuple[int, int]] | None:
    """(before, after) of a Pad for every axis of the data; None if unknown."""
    pads = (
        shapes.constants.ints(node.input(1))
        if len(node.inputs) > 1
        else attributes.ints(node, "pads") or attributes.ints(node, "paddings")
    )
    if pads is None:
        return None
    axes = list(range(rank))
    if node.input(3) is not None:
        given = shapes.constants.ints(node.input(3))
        if given is None:
            return None
        axes = [axis % rank for axis in given]
    half = len(axes)
    if len(pads) != 2 * half:
        return None
    result = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        result[axis] = (pads[i], pads[i + half])
    return result


def _resize(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None:
        return None
    wanted = resize_sizes(shapes, node, data)
    return tuple(wanted) if wanted is not None else (None,) * len(data)


def resize_sizes(shapes: Shapes, node: Node, data: Dims) -> list[Dim] | None:
    """Output dimensions of Resize or Upsample as far as they are known; None if nothing is."""
    rank = len(data)
    axes = [a % rank for a in attributes.ints(node, "axes") or range(rank)]
    if node.op_type == "Resize" and node.input(3) is not None:
        sizes = shapes.data(node.input(3))
        if (
            sizes is None
            or len(sizes) != len(axes)
            or attributes.get(node, "keep_aspect_ratio_policy", "stretch") != "stretch"
        ):
            return None
        return _on_axes(data, axes, list(sizes))
    scales = resize_scales(shapes, node)
    if scales is None or len(scales) != len(axes):
        return None
    return _on_axes(data, axes, [_scaled(data[a], scale) for a, scale in zip(axes, scales, strict=True)])


def resize_scales(shapes: Shapes, node: Node) -> list[float] | None:
    """The factors of Resize or Upsample, one for each of its axes; None if unknown or if it is told sizes instead."""
    listed = attributes.get(node, "scales", None)
    if listed is not None:
        return [float(item) for item in listed]
    slot = 2 if node.op_type == "Resize" and node.scope.version >= 11 else 1
    array = shapes.constants.array(node.input(slot))
    return None if array is None or not array.size else [float(item) for item in array.reshape(-1)]


def _scaled(dim: Dim, scale: float) -> Dim:
    if scale == 1.0:
        return dim
    return math.floor(dim * scale) if isinstance(dim, int) else None


def _on_axes(data: Dims, axes: list[int], values: list[Dim]) -> list[Dim]:
    result = list(data)
    for axis, item in zip(axes, values, strict=True):
        result[axis] = item
    return result


def _reduce(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None:
        return None
    axes = reduce_axes(shapes, node, len(data))
    keep = bool(attributes.get(node, "keepdims", 1))
    if axes is None:
        return (None,) * len(data) if keep else None
    return tuple(1 if i in axes else d for i, d in enumerate(data) if keep or i not in axes)


def reduce_axes(shapes: Shapes, node: Node, rank: int) -> set[int] | None:
    """The axes that a Reduce operator removes; None if unknown."""
    if node.input(1) is not None:
        given = shapes.constants.ints(node.input(1))
        if given is None:
            return None
    else:
        given = attributes.ints(node, "axes")
    if not given:
        return set() if attributes.get(node, "noop_with_empty_axes", 0) else set(range(rank))
    return {axis % rank for axis in given}


def _depth_to_space(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    block = int(attributes.get(node, "blocksize", 1))
    if data is None or len(data) != 4:
        return None
    down = node.op_type == "DepthToSpace"
    channels = (data[1] // block**2 if down else data[1] * block**2) if isinstance(data[1], int) else None
    return (data[0], channels, *((d * block if down else d // block) if isinstance(d, int) else None for d in data[2:]))


def _expand(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    wanted = shapes.data(node.input(1))
    return None if wanted is None else broadcast([shapes.known(node.input(0)), tuple(wanted)])


def _shape_of(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None or attributes.unexpected(node, ("start", "end")):
        return (None,)
    return (len(data[shape_part(node)]),)


def _recurrent(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data, weight = shapes.known(node.input(0)), shapes.known(node.input(1))
    hidden = attributes.get(node, "hidden_size", None)
    if data is None or weight is None or attributes.unexpected(node, _RNN_LAYOUT_FREE) or slot != 0:
        return None
    return (data[0], weight[0], data[1], hidden)


_RNN_LAYOUT_FREE = (
    "hidden_size", "direction", "activations", "activation_alpha", "activation_beta", "clip", "input_forget",
    "linear_before_reset",
)  # fmt: skip

Rule = Callable[[Shapes, Node, int], Dims | None]

_ELEMENTWISE = (
    "Add", "Sub", "Mul", "Div", "Pow", "Sum", "Max", "Min", "Mean", "Where", "Equal", "Less", "Greater", "LessOrEqual",
    "GreaterOrEqual", "And", "Or", "Xor", "Mod",
)  # fmt: skip
_UNARY = (
    "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Clip", "Elu", "Selu", "Softplus", "Softsign", "HardSigmoid",
    "HardSwish", "Mish", "Gelu", "Erf", "Exp", "Log", "Sqrt", "Reciprocal", "Neg", "Abs", "Floor", "Ceil", "Round",
    "Sign", "Sin", "Cos", "Identity", "Cast", "CastLike", "Softmax", "LogSoftmax", "Not", "LRN", "LpNormalization",
    "MeanVarianceNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization",
    "LayerNormalization", "QuantizeLinear", "DequantizeLinear", "ThresholdedRelu", "Celu", "CumSum", "Trilu",
    "ImageScaler",
)  # fmt: skip
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY, _same),
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    "Dropout": _same_all,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "LpPool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    **dict.fromkeys(
        ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1", "ReduceSumSquare"), _reduce
    ),
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _depth_to_space,
    "Expand": _expand,
    "Shape": _shape_of,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
_ALL_INPUTS = frozenset(
    (
        *_ELEMENTWISE, "Concat", "MatMul", "Gemm", "Conv", "ConvTranspose", "Gather", "LSTM", "GRU", "RNN",
        "BatchNormalization",
    )
)  # fmt: skip
_SHAPE_INPUT = {"Reshape": 1, "Expand": 1, "Resize": 3}
_FIXED_TYPE = {
    "Shape": _INT64, "Size": _INT64, "ArgMax": _INT64, "ArgMin": _INT64, "NonZero": _INT64, "QuantizeLinear": None,
    "DequantizeLinear": None,
    **dict.fromkeys(("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Xor", "Not"), _BOOL),
}  # fmt: skip
_TYPE_INPUT = {"Where": 1, "CastLike": 1}
_SAME_TYPE_OUTPUTS = ("Split", "LSTM", "GRU", "RNN", "BatchNormalization")


# --- shapes as data --------------------------------------------------------------------------------------------------


def _data_shape(shapes: Shapes, node: Node) -> list[Dim] | None:
    dims = shapes.known(node.input(0))
    if dims is None or attributes.unexpected(node, ("start", "end")):
        return None
    return list(dims[shape_part(node)])


def _data_same(shapes: Shapes, node: Node) -> list[Dim] | None:
    return shapes.data(node.input(0))


def _data_concat(shapes: Shapes, node: Node) -> list[Dim] | None:
    parts = [shapes.data(operand) for operand in node.inputs]
    return (
        None if any(part is None for part in parts) else [item for part in parts if part is not None for item in part]
    )


def _data_gather(shapes: Shapes, node: Node) -> list[Dim] | None:
    data, indices = shapes.data(node.input(0)), shapes.constants.ints(node.input(1))
    if data is None or indices is None or any(not -len(data) <= i < len(data) for i in indices):
        return None
    return [data[i] for i in indices]


def _data_slice(shapes: Shapes, node: Node) -> list[Dim] | None:
    data = shapes.data(node.input(0))
    try:
        bounds = slice_bounds(node, [shapes.constants.ints(v) for v in node.inputs[1:]])
    except ValueError:
        return None
    return None if data is None or len(bounds) != 1 else data[slice_index(1, bounds)[0]]


def _data_arithmetic(shapes: Shapes, node: Node) -> list[Dim] | None:
    """Arithmetic on sizes: known numbers are computed; of others only the count is known.

    A quotient is known only if it is exact: what rounds it, and to where, is decided elsewhere in the graph.
    """
    known = [data for operand in node.inputs if (data := shapes.data(operand)) is not None]
    if not known:
        return None
    length = max(len(data) for data in known)
    if len(known) != len(node.inputs) or any(len(data) not in (1, length) for data in known):
        return [None] * length
    columns = zip(*(data * length if len(data) == 1 else data for data in known), strict=True)
    return [_computed(node.op_type, column) for column in columns]


def _computed(op_type: str, numbers: Sequence[Dim]) -> Dim:
    integers = [number for number in numbers if isinstance(number, int)]
    if len(integers) != len(numbers):
        return None
    if len(integers) == 1:
        return integers[0]
    first, second = integers
    if op_type == "Div":
        return first // second if second and first % second == 0 else None
    return {"Mul": first * second, "Add": first + second, "Sub": first - second}[op_type]


_DATA_RULES: dict[str, Callable[[Shapes, Node], list[Dim] | None]] = {
    "Shape": _data_shape,
    "Identity": _data_same,
    "Cast": _data_same,
    "Squeeze": _data_same,
    "Unsqueeze": _data_same,
    "Concat": _data_concat,
    "Gather": _data_gather,
    "Slice": _data_slice,
    **dict.fromkeys(("Mul", "Add", "Sub", "Div", "Floor", "Ceil"), _data_arithmetic),
}
