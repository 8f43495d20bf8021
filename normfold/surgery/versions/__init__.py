"""A node of one opset as the same node of a newer one: exactly, or not at all.

Every operator set that onnx publishes states again what an operator means. Most statements only widen what is allowed;
then a node is valid as it stands. The others are written down in `table.py`, one step each: what has to be done to the
node, or under which condition nothing has. What neither the table nor an automatic comparison of the schemas vouches for
is refused.
"""

from normfold.surgery.versions.engine import convert, raise_opset
from normfold.surgery.versions.form import Converted, Fresh

__all__ = ["Converted", "Fresh", "convert", "raise_opset"]
