"""`.pt` files -> arrays by name, with torch, which is imported when one is read. Nothing in them is run."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normfold.errors import EnvironmentProblem, InputError

Array = NDArray[Any]

# Where training scripts put the weights, and copies of them that were averaged over the last steps.
_NESTS = ("state_dict", "model_state_dict", "model", "model_state", "net", "network", "weights")
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "averaged_model")
_DEEPEST = 4
# What torch says about a file that wants code to run; everything else that its reader says means damage.
_CODE = ("GLOBAL", "Unsupported class", "Trying to")


def read_torch(path: Path) -> Iterator[dict[str, Array]]:
    """The weights, and then each averaged copy with its name in front.

    Raises:
        InputError: `checkpoint.format`, `checkpoint.damaged`, `checkpoint.objects`.
        EnvironmentProblem: `environment.torch`, torch is not installed.
    """
    try:
        import torch  # noqa: TID251 - only here, and only for a file that nothing else can read
    except ImportError:
        raise EnvironmentProblem(
            "environment.torch", "a .pt file needs torch", where=str(path),
            hint="pip install 'normfold[torch]', or save the weights as .safetensors",
        ) from None  # fmt: skip
    loaded = _loaded(torch, path)
    parts = [part for part in _parts(loaded, torch) if part]
    if not parts:
        raise InputError(
            "checkpoint.format", "there are no weights in it", where=str(path),
            hint="save model.state_dict(), by itself or as 'state_dict'",
        )  # fmt: skip
    yield from parts


def _loaded(torch: Any, path: Path) -> Any:
    """What the file holds; a large one is mapped, not read."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch raises whatever a damaged file makes its reader run into
        text = " ".join(str(error).split())
        if isinstance(error, pickle.UnpicklingError) and any(word in text for word in _CODE):
            raise InputError(
                "checkpoint.objects", "it holds more than weights, and nothing in it is run", where=str(path),
                hint="save model.state_dict() instead of the model",
            ) from None  # fmt: skip
        words = text.rpartition("WeightsUnpickler error:")[2].strip()[:200] or type(error).__name__
        raise InputError("checkpoint.damaged", f"torch cannot read it: {words}", where=str(path)) from None


def _parts(loaded: Any, torch: Any) -> Iterator[dict[str, Array]]:
    if not isinstance(loaded, Mapping):
        return
    yield dict(_tensors(_nested(loaded), torch))
    for name in _AVERAGED:
        if isinstance(loaded.get(name), Mapping):
            yield {f"{name}.{key}": array for key, array in _tensors(_nested(loaded[name]), torch)}


def _nested(loaded: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The mapping that holds the weights, which may lie in others."""
    for _ in range(_DEEPEST):
        inner = next((loaded[name] for name in _NESTS if isinstance(loaded.get(name), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    return loaded


def _tensors(weights: Mapping[Any, Any], torch: Any) -> Iterator[tuple[str, Array]]:
    """Real tensors as numpy has them; types that it does not know become float32."""
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.device.type == "meta":
            continue
        if value.is_quantized or value.is_complex():
            continue
        tensor = value.detach()
        try:
            yield str(name), np.asarray(tensor.numpy())
        except TypeError:  # bfloat16, floats of 8 bits
            yield str(name), np.asarray(tensor.float().numpy())
