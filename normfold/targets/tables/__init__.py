"""The tables of the targets: what has a kernel there, how that is known, and what each norm becomes."""

from __future__ import annotations

from normfold.targets.facts import Table
from normfold.targets.names import Target
from normfold.targets.tables import directml, openvino, ort_cpu, ort_cuda, portable, tensorrt

TABLES: dict[Target, Table] = {
    module.TABLE.target: module.TABLE for module in (portable, ort_cpu, ort_cuda, tensorrt, directml, openvino)
}


def table_of(target: Target) -> Table:
    """The table of a target."""
    return TABLES[target]
