"""Random models: a node is drawn without much care, run alone, and kept if onnxruntime takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

ort.set_default_logger_severity(4)
ELEM = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16, np.float64: TensorProto.DOUBLE}
LARGEST_VALUE = 1e4
LARGEST_TENSOR = 4096


class Rejected(Exception):
    """The drawn node is no valid one; another is drawn."""


def session(model: ModelProto) -> ort.InferenceSession:
    """The model as it is, without optimisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def info(name: str, array: np.ndarray, dynamic: int = 0) -> Any:
    """The declaration of an input; a bit of `dynamic` for every axis whose size is left open, the first being the batch.

    An open size keeps its number in its name, which `examine.feeds` reads.
    """
    dims = [
        (f"{name}.{axis}_{size}" if axis else "N") if dynamic >> axis & 1 else size
        for axis, size in enumerate(array.shape)
    ]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), dims)


class Scope:
    """One graph under construction. `pool` holds the data tensors that may be read, newest last."""

    def __init__(self, maker: Maker, outer: Scope | None = None) -> None:
        self.maker, self.outer = maker, outer
        self.nodes: list[NodeProto] = []
        self.init: dict[str, np.ndarray] = {}
        self.pool: list[tuple[str, np.ndarray]] = []


class Maker:
    """Draws one model from a seed.

    Args:
        seed: of everything that is drawn.
        tables: what is drawn from, each as often as it stands there; None for the usual.
    """

    def __init__(self, seed: int, tables: list[list[Draw]] | None = None) -> None:
        self.tables = tables if tables is not None else usual_tables()
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice([7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 19, 21, 22, 23]))
        self.dtype: Any = [np.float32, np.float32, np.float32, np.float32, np.float16, np.float64][self.rng.integers(6)]
        self.count = 0
        self.known: dict[str, np.ndarray] = {}
        self.sizes = [int(s) for s in self.rng.choice([1, 2, 3, 4, 6], 3)]
        if self.chance(0.35):
            self.sizes = [int(self.rng.choice([2, 3, 4]))]
        self.depth = self.dynamic = 0
        self.pinned: tuple[str, np.ndarray] | None = None  # what every operator must read, while there is such a thing

    # --- choices ---

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def size(self) -> int:
        return int(self.pick(*self.sizes))

    def name(self, stem: str = "v") -> str:
        self.count += 1
        # Now and then a name that the engine might make up itself.
        tail = self.pick("bias", "unbiased", "weight", "bias_add", "scale", "bias_1") if self.chance(0.1) else ""
        return (
            f"v{self.count - 1}.{tail}"
            if tail and f"v{self.count - 1}.{tail}" not in self.known
            else f"{stem}{self.count}"
        )

    # --- constants ---

    def numbers(self, shape: tuple[int, ...] | list[int], kind: str = "any") -> np.ndarray:
        values = self.rng.uniform(0.25, 1.5, tuple(shape))
        if kind == "any" and self.chance(0.6):
            values = values * np.where(self.rng.random(tuple(shape)) < 0.5, -1, 1)
        if kind == "any" and self.chance(0.06):
            values = values * 0
        elif kind == "any" and self.chance(0.06) and values.ndim:
            values = np.where(self.rng.random(tuple(shape)) < 0.4, 0.0, values)
        return np.asarray(values, self.dtype)

    def constant(self, scope: Scope, array: Any, stem: str = "k") -> str:
        array = np.asarray(array)
        if array.dtype == self.dtype and self.chance(0.25):
            same = [n for n, a in self._constants(scope) if a.shape == array.shape and a.dtype == array.dtype]
            if same:
                return str(self.pick(*same))
        name = self.name(stem)
        self.known[name] = array
        how = self.rng.random()
        if how < 0.12:
            scope.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, "t")))
        elif how < 0.22 and array.dtype == self.dtype:
            self._derived(scope, name, array)
        else:
            target = scope
            while target.outer is not None and self.chance(0.4):
                target = target.outer
            target.init[name] = array
        return name

    def _constants(self, scope: Scope | None) -> list[tuple[str, np.ndarray]]:
        found: list[tuple[str, np.ndarray]] = []
        while scope is not None:
            found += [(n, a) for n, a in scope.init.items()]
            scope = scope.outer
        return found

    def _derived(self, scope: Scope, name: str, array: np.ndarray) -> None:
        norm = np.sqrt(np.square(array.astype(np.float64)).sum())
        if norm > 0 and self.chance(0.3):
            self._normalised(scope, name, array, norm)
            return
        raw = self.name("r")
        how = self.pick("Identity", "Transpose", "Reshape", "Neg", "Slice")
        attributes: dict[str, Any] = {}
        inputs = [raw]
        if how == "Transpose":
            base = np.ascontiguousarray(array.T)
        elif how == "Reshape":
            base = array.reshape(-1)
            inputs.append(self.name("s"))
            scope.init[inputs[1]] = np.asarray(array.shape, np.int64)
        elif how == "Neg":
            base = -array
        elif how == "Slice" and array.ndim and self.opset >= 10 and array.shape[0]:
            base = np.concatenate([array[::-1], array[:1]])
            for part in ([array.shape[0] - 1], [-(1 << 31)], [0], [-1]):
                inputs.append(self.name("s"))
                scope.init[inputs[-1]] = np.asarray(part, np.int64)
        else:
            how, base = "Identity", array
        scope.init[raw] = np.ascontiguousarray(base).reshape(base.shape)
        scope.nodes.append(helper.make_node(how, inputs, [name], **attributes))

    def _normalised(self, scope: Scope, name: str, array: np.ndarray, norm: float) -> None:
        """The array as a gain times a direction, as weight normalisation leaves it in the graph."""
        raw, gain, size, unit = (self.name(stem) for stem in ("v", "g", "n", "u"))
        scope.init[raw] = np.asarray(array * self.pick(0.5, 2, 3), self.dtype)
        scope.init[gain] = np.asarray(norm, self.dtype)
        if self.chance(0.5):
            first = helper.make_node("ReduceL2", [raw], [size], keepdims=0)
        else:
            squares = self.name("q")
            scope.nodes.append(helper.make_node("ReduceSumSquare", [raw], [squares], keepdims=0))
            first = helper.make_node("Sqrt", [squares], [size])
        inner = [helper.make_node("Div", [gain, size], [unit]), helper.make_node("Mul", [raw, unit], [name])]
        scope.nodes.extend([first, *inner])

    # --- data ---

    def data(self, scope: Scope, rank: int | None = None) -> tuple[str, np.ndarray]:
        if self.pinned is not None:
            if rank not in (None, self.pinned[1].ndim):
                raise Rejected
            return self.pinned
        pool = list(scope.pool)
        outer = scope.outer
        while outer is not None and (not pool or self.chance(0.15)):
            pool = [*outer.pool, *pool]
            outer = outer.outer
        pool = [(n, a) for n, a in pool if a.dtype == self.dtype and (rank is None or a.ndim == rank)]
        if not pool:
            raise Rejected
        if self.chance(0.85):
            return pool[-1]
        return pool[int(self.rng.integers(len(pool)))]

    def partner(self, scope: Scope, array: np.ndarray) -> tuple[str, np.ndarray]:
        """Another data tensor that broadcasts with this one."""
        fits = []
        where: Scope | None = scope
        while where is not None:
            for name, other in where.pool:
                try:
                    np.broadcast_shapes(other.shape, array.shape)
                except ValueError:
                    continue
                if other.dtype == self.dtype:
                    fits.append((name, other))
            where = where.outer
        if not fits:
            raise Rejected
        same = [f for f in fits if f[1].shape == array.shape]
        return self.pick(*same) if same and self.chance(0.7) else self.pick(*fits)

    def broadcast(self, array: np.ndarray, kind: str = "any") -> np.ndarray:
        """A constant of one of the shapes that broadcast to the tensor."""
        rank = array.ndim
        how = self.pick("channel", "channel", "channel", "scalar", "one", "last", "any", "full")
        dims = [1] * rank
        if how == "scalar":
            return self.numbers((), kind)
        if how == "one":
            return self.numbers((1,) * int(self.rng.integers(1, max(rank, 1) + 1)), kind)
        if how == "last" and rank:
            return self.numbers(array.shape[-1:], kind)
        if how == "channel" and rank:
            axis = min(1, rank - 1)
            dims[axis] = array.shape[axis]
        elif how == "any":
            dims = [d if self.chance(0.4) else 1 for d in array.shape]
        elif how == "full":
            dims = list(array.shape)
        if self.chance(0.5):
            while dims and dims[0] == 1:
                dims = dims[1:]
        return self.numbers(dims, kind)

    # --- nodes ---

    def emit(self, scope: Scope, op: str, inputs: list[str], outputs: int | list[str] = 1, **attributes: Any) -> None:
        names = [self.name() for _ in range(outputs)] if isinstance(outputs, int) else outputs
        attributes = {k: v for k, v in attributes.items() if v is not None}
        node = helper.make_node(op, inputs, names, **attributes)
        if self.chance(0.5):
            node.name = self.pick(names[0] or "n", f"{op}_{self.count}")
        self.add(scope, node)

    def add(self, scope: Scope, node: NodeProto) -> None:
        results = self.run([node])
        for array in results:
            if array.size > LARGEST_TENSOR or not array.size:
                raise Rejected
            if array.dtype == self.dtype and not np.abs(array).max(initial=0) < LARGEST_VALUE:
                raise Rejected
        scope.nodes.append(node)
        for name, array in zip([o for o in node.output if o], results, strict=True):
            self.known[name] = array
            scope.pool.append((name, array))

    def run(self, nodes: list[NodeProto]) -> list[np.ndarray]:
        made = {o for n in nodes for o in n.output}
        wanted = dict.fromkeys(name for n in nodes for name in reads(n) if name and name not in made)
        feeds = {n: self.known[n] for n in wanted if n in self.known}
        outputs = [helper.make_empty_tensor_value_info(o) for n in nodes for o in n.output if o]
        # Constants stay initializers: many operators demand it of their axes.
        held = {n: a for n, a in feeds.items() if a.dtype != self.dtype}
        graph = helper.make_graph(
            nodes, "g", [info(n, a) for n, a in feeds.items() if n not in held], outputs,
            [numpy_helper.from_array(a, n) for n, a in held.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        try:
            return session(model).run(None, {n: a for n, a in feeds.items() if n not in held})
        except Exception as error:  # onnxruntime has its own classes, and says no in many ways
            raise Rejected(str(error)) from None

    def step(self, scope: Scope) -> None:
        """One more node, if a valid one is found soon."""
        for _ in range(8):
            if self.attempt(scope, self.pick(*self.tables)):
                return

    def attempt(self, scope: Scope, table: list[Draw]) -> bool:
        """A node of a table, if what is drawn is a valid one."""
        marks = len(scope.nodes), len(scope.pool)
        try:
            self.pick(*table)(self, scope)
        except (Rejected, IndexError, ValueError, ZeroDivisionError):
            # Constants made for it stay known but are cut away with unread ones.
            del scope.nodes[marks[0] :]
            del scope.pool[marks[1] :]
            return False
        return True

    def model(self, steps: int) -> ModelProto:
        """The whole model."""
        scope = Scope(self)
        rank = int(self.pick(2, 3, 4, 4, 4, 5))
        dynamic = self.dynamic = self.pick(0, 0, 0, 1, 1, 2, int(self.rng.integers(1 << rank)))
        inputs = []
        for i in range(int(self.pick(1, 1, 2))):
            array = np.asarray(self.rng.standard_normal([self.size() for _ in range(rank)]), self.dtype)
            name = f"x{i}"
            self.known[name] = array
            scope.pool.append((name, array))
            inputs.append(info(name, array, dynamic))
        ids = np.asarray(self.rng.integers(0, 2, [self.size(), self.size()]), np.int64)
        self.known["ids"], self.known["flag"] = ids, np.asarray(self.chance(0.5))
        for _ in range(steps):
            self.step(scope)
        # Whatever nobody reads is an output, and a few others.
        read = {name for node in scope.nodes for name in reads(node)}
        made = [(n, a) for n, a in scope.pool if n not in self.known_inputs(inputs)]
        outputs = [(n, a) for n, a in made if n not in read or self.chance(0.06)]
        if not outputs:
            raise Rejected
        inputs += [info(n, self.known[n]) for n in ("ids", "flag") if n in read]
        names = [n for n, _ in outputs]
        declared = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), None) for n, a in outputs
        ]
        graph = helper.make_graph(scope.nodes, "g", inputs, declared)
        assert len(set(names)) == len(names)
        _fill(graph, scope.init)
        ir = int(self.pick(4, 6, 8, 10)) if self.opset < 19 else 10
        return prune(helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=ir))

    @staticmethod
    def known_inputs(inputs: list[Any]) -> set[str]:
        return {i.name for i in inputs}


def _fill(graph: Any, init: dict[str, np.ndarray]) -> None:
    for name, array in init.items():
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))


def reads(node: NodeProto) -> list[str]:
    """Names that a node reads, those its subgraphs capture included."""
    names = list(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            inside = {i.name for i in attribute.g.input} | {t.name for t in attribute.g.initializer}
            inside |= {o for n in attribute.g.node for o in n.output}
            names += [n for inner in attribute.g.node for n in reads(inner) if n not in inside]
            names += [o.name for o in attribute.g.output if o.name not in inside]
    return names


def prune(model: ModelProto) -> ModelProto:
    """Without the nodes and initializers of the main graph that nobody reads."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    live = {o.name for o in graph.output}
    kept = []
    for node in reversed(list(graph.node)):
        if any(o in live for o in node.output):
            kept.append(node)
            live.update(reads(node))
    copies = [NodeProto.FromString(n.SerializeToString()) for n in reversed(kept)]
    del graph.node[:]
    graph.node.extend(copies)
    tensors = [t for t in graph.initializer if t.name in live]
    tensors = [TensorProto.FromString(t.SerializeToString()) for t in tensors]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    inputs = [onnx.ValueInfoProto.FromString(i.SerializeToString()) for i in graph.input if i.name in live]
    del graph.input[:]
    graph.input.extend(inputs)
    return result


def random_model(seed: int, tables: list[list[Draw]] | None = None) -> ModelProto | None:
    """The model of a seed; None if it has none that onnxruntime takes as a whole."""
    maker = Maker(seed, tables)
    try:
        model = maker.model(int(maker.pick(4, 8, 12, 18)))
        session(model)
    except Exception:
        return None
    return model


# --- operators -------------------------------------------------------------------------------------------------------

Draw = Callable[[Maker, Scope], None]


def conv(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    if a.ndim < 3:
        raise Rejected
    space: dict[str, Any] = {}
    group = m.pick(1, 1, a.shape[1], m.pick(1, 2))
    if a.shape[1] % group:
        raise Rejected
    per = m.pick(1, 2, m.size())
    kernel = [min(m.pick(1, 1, 2, 3), d + 1) for d in a.shape[2:]]
    inputs = [x]
    if m.chance(0.65):
        out = per * group
        inputs.append(m.constant(s, m.numbers([out, a.shape[1] // group, *kernel])))
        op = "Conv"
    else:
        inputs.append(m.constant(s, m.numbers([a.shape[1], per, *kernel])))
        out = per * group
        op = "ConvTranspose"
    if m.chance(0.5):
        inputs.append(m.constant(s, m.numbers([out])))
    if m.chance(0.15):
        space["dilations"] = [m.pick(1, 2) for _ in kernel]
    if op == "ConvTranspose" and m.chance(0.4):  # cut off what not every tap reaches, or nearly so
        reach = [(k - 1) * d for k, d in zip(kernel, space.get("dilations", kernel), strict=True)]
        space["pads"] = [max(0, r - m.pick(0, 0, 0, 1)) for r in (*reach, *reach)]
        space["output_padding"] = m.pick(None, None, [0] * len(kernel))
    elif op == "ConvTranspose" and m.chance(0.2):
        space["strides"] = [2] * len(kernel)
        if m.chance(0.5):
            space["output_padding"] = [m.pick(0, 1) for _ in kernel]
        else:
            space["output_shape"] = [2 * d + m.pick(0, 1) for d in a.shape[2:]]
    elif m.chance(0.4):
        space["pads"] = [m.pick(0, 1) for _ in range(2 * len(kernel))]
    elif m.chance(0.2):
        space["auto_pad"] = m.pick("SAME_UPPER", "SAME_LOWER", "VALID")
    if "strides" not in space and m.chance(0.3):
        space["strides"] = [m.pick(1, 2) for _ in kernel]
    m.emit(s, op, inputs, group=group, **space)


def gemm(m: Maker, s: Scope) -> None:
    x, a = m.data(s, 2)
    ta, tb = m.pick(0, 0, 1), m.pick(0, 1)
    k, rows = (a.shape[0], a.shape[1]) if ta else (a.shape[1], a.shape[0])
    n = m.size()
    inputs = [x, m.constant(s, m.numbers([n, k] if tb else [k, n]))]
    c = m.pick(None, (n,), (1, n), (rows, n), (rows, 1), (1,), (), (1, 1))
    if c is not None:
        inputs.append(m.constant(s, m.numbers(c)) if m.chance(0.85) else m.partner(s, np.zeros((rows, n), m.dtype))[0])
    elif m.opset < 11:
        inputs.append(m.constant(s, m.numbers((n,))))
    if m.chance(0.1):
        inputs[1] = m.partner(s, a)[0]
    alpha = m.pick(None, 0.5, 1.7, -1.25)
    m.emit(s, "Gemm", inputs, alpha=alpha, beta=m.pick(None, 2.0, 0.3, 0.0), transA=ta or None, transB=tb or None)


def matmul(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    n = m.size()
    if m.chance(0.7):
        lead = [d if m.chance(0.6) else 1 for d in a.shape[:-2]] if m.chance(0.3) else []
        shape = [*lead, a.shape[-1], n] if m.chance(0.9) else [a.shape[-1]]
        m.emit(s, "MatMul", [x, m.constant(s, m.numbers(shape))])
    else:
        lead = [d if m.chance(0.6) else 1 for d in a.shape[:-2]] if m.chance(0.3) else []
        if m.chance(0.1):
            lead = [2, *lead]
        shape = [*lead, n, a.shape[-2]] if m.chance(0.9) else [a.shape[-2]]
        m.emit(s, "MatMul", [m.constant(s, m.numbers(shape)), x])


def deform_conv(m: Maker, s: Scope) -> None:
    x, a = m.data(s, 4)
    if m.opset < 19:
        raise Rejected
    kernel, group = [m.pick(1, 2) for _ in range(2)], m.pick(1, a.shape[1])
    out = group * m.pick(1, 2)
    inputs = [x, m.constant(s, m.numbers([out, a.shape[1] // group, *kernel]))]
    places = [d - k + 1 for d, k in zip(a.shape[2:], kernel, strict=True)]
    inputs.append(m.constant(s, m.numbers([a.shape[0], 2 * kernel[0] * kernel[1], *places])))
    inputs.append(m.constant(s, m.numbers([out])) if m.chance(0.5) else "")
    if m.chance(0.5):
        inputs.append(m.constant(s, m.numbers([a.shape[0], kernel[0] * kernel[1], *places])))
    m.emit(s, "DeformConv", inputs, group=group, kernel_shape=kernel)


def recurrent(m: Maker, s: Scope) -> None:
    x, a = m.data(s, 3)
    if m.dynamic:
        raise Rejected  # onnxruntime aborts where no time is left
    op, hidden = m.pick("LSTM", "GRU", "RNN"), m.pick(1, 2)
    direction = m.pick(None, "forward", "reverse", "bidirectional")
    ways, gates = 2 if direction == "bidirectional" else 1, {"LSTM": 4, "GRU": 3, "RNN": 1}[op] * hidden
    shapes = [(ways, gates, a.shape[2]), (ways, gates, hidden)]
    inputs = [x, *(m.constant(s, m.numbers(shape)) for shape in shapes)]
    inputs.append(m.constant(s, m.numbers((ways, 2 * gates))) if m.chance(0.5) else "")
    inputs.append(m.constant(s, np.full(a.shape[1], m.pick(1, a.shape[0]), np.int32)) if m.chance(0.3) else "")
    if m.chance(0.3):
        inputs.append(m.constant(s, m.numbers((ways, a.shape[1], hidden))))
        if op == "LSTM":
            inputs += [
                m.constant(s, m.numbers((ways, a.shape[1], hidden))),
                m.constant(s, m.numbers((ways, 3 * hidden))),
            ]
    m.emit(s, op, inputs, m.pick(1, 2), hidden_size=hidden, direction=direction, clip=m.pick(None, None, 0.5),
           linear_before_reset=m.pick(None, 1) if op == "GRU" else None)  # fmt: skip


def table(m: Maker, s: Scope) -> None:
    shape = [3, m.size(), m.size()][: m.pick(2, 3, 2)]
    axis = m.pick(0, 0, 0, 1, -2)
    if axis:
        shape[axis] = 3
    m.emit(s, "Gather", [m.constant(s, m.numbers(shape)), "ids"], axis=axis or None)


def norm(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    c = a.shape[1]
    op = m.pick("InstanceNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization")
    epsilon = 0.25  # where nothing varies, 1 / sqrt(epsilon) would blow every rounding up
    if op == "InstanceNormalization":
        m.emit(s, op, [x, m.constant(s, m.numbers([c])), m.constant(s, m.numbers([c]))], epsilon=epsilon)
    elif op == "GroupNormalization":
        groups = m.pick(1, 2, c)
        n = groups if m.opset < 21 else c
        m.emit(
            s, op, [x, m.constant(s, m.numbers([n])), m.constant(s, m.numbers([n]))], num_groups=groups, epsilon=epsilon
        )
    else:
        axis = m.pick(-1, None, a.ndim - 1, -2, 1)
        shape = a.shape[(-1 if axis is None else axis) :]
        if m.chance(0.2):
            shape = shape[-1:]
        inputs = [x, m.constant(s, m.numbers(shape))]
        if op == "LayerNormalization" and m.chance(0.6):
            inputs.append(m.constant(s, m.numbers(shape)))
        outputs = 1 if op != "LayerNormalization" or m.chance(0.8) else 3
        m.emit(s, op, inputs, outputs, axis=axis, epsilon=epsilon)


def batch_norm(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    c = a.shape[1] if a.ndim > 1 else 1
    var = np.asarray(m.rng.uniform(0.3, 2, c), m.dtype)
    parts = [m.constant(s, m.numbers([c])) for _ in range(3)]
    name = m.name("var")
    m.known[name] = s.init[name] = var
    m.emit(s, "BatchNormalization", [x, *parts, name], epsilon=m.pick(None, 1e-3, 0.5))


def binary_constant(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    op = m.pick("Mul", "Add", "Sub", "Div", "Mul", "Add")
    k = m.constant(s, m.broadcast(a, "positive" if op == "Div" else "any"))
    inputs = [x, k]
    if m.chance(0.3):
        if op == "Div":  # near 0 a quotient blows every rounding up
            inputs[0] = m.name()
            m.emit(s, "Exp", [x], [inputs[0]])
        inputs.reverse()
    m.emit(s, op, inputs)


def neg(m: Maker, s: Scope) -> None:
    m.emit(s, "Neg", [m.data(s)[0]])


def sum_constants(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    if m.opset < 8:
        inputs = [x, m.constant(s, m.numbers(a.shape))]
    else:
        inputs = [x, *(m.constant(s, m.broadcast(a)) for _ in range(m.pick(1, 2)))]
    m.rng.shuffle(inputs)
    m.emit(s, "Sum", inputs)


def residual(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    op = m.pick("Add", "Add", "Sub", "Mul", "Div", "Sum")
    inputs = [x, m.partner(s, a)[0]]
    if op == "Div":
        absolute = m.name()
        m.emit(s, "Exp", [inputs[1]], [absolute])
        inputs[1] = absolute
    if op == "Sum" and m.chance(0.4):
        inputs.append(m.partner(s, a)[0])
    if m.chance(0.5):
        inputs.reverse()
    if m.opset < 8 and op == "Sum":
        raise Rejected
    m.emit(s, op, inputs)


def activation(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    op = m.pick("Relu", "LeakyRelu", "PRelu", "Abs", "Clip", "Dropout", "Identity", "Cast", "Sigmoid")
    if op == "LeakyRelu":
        m.emit(s, op, [x], alpha=m.pick(None, 0.3, -0.5))
    elif op == "PRelu":
        slope = m.constant(s, m.broadcast(a)) if m.chance(0.8) else m.partner(s, a)[0]
        inputs = [x, slope]
        if m.chance(0.1):
            inputs.reverse()
        # onnxruntime stretches the data to a larger slope, which the definition forbids, and infers the shape without it.
        if np.broadcast_shapes(*(m.known[name].shape for name in inputs)) != m.known[inputs[0]].shape:
            raise Rejected
        m.emit(s, op, inputs)
    elif op == "Clip":
        low, high = m.pick((-1.0, 1.0), (0.0, 0.7), (None, 1.0), (-0.5, None), (1.0, -1.0), (0.0, 6.0))
        if m.opset < 11:
            m.emit(s, op, [x], min=low, max=high)
        else:
            bounds = ["" if b is None else m.constant(s, np.asarray(b, m.dtype)) for b in (low, high)]
            m.emit(s, op, [x, *bounds])
    elif op == "Cast":
        m.emit(s, op, [x], to=ELEM[m.dtype])
    elif op == "Dropout":
        m.emit(s, op, [x], m.pick(1, 1, 2) if m.opset >= 10 else 1)
    else:
        m.emit(s, op, [x])


def pool(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    if a.ndim < 3:
        raise Rejected
    op = m.pick("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool")
    if op.startswith("Global"):
        m.emit(s, op, [x], p=m.pick(None, 1, 2) if op == "GlobalLpPool" else None)
        return
    kernel = [min(d, m.pick(1, 2, 3)) for d in a.shape[2:]]
    pads = [min(m.pick(0, 1), k - 1) for k in kernel] * 2 if m.chance(0.5) else None
    attributes: dict[str, Any] = {"kernel_shape": kernel, "pads": pads, "strides": [m.pick(1, 2) for _ in kernel]}
    if op != "LpPool" and m.opset >= 10:
        attributes["ceil_mode"] = m.pick(None, 1)
    if op == "AveragePool":
        attributes["count_include_pad"] = m.pick(None, None, 1)
        if m.opset >= 19:
            attributes["dilations"] = m.pick(None, [2] * len(kernel))
    if pads is None:
        attributes["auto_pad"] = m.pick(None, "SAME_UPPER", "SAME_LOWER", "VALID")
    outputs = 2 if op == "MaxPool" and m.chance(0.15) and m.opset >= 8 else 1
    m.emit(s, op, [x], outputs, **attributes)


def reduce(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    op = m.pick(
        "ReduceMean",
        "ReduceMax",
        "ReduceMean",
        "ReduceMax",
        "ReduceSum",
        "ReduceSum",
        "ReduceMin",
        "ReduceL1",
        "ReduceL2",
    )
    axes = sorted({int(m.rng.integers(a.ndim)) for _ in range(m.pick(1, 2))})
    if m.chance(0.3):
        axes = [axis - a.ndim for axis in axes]
    if m.chance(0.1):
        axes = []
    keep = m.pick(None, 0, 1)
    if m.opset >= 18 or (op == "ReduceSum" and m.opset >= 13):
        inputs = [x, m.constant(s, np.asarray(axes, np.int64))] if axes or m.chance(0.5) else [x]
        m.emit(s, op, inputs, keepdims=keep, noop_with_empty_axes=m.pick(None, None, 1))
    else:
        m.emit(s, op, [x], keepdims=keep, axes=axes or None)


def extremum(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    inputs = [x]
    for _ in range(m.pick(1, 1, 2)):
        if m.chance(0.6):
            inputs.append(m.constant(s, m.broadcast(a)))
        else:
            inputs.append(m.pick(x, m.partner(s, a)[0]))
    m.rng.shuffle(inputs)
    m.emit(s, m.pick("Max", "Min"), inputs)


def repeat(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    if m.chance(0.5):
        m.emit(s, "Tile", [x, m.constant(s, np.asarray([m.pick(1, 1, 2) for _ in a.shape], np.int64))])
        return
    shape = [m.size() if d == 1 and m.chance(0.7) else m.pick(1, d) for d in a.shape]
    if m.chance(0.3):
        shape.insert(0, m.pick(1, 2))
    elif m.chance(0.3):
        shape = shape[m.pick(1, 2) :]
    m.emit(s, "Expand", [x, m.constant(s, np.asarray(shape, np.int64))])


def grid_sample(m: Maker, s: Scope) -> None:
    x, a = m.data(s, 4)
    if m.opset < 16:
        raise Rejected
    grid = m.constant(s, np.asarray(m.rng.uniform(-1.3, 1.3, [a.shape[0], m.size(), m.size(), 2]), m.dtype))
    linear, cubic = ("bilinear", "bicubic") if m.opset < 20 else ("linear", "cubic")
    m.emit(s, "GridSample", [x, grid], mode=m.pick(None, linear, "nearest", cubic),
           padding_mode=m.pick(None, "zeros", "border", "reflection"), align_corners=m.pick(None, 1))  # fmt: skip


def concat(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    axis = m.pick(1, 1, 0, -1, a.ndim - 1) if a.ndim > 1 else 0
    inputs = [x]
    for _ in range(m.pick(1, 1, 2)):
        shape = list(a.shape)
        fits = [
            n
            for n, b in s.pool
            if b.ndim == a.ndim
            and all(p == q for i, (p, q) in enumerate(zip(a.shape, b.shape, strict=True)) if i != axis % a.ndim)
        ]
        if m.chance(0.3) or not fits:
            shape[axis] = m.size()
            inputs.append(m.constant(s, m.numbers(shape)))
        else:
            inputs.append(m.pick(*fits))
    m.rng.shuffle(inputs)
    m.emit(s, "Concat", inputs, axis=axis)


def split(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    axis = m.pick(1, 0, -1) if a.ndim > 1 else 0
    size = a.shape[axis]
    if size < 2:
        raise Rejected
    if m.chance(0.3) and size % 2 == 0:
        m.emit(s, "Split", [x], 2, axis=axis, num_outputs=2 if m.opset >= 18 else None)
        return
    if m.chance(0.2) and m.opset >= 18:
        m.emit(s, "Split", [x], 2, axis=axis, num_outputs=2)
        return
    cut = int(m.rng.integers(1, size))
    parts = [cut, size - cut]
    if m.opset >= 13:
        m.emit(s, "Split", [x, m.constant(s, np.asarray(parts, np.int64))], 2, axis=axis)
    else:
        m.emit(s, "Split", [x], 2, axis=axis, split=parts)


def slice_(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    axes = sorted({int(m.rng.integers(a.ndim)) for _ in range(m.pick(1, 1, 2))})
    starts, ends, steps = [], [], []
    for axis in axes:
        d = a.shape[axis]
        step = m.pick(1, 1, 2, -1, -2) if m.opset >= 10 else 1
        lo, hi = sorted((int(m.rng.integers(0, d + 1)), int(m.rng.integers(0, d + 1))))
        if m.chance(0.3):
            lo, hi = 0, d
        start, end = (lo, hi) if step > 0 else (hi, lo - 1 if lo else -(1 << 40))
        if step > 0:
            if m.chance(0.3):
                end = m.pick((1 << 63) - 1, (1 << 31) - 1, 1000) if end == d else end - d
            if m.chance(0.3) and start < d:
                start -= d
        starts.append(start), ends.append(end), steps.append(step)
    if m.chance(0.3):
        axes = [axis - a.ndim for axis in axes]
    if m.opset < 10:
        m.emit(s, "Slice", [x], starts=starts, ends=ends, axes=axes)
        return
    parts = (
        [starts, ends, axes, steps]
        if m.chance(0.8)
        else [starts, ends, axes]
        if min(steps) == 1
        else [starts, ends, axes, steps]
    )
    m.emit(s, "Slice", [x, *(m.constant(s, np.asarray(p, np.int64)) for p in parts)])


def gather(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    axis = m.pick(1, 0, -1) if a.ndim > 1 else 0
    size = a.shape[axis]
    how = m.pick("perm", "some", "scalar", "two", "negative", "data")
    if how == "data":
        m.emit(s, "Gather", [x, "ids"], axis=axis)
        return
    indices = {
        "perm": m.rng.permutation(size), "some": m.rng.integers(0, size, m.pick(1, 2, 3)), "scalar": np.asarray(0),
        "two": m.rng.integers(0, size, (1, 2)), "negative": m.rng.integers(-size, 0, m.pick(1, 2)),
    }[how]  # fmt: skip
    m.emit(s, "Gather", [x, m.constant(s, np.asarray(indices, np.int64))], axis=axis)


def layout(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    op = m.pick("Transpose", "Reshape", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
    if op == "Transpose":
        m.emit(s, op, [x], perm=[int(p) for p in m.rng.permutation(a.ndim)] if m.chance(0.85) else None)
    elif op == "Flatten":
        axis = (
            int(m.rng.integers(0, a.ndim + 1)) if m.opset < 11 or m.chance(0.7) else -int(m.rng.integers(1, a.ndim + 1))
        )
        m.emit(s, op, [x], axis=axis)
    elif op == "Squeeze":
        ones = [i for i, d in enumerate(a.shape) if d == 1]
        if not ones:
            raise Rejected
        some = [m.pick(*ones)] if m.chance(0.8) else None
        if some and m.chance(0.3) and m.opset >= 11:
            some = [some[0] - a.ndim]
        if m.opset >= 13 and some:
            m.emit(s, op, [x, m.constant(s, np.asarray(some, np.int64))])
        else:
            m.emit(s, op, [x], axes=some)
    elif op == "Unsqueeze":
        axes = [int(m.rng.integers(0, a.ndim + 1))]
        if m.chance(0.3) and m.opset >= 11:
            axes = [axes[0] - a.ndim - 1]
        if m.opset >= 13:
            m.emit(s, op, [x, m.constant(s, np.asarray(axes, np.int64))])
        else:
            m.emit(s, op, [x], axes=axes)
    else:
        m.emit(s, op, [x, m.constant(s, np.asarray(_new_shape(m, a), np.int64))])


def _new_shape(m: Maker, a: np.ndarray) -> list[int]:
    shape = list(a.shape)
    for _ in range(m.pick(1, 1, 2)):
        how = m.pick("merge", "split", "one", "drop", "permute", "merge")
        at = int(m.rng.integers(len(shape)))
        if how == "merge" and at + 1 < len(shape):
            shape[at : at + 2] = [shape[at] * shape[at + 1]]
        elif how == "split":
            factors = [f for f in range(1, shape[at] + 1) if shape[at] % f == 0]
            f = m.pick(*factors)
            shape[at : at + 1] = [f, shape[at] // f]
        elif how == "one":
            shape.insert(at, 1)
        elif how == "drop" and 1 in shape:
            shape.remove(1)
        elif how == "permute":
            shape = [shape[i] for i in m.rng.permutation(len(shape))]
    if m.chance(0.5) and shape:
        shape[int(m.rng.integers(len(shape)))] = -1
    if m.chance(0.4):
        shape = [0 if i < a.ndim and d == a.shape[i] and m.chance(0.5) else d for i, d in enumerate(shape)]
    return shape


def pad(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    mode = m.pick(None, None, "constant", "reflect", "edge")
    pads = [m.pick(0, 0, 1, 1, -1) if i % a.ndim >= (1 if m.chance(0.2) else 2) else 0 for i in range(2 * a.ndim)]
    value = m.pick(None, 0.0, 0.75, -2.0)
    if m.opset < 11:
        m.emit(s, "Pad", [x], pads=pads, mode=mode, value=value)
        return
    inputs = [x]
    tail: list[str] = []
    if m.opset >= 18 and m.chance(0.4) and a.ndim > 2:
        inputs.append(m.constant(s, np.asarray([1, 0], np.int64)))
        tail = [m.constant(s, np.asarray([m.pick(2, -1)], np.int64))]
    else:
        inputs.append(m.constant(s, np.asarray(pads, np.int64)))
    if value is not None:
        inputs.append(m.constant(s, np.asarray(value, m.dtype)))
    elif tail:
        inputs.append("")
    m.emit(s, "Pad", [*inputs, *tail], mode=mode)


def resize(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    if a.ndim not in (3, 4):
        raise Rejected
    scales = np.asarray([1.0, 1.0, *(m.pick(1.0, 2.0, 0.5, 1.3) for _ in a.shape[2:])], np.float32)
    if m.chance(0.1):
        scales[1] = 2.0
    mode = m.pick("nearest", "linear", "cubic", None)
    if m.opset < 10:
        m.emit(s, "Upsample", [x, m.constant(s, scales)] if m.opset == 9 else [x], mode=None if mode == "cubic" else mode,
               scales=None if m.opset == 9 else [float(v) for v in scales])  # fmt: skip
        return
    if m.opset == 10:
        m.emit(s, "Resize", [x, m.constant(s, scales)], mode=None if mode == "cubic" else mode)
        return
    where = m.pick(
        None,
        "half_pixel",
        "align_corners",
        "asymmetric",
        "pytorch_half_pixel",
        "tf_crop_and_resize",
        "tf_half_pixel_for_nn",
    )
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": where}
    if mode in (None, "nearest"):
        attributes["nearest_mode"] = m.pick(None, "ceil", "floor", "round_prefer_ceil")
    if mode == "cubic":
        attributes["exclude_outside"] = m.pick(None, 1)
    if m.opset >= 18 and mode in ("linear", "cubic"):
        attributes["antialias"] = m.pick(None, None, 1)
    roi = m.constant(s, np.asarray([0] * a.ndim + [1] * a.ndim, np.float32)) if where == "tf_crop_and_resize" else ""
    if m.opset >= 18 and m.chance(0.3) and where != "tf_crop_and_resize":
        m.emit(s, "Resize", [x, "", m.constant(s, scales[2:])], axes=list(range(2, a.ndim)), **attributes)
    elif m.chance(0.7):
        if m.opset < 13 and not roi:
            roi = m.constant(s, np.zeros(0, np.float32))
        m.emit(s, "Resize", [x, roi, m.constant(s, scales)], **attributes)
    else:
        sizes = [*a.shape[:2], *(max(1, int(d * m.pick(1, 2))) for d in a.shape[2:])]
        if m.opset < 13:
            roi = roi or m.constant(s, np.zeros(0, np.float32))
            empty = m.constant(s, np.zeros(0, np.float32))
        else:
            empty = ""
        m.emit(s, "Resize", [x, roi, empty, m.constant(s, np.asarray(sizes, np.int64))], **attributes)


def depth_to_space(m: Maker, s: Scope) -> None:
    x, _ = m.data(s, 4)
    if m.chance(0.8):
        m.emit(s, "DepthToSpace", [x], blocksize=2, mode=m.pick(None, "DCR", "CRD") if m.opset >= 11 else None)
    else:
        m.emit(s, "SpaceToDepth", [x], blocksize=2)


def branch(m: Maker, s: Scope) -> None:
    if m.depth >= 2:
        raise Rejected
    m.depth += 1
    try:
        bodies, kinds = [], []
        for name in ("then", "else"):
            inner = Scope(m, s)
            for _ in range(m.pick(1, 2, 3, 4)):
                m.step(inner)
            if not inner.pool:
                raise Rejected
            out, array = inner.pool[-1]
            graph = helper.make_graph(
                inner.nodes,
                name,
                [],
                [helper.make_tensor_value_info(out, helper.np_dtype_to_tensor_dtype(array.dtype), None)],
            )
            _fill(graph, inner.init)
            bodies.append(graph)
            kinds.append(array.dtype)
        if kinds[0] != kinds[1]:
            raise Rejected
    finally:
        m.depth -= 1
    m.emit(s, "If", ["flag"], then_branch=bodies[0], else_branch=bodies[1])


def loop(m: Maker, s: Scope) -> None:
    if m.depth >= 2 or m.opset < 11:
        raise Rejected

    def carried(name: str, array: np.ndarray) -> Any:
        """Its shape is declared only where every size is known: what a body declares must be true."""
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        return helper.make_tensor_value_info(name, kind, None if m.dynamic else array.shape)

    x, a = m.data(s)
    m.depth += 1
    try:
        inner = Scope(m, s)
        i, c, v = m.name("i"), m.name("c"), m.name("carried")
        m.known[v] = a
        m.known[i], m.known[c] = np.asarray(0, np.int64), np.asarray(True)
        inner.pool.append((v, a))
        for _ in range(m.pick(2, 3, 4)):
            m.step(inner)
        fits = [(n, b) for n, b in inner.pool[1:] if b.shape == a.shape and b.dtype == a.dtype]
        if not fits:
            raise Rejected
        out = m.pick(*fits)[0]
        keep = m.name("c")
        inner.nodes.append(helper.make_node("Identity", [c], [keep]))
        graph = helper.make_graph(
            inner.nodes, "body",
            [helper.make_tensor_value_info(i, 7, []), helper.make_tensor_value_info(c, 9, []), carried(v, a)],
            [helper.make_tensor_value_info(keep, 9, []), carried(out, a)],
        )  # fmt: skip
        _fill(graph, inner.init)
    finally:
        m.depth -= 1
    m.emit(s, "Loop", [m.constant(s, np.asarray(2, np.int64)), "", x], body=graph)


def softmax(m: Maker, s: Scope) -> None:
    m.emit(s, "Softmax", [m.data(s)[0]])


def shape_of(m: Maker, s: Scope) -> None:
    """Reshape by a computed shape."""
    x, a = m.data(s)
    name = m.name()
    m.emit(s, "Shape", [x], [name])
    m.emit(s, "Reshape", [m.partner(s, a)[0], name])


def two_data_matmul(m: Maker, s: Scope) -> None:
    x, a = m.data(s)
    m.emit(s, "MatMul", [x, m.partner(s, a)[0]])


# --- what merges: parallel branches, and linear operators in a row ---


def parallel(m: Maker, s: Scope) -> None:
    """Branches of one tensor that are added; their windows keep its size, whether or not they fit into one another."""
    x, a = m.data(s)
    marks = len(s.pool)
    try:
        branches = [_branch_of(m, s, x, a) for _ in range(m.pick(2, 2, 3, 4))]
        total = branches[0]
        for other in branches[1:]:
            m.emit(
                s,
                m.pick("Add", "Add", "Sub", "Sum" if m.opset >= 8 else "Add"),
                list(m.rng.permutation([total, other])),
            )
            total = s.pool[-1][0]
    except Rejected:
        del s.pool[marks:]
        raise


def _branch_of(m: Maker, s: Scope, x: str, a: np.ndarray) -> str:
    kind = (
        m.pick("same", "norm", "pool", "linear", "linear", "linear")
        if a.ndim > 2
        else m.pick("same", "linear", "linear")
    )
    channels = a.shape[1] if a.ndim > 2 else a.shape[-1]
    if kind == "norm":
        parameters = [m.constant(s, m.numbers([channels], "positive")) for _ in range(4)]
        m.emit(s, "BatchNormalization", [x, *parameters])
        return str(s.pool[-1][0])
    if kind == "same":
        return x if m.chance(0.7) else m.partner(s, a)[0]
    if a.ndim <= 2 or m.chance(0.15):
        m.emit(s, "MatMul", [x, m.constant(s, m.numbers([a.shape[-1]] * 2))])
        return str(s.pool[-1][0])
    kernel = [m.pick(1, 3, 3, 2) for _ in a.shape[2:]]
    dilations = [m.pick(1, 1, 2) for _ in kernel] if kind == "linear" else [1] * len(kernel)
    totals = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    begins = [m.pick(t // 2, t // 2, t - t // 2, t) for t in totals]
    pads = [*begins, *(t - b for t, b in zip(totals, begins, strict=True))]
    if kind == "pool":
        m.emit(s, "AveragePool", [x], kernel_shape=kernel, pads=pads, count_include_pad=m.pick(1, 1, None))
        return str(s.pool[-1][0])
    group = m.pick(1, 1, channels)
    inputs = [x, m.constant(s, m.numbers([channels, channels // group, *kernel]))]
    inputs += [m.constant(s, m.numbers([channels]))] if m.chance(0.4) else []
    m.emit(s, "Conv", inputs, group=group, pads=pads, dilations=dilations)
    return str(s.pool[-1][0])


def row(m: Maker, s: Scope) -> None:
    """Two linear operators, one of them of a single tap."""
    marks = len(s.pool)
    try:
        (matmul if s.pool[-1][1].ndim < 3 else _point)(m, s)
        (matmul if s.pool[-1][1].ndim < 3 else m.pick(_point, conv))(m, s)
    except Rejected:
        del s.pool[marks:]
        raise


def _point(m: Maker, s: Scope) -> None:
    x, a = s.pool[-1]
    inputs = [x, m.constant(s, m.numbers([m.size(), a.shape[1], *([1] * (a.ndim - 2))]))]
    inputs += [m.constant(s, m.numbers([m.known[inputs[1]].shape[0]]))] if m.chance(0.4) else []
    m.emit(s, "Conv", inputs, strides=m.pick(None, None, [2] * (a.ndim - 2)))


MERGES: list[Draw] = [parallel, parallel, row]


def in_front(m: Maker, s: Scope) -> None:
    """An affine that nothing in front can take, perhaps a crossing, and several readers that may take it."""
    if m.chance(0.5):
        m.emit(s, m.pick("Sigmoid", "Relu", "Relu", "Tanh", "Softsign"), [m.data(s)[0]])
    for _ in range(m.pick(1, 1, 1, 2)):
        m.attempt(s, [batch_norm, binary_constant, binary_constant, uniform_affine, uniform_affine, neg])
    outer, start = m.pinned, m.data(s)
    try:
        for _ in range(m.pick(1, 1, 1, 2, 3)):
            m.pinned = start
            for table in m.pick([ABSORBERS], [CROSSINGS, ABSORBERS], [CROSSINGS, CROSSINGS, ABSORBERS]):
                if m.attempt(s, table) and s.pool[-1][1].dtype == m.dtype:
                    m.pinned = s.pool[-1]
    finally:
        m.pinned = outer


def uniform_affine(m: Maker, s: Scope) -> None:
    """One number for everything, which padding can make up for."""
    scaled = m.name()
    m.emit(s, m.pick("Mul", "Div"), [m.data(s)[0], m.constant(s, m.numbers(()))], [scaled])
    m.emit(s, m.pick("Add", "Sub"), [scaled, m.constant(s, m.numbers(()))])


ABSORBERS: list[Draw] = [
    conv, conv, conv, gemm, matmul, matmul, table, norm, norm, recurrent, deform_conv,
]  # fmt: skip
AFFINES: list[Draw] = [batch_norm, batch_norm, binary_constant, binary_constant, binary_constant, neg, sum_constants]
CROSSINGS: list[Draw] = [
    residual, residual, activation, activation, activation, pool, reduce, concat, concat, split, slice_, gather, layout,
    layout, layout, pad, resize, depth_to_space, extremum, repeat, grid_sample,
]  # fmt: skip
FORWARD: list[Draw] = [in_front]
OTHERS: list[Draw] = [branch, loop, softmax, shape_of, two_data_matmul, branch]


def usual_tables() -> list[list[Draw]]:
    """What is drawn from, each as often as it stands there."""
    return [*[ABSORBERS] * 5, *[AFFINES] * 6, *[CROSSINGS] * 7, *[FORWARD] * 2, *[MERGES] * 3, OTHERS]
