"""One random model through the engine, verification left out, so that it cannot hide a mistake of the engine."""

from __future__ import annotations

import contextlib
import enum
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper
from onnx.inliner import inline_local_functions

from normfold.affine.search import CONTRADICTION
from normfold.model.load import load
from normfold.model.tensors import RangeRefusal
from normfold.model.write import to_bytes
from normfold.surgery.apply import apply
from normfold.surgery.everything import Wishes, plan_everything
from normfold.surgery.norms.edits import RULE as NORM_RULE
from normfold.surgery.plan import Plan
from normfold.surgery.planner import Exclusions
from normfold.targets.names import Target
from tests.fuzz.generator import info, prune, random_model, session
from tests.fuzz.norm_spellings import random_norms
from tests.fuzz.outliner import outlined

_UNIT = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float16): 2.0**-11, np.dtype(np.float64): 2.0**-53}
_FLOATS = {1: 2.0**-24, 10: 2.0**-11, 11: 2.0**-53}
# They take their statistics in float32 even of float64.
_SINGLE_STATISTICS = ("GroupNormalization", "LayerNormalization", "RMSNormalization")
# Units of the last place of the largest number on the way, and multiples of what one ulp in the weights does.
_UNITS_ALLOWED = 600
_NOISE_ALLOWED = 150
_MINIMISING_SECONDS = 20.0
# What onnxruntime runs of the results.
TARGETS = (Target.PORTABLE, Target.ORT_CPU, Target.OPENVINO)
_BATCHES = (2, 3, 1, 4)
_SPREAD = (1.0, 0.0, 1.0, 20.0)


class Kind(enum.Enum):
    """What came of a model; those in capitals are mistakes."""

    FINE = "fine"
    SKIPPED = "skipped"
    CRASH = "CRASH"
    MISMATCH = "MISMATCH"
    DROPPED = "dropped"
    SECOND_PASS = "SECOND PASS"
    INTERFACE = "INTERFACE"
    INVALID = "INVALID"

    @property
    def is_mistake(self) -> bool:
        return self.value.isupper()


@dataclass(frozen=True)
class Outcome:
    kind: Kind
    message: str = ""
    edits: int = 0


class Contradiction(Exception):
    """The engine took a model that runs for ill-formed, because one of its rules stumbled."""


def optimise(model: ModelProto, target: Target | None = None) -> tuple[ModelProto, int]:
    """The engine alone: the result and the number of its edits; with a target, norms are spelled for it."""
    exclusions = Exclusions({}, skip=(NORM_RULE,) if target is None else ())
    planned = plan_everything(load(model), exclusions, Wishes(target or Target.PORTABLE))
    for decision in planned.plan.decisions:
        if CONTRADICTION in decision.message:
            raise Contradiction(decision.message)
    return ModelProto.FromString(to_bytes(apply(planned.model, planned.plan, {}))), _edits(planned.plan)


def _edits(plan: Plan) -> int:
    return len(plan.all_edits)


def examine(model: ModelProto, seed: int, target: Target | None = None) -> Outcome:
    """Optimise a model that onnxruntime takes, and hold the result against it."""
    try:
        result, edits = optimise(model, target)
    except RangeRefusal:
        return Outcome(Kind.SKIPPED, "a weight left its range")
    except Exception as error:
        return Outcome(Kind.CRASH, f"{error!r}\n{traceback.format_exc()}")
    difference = compare(model, result, seed)
    if difference is None:
        return Outcome(Kind.SKIPPED, "the original does not run", edits)
    if difference:
        return Outcome(Kind.MISMATCH, difference, edits)
    return _properties(model, result, edits, target)


def examine_functions(model: ModelProto, seed: int) -> Outcome:
    """The same model with parts of it in functions: it must fold as well, and be the same function.

    Both sides are compared with their calls inlined by onnx, for onnxruntime crashes on some models with functions.
    """
    moved = outlined(model, seed)
    if moved is None:
        return Outcome(Kind.SKIPPED, "too short")
    try:
        result, edits = optimise(moved)
    except RangeRefusal:
        return Outcome(Kind.SKIPPED, "a weight left its range")
    except Exception as error:
        return Outcome(Kind.CRASH, f"{error!r}\n{traceback.format_exc()}")
    if not edits and result != moved:
        return Outcome(Kind.MISMATCH, "nothing folds, and yet something changed")
    difference = compare(model, inline_local_functions(result), seed)
    if difference:
        return Outcome(Kind.MISMATCH, difference, edits)
    outcome = _properties(moved, result, edits)
    return Outcome(Kind.SKIPPED, "the original does not run", edits) if difference is None else outcome


def _properties(model: ModelProto, result: ModelProto, edits: int, target: Target | None = None) -> Outcome:
    for was, now in ((model.graph.input, result.graph.input), (model.graph.output, result.graph.output)):
        if [v.SerializeToString() for v in was] != [v.SerializeToString() for v in now]:
            return Outcome(Kind.INTERFACE, "inputs or outputs changed", edits)
    with contextlib.suppress(onnx.checker.ValidationError):
        onnx.checker.check_model(model)
        try:
            if target is not Target.ORT_CPU:  # whose operators the checker does not know
                onnx.checker.check_model(result)
        except onnx.checker.ValidationError as error:
            return Outcome(Kind.INVALID, str(error), edits)
    with contextlib.suppress(RangeRefusal):
        more = optimise(result, target)[1]
        if more:
            return Outcome(Kind.SECOND_PASS, f"{more} edits in the second pass", edits)
    return Outcome(Kind.FINE, "", edits)


# --- comparison ------------------------------------------------------------------------------------------------------


def compare(model: ModelProto, result: ModelProto, seed: int) -> str | None:
    """Where the outputs differ by more than rounding; empty if nowhere, None if the original does not run."""
    plain, exposed = session(model), session(_exposed(model))
    try:
        mine = session(result)
    except Exception as error:
        return f"the result does not load: {error}"
    unit, weights, ran = _unit(model), _largest(map(numpy_helper.to_array, model.graph.initializer)), False
    for feed in feeds(model, seed):
        try:
            plain.run(None, feed)  # it reuses memory where the exposed one does not, and may not run for that
            everything = exposed.run(None, feed)
        except Exception:
            continue
        try:
            got = mine.run(None, feed)
        except Exception as error:
            # onnxruntime reuses memory by the shapes that it infers, and for some pooling infers what its kernel does not do.
            if "re-use buffer" in str(error):
                continue
            return f"the result does not run: {error}"
        if any(v.dtype in _UNIT and not np.isfinite(v).all() for v in everything):
            continue
        # A Concat with an empty operand skips the check of the other dimensions and returns memory that nobody wrote.
        if any(v.size == 0 for v in everything):
            continue
        ran = True
        bound = _UNITS_ALLOWED * unit * (1.0 + weights + _largest(everything))
        for output, a, b in zip(model.graph.output, everything, got, strict=False):
            if a.dtype != b.dtype or a.shape != b.shape:
                return f"{output.name}: {a.dtype}{a.shape} became {b.dtype}{b.shape}"
            error = float(np.nan_to_num(np.abs(a.astype(np.float64) - b.astype(np.float64)), nan=np.inf).max(initial=0))
            if error > bound and error > _NOISE_ALLOWED * _noise(model, feed, output.name):
                return f"{output.name}: off by {error:.3g}, allowed {bound:.3g}"
    return "" if ran else None


def _unit(model: ModelProto) -> float:
    kinds = {t.type.tensor_type.elem_type for t in (*model.graph.input, *model.graph.output)}
    kinds |= {t.data_type for t in model.graph.initializer}
    if any(node.op_type in _SINGLE_STATISTICS for node in model.graph.node):
        return max(_FLOATS[1], *(_FLOATS[kind] for kind in kinds if kind in _FLOATS))
    if 11 in kinds:  # scales of Resize are float32 in a double model, too, and exact
        return _FLOATS[11]
    return max((_FLOATS[kind] for kind in kinds if kind in _FLOATS), default=_FLOATS[1])


def _largest(values: object) -> float:
    return max((float(np.abs(v.astype(np.float64)).max(initial=0)) for v in values if v.dtype in _UNIT), default=0.0)


def _exposed(model: ModelProto) -> ModelProto:
    """With every value of the main graph as a further output."""
    wide = ModelProto.FromString(model.SerializeToString())
    have = {output.name for output in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in have:
                have.add(name)
                wide.graph.output.append(onnx.ValueInfoProto(name=name))
    return wide


def feeds(model: ModelProto, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Ordinary, zero and large inputs, in several batch sizes."""
    for number, (batch, spread) in enumerate(zip(_BATCHES, _SPREAD, strict=True)):
        rng = np.random.default_rng([seed, number])
        feed: dict[str, np.ndarray] = {}
        for port in model.graph.input:
            kind = port.type.tensor_type
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            shape = [_size(d, batch) for d in kind.shape.dim]
            if dtype == np.bool_:
                feed[port.name] = np.asarray(number % 2 == 0)
            elif dtype.kind == "i":
                feed[port.name] = rng.integers(0, 2, shape).astype(dtype)
            else:
                feed[port.name] = (rng.standard_normal(shape) * spread).astype(dtype)
        yield feed


def _size(dim: onnx.TensorShapeProto.Dimension, batch: int) -> int:
    """The size of a dimension; an open one that is not the batch ends with it."""
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return batch if dim.dim_param == "N" else int(dim.dim_param.rpartition("_")[2])


def _noise(model: ModelProto, feed: dict[str, np.ndarray], name: str) -> float:
    """How far an output moves when weights and inputs move by one unit in the last place; exponents stay.

    A negative number has a square, and no power of 2.0000002: what is no number would count as what does not move.
    """
    rng = np.random.default_rng(0)
    exponents = {node.input[1] for node in model.graph.node if node.op_type == "Pow"}

    def moved(x: np.ndarray) -> np.ndarray:
        return np.nextafter(x, np.where(rng.random(x.shape) < 0.5, np.inf, -np.inf).astype(x.dtype)).astype(x.dtype)

    base, farthest = session(model).run([name], feed)[0].astype(np.float64), 0.0
    for _ in range(4):
        near = ModelProto.FromString(model.SerializeToString())
        for tensor in near.graph.initializer:
            if tensor.data_type in _FLOATS and tensor.name not in exponents:
                tensor.CopyFrom(numpy_helper.from_array(moved(numpy_helper.to_array(tensor)), tensor.name))
        inputs = {key: moved(value) if value.dtype.kind == "f" else value for key, value in feed.items()}
        with contextlib.suppress(Exception):
            farthest = max(farthest, float(np.abs(session(near).run([name], inputs)[0] - base).max(initial=0)))
    return farthest


# --- making a finding small ------------------------------------------------------------------------------------------


def minimise(model: ModelProto, seed: int, kind: Kind, seconds: float, target: Target | None = None) -> ModelProto:
    """A smaller model with the same kind of mistake: fewer outputs, fewer nodes, inputs in the place of nodes."""
    until = time.monotonic() + seconds

    def still(candidate: ModelProto) -> bool:
        try:
            session(candidate)
            return examine(candidate, seed, target).kind is kind
        except Exception:
            return False

    again = True
    while again:
        again = False
        for candidate in _smaller(model, seed):
            if time.monotonic() > until:
                return model
            if still(candidate):
                model, again = candidate, True
                break
    return model


def _smaller(model: ModelProto, seed: int) -> Iterator[ModelProto]:
    outputs = list(model.graph.output)
    for port in outputs if len(outputs) > 1 else ():
        fewer = ModelProto.FromString(model.SerializeToString())
        fewer.graph.output.remove(port)
        yield prune(fewer)
    for index, node in reversed(list(enumerate(model.graph.node))):
        if len(node.output) != 1 or node.output[0] in {port.name for port in outputs}:
            continue
        for name in filter(None, dict.fromkeys(node.input)):
            bypassed = ModelProto.FromString(model.SerializeToString())
            del bypassed.graph.node[index]
            for reader in bypassed.graph.node:
                for slot, read in enumerate(reader.input):
                    if read == node.output[0]:
                        reader.input[slot] = name
            yield prune(bypassed)
        with contextlib.suppress(Exception):
            value = session(_exposed(model)).run([node.output[0]], next(feeds(model, seed)))[0]
            cut = ModelProto.FromString(model.SerializeToString())
            del cut.graph.node[index]
            cut.graph.input.append(info(node.output[0], value))
            yield prune(cut)


def examine_seed(seed: int) -> tuple[str, int, str, bytes]:
    """What comes of a seed: the kind, the number of edits, the message, and for a mistake the small model."""
    model = random_model(seed)
    if model is None:
        return "", 0, "", b""
    outcome = examine(model, seed)
    if not outcome.kind.is_mistake:
        moved = examine_functions(model, seed)
        if moved.kind.is_mistake:
            whole = outlined(model, seed)
            return (
                moved.kind.value,
                moved.edits,
                f"in functions: {moved.message}",
                whole.SerializeToString() if whole else b"",
            )
        return outcome.kind.value, outcome.edits, outcome.message, b""
    small = minimise(model, seed, outcome.kind, _MINIMISING_SECONDS)
    return outcome.kind.value, outcome.edits, examine(small, seed).message, small.SerializeToString()


def examine_norms(seed: int) -> tuple[str, int, str, bytes]:
    """The same for a seed of models full of norms, spelled for the target of the seed."""
    model, target = random_norms(seed), TARGETS[seed % len(TARGETS)]
    if model is None:
        return "", 0, "", b""
    outcome = examine(model, seed, target)
    if not outcome.kind.is_mistake:
        return outcome.kind.value, outcome.edits, outcome.message, b""
    small = minimise(model, seed, outcome.kind, _MINIMISING_SECONDS, target)
    message = f"{target.value}: {examine(small, seed, target).message}"
    return outcome.kind.value, outcome.edits, message, small.SerializeToString()
