"""New statistics -> Candidate. Only the parameters change; everything else is written as it was, byte for byte.

A tensor that nobody else reads is replaced where it stands. One that several nodes or slots share is left to the others:
the node gets a tensor of its own, which is also how statistics that several layers had in common become several.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from normfold.errors import InputError
from normfold.model import dtypes
from normfold.model.graph import Value
from normfold.model.load import FIRST_OVERRIDABLE_IR
from normfold.model.patch import Candidate
from normfold.model.splice import METADATA_PREFIX
from normfold.model.tensors import NewTensor, Values
from normfold.statistics.exact_sums import Float64
from normfold.statistics.probes.forms import Statistics
from normfold.statistics.sites import MEAN, VAR, StatSite
from normfold.statistics.subject import Subject


def stored(subject: Subject, statistics: Mapping[str, Statistics], metadata: Mapping[str, str]) -> Candidate:
    """The model with other statistics.

    Args:
        subject: the model as it was loaded.
        statistics: by key of the site.
        metadata: entries of `metadata_props` to set.

    Raises:
        InputError: `recalibrate.function`, a function holds them, or several calls share them.
    """
    ours = {key: text for key, text in subject.original.metadata.items() if key.startswith(METADATA_PREFIX)}
    candidate = Candidate(subject.original, {}, {**ours, **metadata})
    store(candidate, subject, statistics)
    return candidate


def store(candidate: Candidate, subject: Subject, statistics: Mapping[str, Statistics]) -> None:
    """Put statistics into a candidate that may change other things already.

    Raises:
        InputError: as `stored`.
    """
    _Store(subject, candidate).run(statistics)


class _Store:
    def __init__(self, subject: Subject, candidate: Candidate) -> None:
        self.subject = subject
        self.candidate = candidate
        self.graph = subject.original.graph
        self.names = {name for scope in subject.original.scopes() for name in scope.values}

    def run(self, statistics: Mapping[str, Statistics]) -> None:
        for site in self.subject.sites:
            new = statistics.get(site.key)
            if new is not None:
                self._put(site, MEAN, new.mean)
                self._put(site, VAR, new.var)

    def _put(self, site: StatSite, slot: int, values: Float64) -> None:
        value = site.parameter(slot)
        assert value is not None
        source = value.tensor if value.exposed else self.subject.constants.get(value)
        data_type = dtypes.FLOAT if source is None else source.data_type
        known = self._private(value)
        position = None if known is None else _position(known)
        if known is not None and position is not None:
            self.candidate.patch(known.scope).replaced[position] = _tensor(value.name, values, data_type)
            return
        if site.node.scope.root is not self.graph:
            raise InputError(
                "recalibrate.function",
                f"{value.name!r} belongs to a function, or is shared by calls of one: it cannot be changed for one layer",
                where=site.label,
                hint="inline the functions first, for example with onnx.inliner",
            )
        self._own(site, slot, value, values, data_type)

    def _private(self, value: Value) -> Value | None:
        """The value in the file, if it is an initializer with one reader there, and after calls were inlined; else None."""
        known = value if value.scope.root is self.graph else self.graph.values.get(value.name)
        if value.tensor is None or known is None or known.tensor is None or known.is_output:
            return None
        return known if len(value.uses) == 1 and len(known.uses) == 1 else None

    def _own(self, site: StatSite, slot: int, value: Value, values: Float64, data_type: int) -> None:
        """A tensor for this node alone."""
        tensor = _tensor(self._fresh(f"{value.name}.{site.label}"), values, data_type)
        patch = self.candidate.patch(site.node.scope)
        if self.subject.original.ir_version < FIRST_OVERRIDABLE_IR:  # a new initializer would have to be an input
            patch.constants.setdefault(site.node.index, []).append(tensor)
        else:
            patch.added.append(tensor)
        node = patch.node(site.node.index)
        names = node.inputs if node.inputs is not None else list(site.node.proto.input)
        names[slot] = tensor.name
        node.inputs = names

    def _fresh(self, hint: str) -> str:
        name, count = hint, 0
        while name in self.names:
            count += 1
            name = f"{hint}_{count}"
        self.names.add(name)
        return name


def _position(value: Value) -> int | None:
    """Of an initializer among those that its scope has in the file; None of one that is not there."""
    names = [tensor.name for _, tensor in value.scope.outline.initializers]
    return names.index(value.name) if value.name in names else None


def _tensor(name: str, values: Float64, data_type: int) -> NewTensor:
    return NewTensor(name, Values(np.ascontiguousarray(values), dtypes.DOUBLE), data_type, values.shape)
