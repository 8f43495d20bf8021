"""One attempt to spell one norm: what a spelling may read, and the steps that several spellings share."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from normfold.model.dtypes import largest, type_name
from normfold.norm.meaning import Float64, Norm, Surroundings
from normfold.targets.draft import Draft
from normfold.targets.facts import Support, Table
from normfold.targets.lowering import Given, X
from normfold.targets.reasons import Cannot

# Elements of a constant that an operator asks for and that the model does not have. A few bytes of a file may declare
# dimensions of any extent.
_MOST_ELEMENTS = 1 << 24


def require_moderate(shape: Iterable[int], what: str) -> None:
    """Refuse to make a constant of that shape.

    Raises:
        Cannot: it has too many elements.
    """
    count = math.prod(shape)
    if count > _MOST_ELEMENTS:
        raise Cannot("constant-size", f"{what} would be a new constant of {count} elements")


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """What a core is multiplied with, and what is added: constants of the rank of `x`, names of the graph, or nothing."""

    gamma: Float64 | Given | None = None
    beta: Float64 | Given | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """What a spelling works with.

    Args:
        norm: canonical, possibly permuted.
        data_type: ONNX element type in which the operator computes.
        draft: where the nodes go.
        table: the facts of the target.
        around: what may go into the operator.
        precise: whether there is a precision bound.
        value: what the norm reads, of type `data_type`; None for the `x` of the graph, still to be cast.
    """

    norm: Norm
    data_type: int
    draft: Draft
    table: Table
    around: Surroundings
    precise: bool = False
    value: str | None = None

    def read(self) -> str:
        """What the norm reads, cast where it computes in another type."""
        return self.cast(X, self.norm.input_type) if self.value is None else self.value

    def cast(self, name: str, data_type: int) -> str:
        """A tensor of type `data_type` and the rank of `x` in the type of the computation."""
        if data_type == self.data_type:
            return name
        return self.draft.op("Cast", name, data_type=data_type, rank=self.norm.rank, to=self.data_type)

    def op(self, op_type: str, *inputs: str, rank: int | None = None, **attributes: Any) -> str:
        """A node on the type of the computation, of the rank of `x` unless said otherwise."""
        rank = self.norm.rank if rank is None else rank
        return self.draft.op(op_type, *inputs, data_type=self.data_type, rank=rank, **attributes)

    def within(self, norm: Norm, value: str) -> Site:
        """The same attempt on another view of `x`."""
        return replace(self, norm=norm, value=value)

    def support(self, operator: str, domain: str = "") -> Support:
        """The kernel of an operator.

        Raises:
            Cannot: the target has none.
        """
        found = self.table.kernel(operator, domain)
        if found is None or not found.types:
            why = f": {found.note}" if found is not None and found.note else ""
            raise Cannot("no-kernel", f"{self.table.target.value} has no kernel for {operator}{why}")
        return found

    def epsilon(self) -> float:
        """Epsilon as an operator stores it: a float32, rounded once.

        Raises:
            Cannot: nothing is left of it, or it is not finite any more.
        """
        with np.errstate(over="ignore", under="ignore"):
            single = float(np.float32(self.norm.epsilon))
        if not math.isfinite(single) or (single == 0.0) != (self.norm.epsilon == 0.0):
            raise Cannot("epsilon", f"epsilon = {self.norm.epsilon:g} is {single:g} as a float32 attribute")
        return single

    def extents(self, axes: Collection[int], what: str) -> tuple[int, ...]:
        """The extents of some dimensions.

        Raises:
            Cannot: one of them is not known, or there are more elements than a new constant may have.
        """
        dims = [self.norm.dims[axis] for axis in axes]
        for axis, dim in zip(axes, dims, strict=True):
            if not isinstance(dim, int):
                raise Cannot("static-shape", f"the extent of dimension {axis} is not known, and {what} needs it")
        known = tuple(dim for dim in dims if isinstance(dim, int))
        require_moderate(known, what)
        return known

    # --- parameters ---------------------------------------------------------------------------------------

    def parameters(self) -> Affine:
        """Gamma and beta, wherever they come from."""
        norm = self.norm
        gamma = norm.gamma if norm.scale is None else Given(norm.scale)
        return Affine(gamma, norm.beta if norm.bias is None else Given(norm.bias))

    def split(
        self, axes: Collection[int], *, takes_bias: bool = True, takes_names: bool = False
    ) -> tuple[Affine, Affine]:
        """What an operator with parameters along `axes` takes, and what stays outside of it, in that order.

        A beta goes in only behind a gamma that does, because it is added after the multiplication.
        """
        whole = self.parameters()

        def fits(parameter: Float64 | Given | None) -> bool:
            if isinstance(parameter, Given):
                return takes_names
            return parameter is None or all(e == 1 or axis in axes for axis, e in enumerate(parameter.shape))

        gamma_in = fits(whole.gamma)
        beta_in = gamma_in and takes_bias and fits(whole.beta)
        inner = Affine(whole.gamma if gamma_in else None, whole.beta if beta_in else None)
        outer = Affine(None if gamma_in else whole.gamma, None if beta_in else whole.beta)
        return inner, outer

    def operand(self, name: str, parameter: Float64 | Given | None, shape: tuple[int, ...], neutral: float) -> str:
        """A parameter as an input of exactly `shape`, which is the shape of the last dimensions of `x`."""
        if isinstance(parameter, Given):
            return self._given(parameter, len(shape))
        if parameter is None:
            return self.constant("ones" if neutral else "zeros", np.full(shape, neutral))
        lead = parameter.ndim - len(shape)
        return self.constant(name, np.broadcast_to(parameter.reshape(parameter.shape[lead:]), shape))

    def per_channel(
        self, name: str, parameter: Float64 | Given | None, channels: int, neutral: float, data_type: int | None = None
    ) -> str:
        """A parameter that varies along one dimension at most as an input `[channels]`."""
        assert not isinstance(parameter, Given)
        values = np.full(channels, neutral if parameter is None else parameter.reshape(-1))
        name = name if parameter is not None else "ones" if neutral else "zeros"
        return self.constant(name, values, data_type)

    def constant(self, name: str, values: Float64, data_type: int | None = None) -> str:
        """A float constant, by default in the type of the computation.

        Raises:
            Cannot: a value is not finite in that type.
        """
        data_type = self.data_type if data_type is None else data_type
        if not bool(np.all(np.abs(values) <= largest(data_type))):
            raise Cannot("parameter-range", f"{name} is not finite in {type_name(data_type)}")
        return self.draft.floats(name, values, data_type)

    def apply(self, value: str, affine: Affine) -> str:
        """`value` of the shape of `x`, multiplied and shifted by elementwise operators."""
        if affine.gamma is not None:
            value = self.op("Mul", value, self.factor("scale", affine.gamma))
        return value if affine.beta is None else self.op("Add", value, self.factor("bias", affine.beta))

    def factor(self, name: str, parameter: Float64 | Given) -> str:
        """A parameter as an operand of elementwise operators, without leading extents of 1."""
        if isinstance(parameter, Given):
            return self._given(parameter, len(self.norm.axes))
        leading = next((axis for axis, extent in enumerate(parameter.shape) if extent > 1), parameter.ndim)
        return self.constant(name, parameter.reshape(parameter.shape[leading:]))

    def _given(self, name: Given, rank: int) -> str:
        if self.norm.parameter_type == self.data_type:
            return name
        return self.draft.op("Cast", name, data_type=self.norm.parameter_type, rank=rank, to=self.data_type)
