"""A new tensor in a model that is not written yet: its values are computed when somebody asks for them."""

from __future__ import annotations

from onnx import TensorProto

from normfold.model.external import DataFiles
from normfold.model.tensors import Array, FileTensor, NewTensor


class Deferred(FileTensor):
    """A tensor that stands in a model like one of the file, and is still the formula `new`.

    Args:
        new: what it will be.
        files: of the model.
    """

    __slots__ = ("new",)

    def __init__(self, new: NewTensor, files: DataFiles) -> None:
        super().__init__(TensorProto(name=new.name, data_type=new.data_type, dims=new.dims), files)
        self.new = new

    def stored_bytes(self) -> int:
        """Bytes that it will take."""
        return self.new.nbytes

    def raw(self) -> memoryview:
        """The packed little-endian payload, computed.

        Raises:
            RangeRefusal: a value leaves the range of the type.
        """
        return memoryview(self.new.payload())

    def array(self) -> Array:
        """The values in storage type, shape `dims`, computed.

        Raises:
            RangeRefusal: a value leaves the range of the type.
        """
        return self.new.array()
