"""Guards that no test can miss, each with the reason: without them the rules give the same answers."""

from __future__ import annotations

from collections.abc import Iterable

from tests.mutation.guards import Guard

_GROUPS = "where there is one value per channel there are as many groups as channels, and both ways say the same"
_FACTOR = "without a scale the factor is 1 everywhere, and what is multiplied by it stays"
_ONE_OUTPUT = "the operators that the callers look for have one output that is data"
_WALKED = "the forward search came to the Conv on the same way before, through the same check"
_ONE_CHANNEL = (
    "a second line: the way to both Convs stops at every other affine, so the same two are joined once in a plan"
)
_TYPES = "nothing else can be there; it is said for the type checker"
_CHECKED = "a test for None: the type checker refuses the code without it"
_SPOKEN = "`transfer` says nothing of what such a node makes, so that no norm begins there: it saves looking"
_REACHED = "the node is reached because its only data input has a fact"

# (path, function, text) -> why nothing changes without it
EQUIVALENT: dict[tuple[str, str, str], str] = {
    ("normfold/affine/normalisers.py", "_by_group", "node.op_type == 'GroupNormalization'"): _GROUPS,
    ("normfold/affine/normalisers.py", "_by_group", "node.scope.version < _GROUP_NORM_PER_CHANNEL"): _GROUPS,
    ("normfold/affine/convolution.py", "front_factor", "not front.scales"): _FACTOR,
    ("normfold/affine/gemm.py", "front_rows", "not front.scales"): _FACTOR,
    ("normfold/affine/change.py", "biased", "not shift.any() and (not (scale != 1).any())"): _FACTOR,
    ("normfold/affine/merge/branch.py", "_producer", "value.output_slot"): _ONE_OUTPUT,
    ("normfold/affine/crossings/activations.py", "_relu_forward", "kind is None"): _CHECKED,
    ("normfold/affine/crossings/branches.py", "_require_normal", "kind is None"): _CHECKED,
    ("normfold/affine/matmul.py", "_accept_matmul_forward", "rank is None"): _CHECKED,
    ("normfold/affine/matmul.py", "_becomes_gemm", "data is not None"): _CHECKED,
    ("normfold/affine/patterns.py", "require_no_gate", "operand is not None"): _CHECKED,
    ("normfold/affine/recognise.py", "has_constant_operand", "kind is not None"): _CHECKED,
    ("normfold/affine/recognise.py", "_would_be_affine", "dynamic[0] is None"): _CHECKED,
    ("normfold/affine/recognise.py", "_would_be_affine", "kind is not None"): _CHECKED,
    ("normfold/affine/search.py", "_search", "slot and node.op_type not in _MANY_OUTPUTS"): (
        "a second line: the shape of the mean of a LayerNormalization and its like is not derived, so nothing behind is read"
    ),
    ("normfold/affine/table.py", "_aligned_to_table", "axis < lead"): (
        "numpy refuses the shape as well, and the crossing of Gather has the last word either way"
    ),
    ("normfold/affine/merge/branch.py", "_identity", "data is None"): _TYPES,
    ("normfold/affine/merge/branch.py", "_identity", "rank is None"): _TYPES + "; nor is the rank of a sum known then",
    ("normfold/affine/merge/branches.py", "_common", "best is None"): _TYPES
    + "; `starts` is empty, and so are the counts",
    ("normfold/affine/merge/rows.py", "_behind", "rank is None"): _TYPES + "; `trace` knows the rank in front",
    (
        "normfold/affine/patterns.py",
        "_derives",
        "id(node) in seen",
    ): "a graph has no cycles: it only saves the same way twice",
    ("normfold/affine/unit_channel.py", "_forward", "require_standard(node)"): _WALKED,
    ("normfold/affine/unit_channel.py", "_forward", "require_private(draft, draft.root(value), node)"): _WALKED,
    ("normfold/affine/unit_channel.py", "_require_free", "any((item is not None for item in taken))"): _ONE_CHANNEL,
    ("normfold/norm/confirm.py", "_wanted", "raise Refused('unconfirmed', str(error)) from error"): (
        "a second line: `attempts` has compared gamma and beta with the dimensions"
    ),
    ("normfold/norm/evaluate/call.py", "type_of", "value is None"): _CHECKED,
    ("normfold/norm/frame.py", "constant", "value is None"): _CHECKED,
    ("normfold/norm/numbers.py", "_numbers", "array is None"): _CHECKED,
    ("normfold/norm/recognise.py", "_is_live", "node.is_call"): _SPOKEN,
    ("normfold/norm/recognise.py", "_of_base", "kind is None"): _CHECKED,
    ("normfold/norm/recognise.py", "_of_base", "value is None"): _CHECKED,
    ("normfold/norm/recognise.py", "_frame", "not set_axes(frame, seed, path)"): (
        "without axes nothing is a mean, and no norm is found: it saves the walk"
    ),
    ("normfold/norm/recognise.py", "_operand_behind", "other is None"): _CHECKED,
    ("normfold/norm/seeds.py", "set_axes", "made[0] is None"): _CHECKED,
    ("normfold/norm/transfer/elementwise.py", "_cast_like", "target is None"): _CHECKED,
    (
        "normfold/norm/recognise.py",
        "_between",
        "id(node) in wanted",
    ): "a graph has no cycles: it only saves the same way twice",
    ("normfold/norm/seeds.py", "set_axes", "not atoms"): _TYPES + "; without axes nothing is found either",
    ("normfold/norm/transfer/elementwise.py", "add", "both is None"): "there is no form then either; " + _TYPES,
    ("normfold/norm/transfer/elementwise.py", "multiply", "both is None"): "there is no form then either; " + _TYPES,
    ("normfold/norm/transfer/elementwise.py", "_sum", "isinstance(total, Fact)"): _TYPES,
    ("normfold/norm/transfer/view_ops.py", "reshape_to", "math.prod(wanted) != math.prod(before)"): (
        "the cut into atoms comes to the same end, and would cut some for nothing"
    ),
    ("normfold/norm/views.py", "reshaped", "size > 1"): "every caller has made sure of the number of elements",
    ("normfold/norm/views.py", "reshaped", "left"): "every caller has made sure of the number of elements",
    ("normfold/norm/transfer/reductions.py", "mean", "form is None"): _TYPES,
    ("normfold/norm/accept.py", "norm_of", "fact.partial"): "only a polynomial is a mean that is not complete",
    ("normfold/norm/transfer/elementwise.py", "same", "fact is None"): _REACHED,
    ("normfold/norm/transfer/elementwise.py", "_dropout", "fact is None"): _REACHED,
    (
        "normfold/norm/frame.py",
        "meets",
        "len(set(order)) != len(order)",
    ): "a view in which an atom stands twice is not kept",
    ("normfold/affine/merge/branch.py", "is_sum", "len(node.inputs) < 2"): "one summand is no family of branches",
    ("normfold/norm/recognise.py", "sites", "not seeds"): "a loop over nothing; it saves numbering the nodes",
    (
        "normfold/norm/recognise.py",
        "_is_closed",
        "id(value) in known",
    ): "a graph has no cycles: it only saves the same way twice",
}


def without_equivalents(guards: Iterable[Guard]) -> list[Guard]:
    """The guards that a test can miss."""
    return [guard for guard in guards if (guard.path, guard.function, guard.text) not in EQUIVALENT]
