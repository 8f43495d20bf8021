"""Small reference networks as ONNX models, with every normalisation still in them.

    import models
    model = models.build("resnet", seed=3)      # an onnx.ModelProto
    feeds = models.feeds(model)                 # {input name: array}, for onnxruntime

`BUILDERS` maps a name to a builder. The same name and seed give the same bytes. Importing this package does not import
torch; the builders in `TORCH_FREE` never do, the others do when called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnx import ModelProto

from models.audio_cnn_1d import audio_cnn_1d
from models.caffe_scale import caffe_scale
from models.conv3d import conv3d
from models.conv_fp16 import conv_fp16, conv_fp16_float_norms
from models.convnext import convnext_block
from models.ctr_mlp import ctr_mlp
from models.densenet import densenet
from models.gan_generator import gan_generator
from models.if_body import if_body
from models.ir3_inputs import ir3_inputs, overridable_mean
from models.llama import llama_block, llama_block_dynamo
from models.local_function import local_function
from models.mlp import mlp, mlp_tokens
from models.mobilenet import mobilenet_v2, mobilenet_v2_dynamo
from models.nhwc_affine import nhwc_affine
from models.ports import feeds
from models.preact_resnet import preact_resnet
from models.quantised_cnn import quantised_cnn
from models.recognisers import gru_recogniser, lstm_recogniser
from models.repvgg import repvgg
from models.resnet import resnet, resnet_dynamo
from models.shufflenet import shufflenet
from models.squeeze_excite import squeeze_excite
from models.style_transfer import style_transfer
from models.unet import unet_groupnorm_silu, unet_groupnorm_silu_dynamo
from models.vit import vit_block, vit_block_dynamo, vit_block_opset14
from models.weight_norm import weight_norm

__all__ = ["BUILDERS", "TORCH_FREE", "Builder", "build", "feeds", "names"]

Builder = Callable[[int], ModelProto]

WRITTEN: tuple[Builder, ...] = (
    caffe_scale,
    nhwc_affine,
    if_body,
    local_function,
    ir3_inputs,
    overridable_mean,
    quantised_cnn,
)
EXPORTED: tuple[Builder, ...] = (
    resnet,
    mobilenet_v2,
    preact_resnet,
    densenet,
    gan_generator,
    audio_cnn_1d,
    conv3d,
    ctr_mlp,
    lstm_recogniser,
    gru_recogniser,
    unet_groupnorm_silu,
    vit_block,
    vit_block_opset14,
    convnext_block,
    style_transfer,
    weight_norm,
    repvgg,
    mlp,
    mlp_tokens,
    squeeze_excite,
    shufflenet,
    conv_fp16,
    conv_fp16_float_norms,
    llama_block,
    resnet_dynamo,
    mobilenet_v2_dynamo,
    unet_groupnorm_silu_dynamo,
    vit_block_dynamo,
    llama_block_dynamo,
)

TORCH_FREE = frozenset(builder.__name__ for builder in WRITTEN)
BUILDERS: Mapping[str, Builder] = {builder.__name__: builder for builder in (*EXPORTED, *WRITTEN)}


def names() -> list[str]:
    """Return the names of all reference models, in a stable order."""
    return list(BUILDERS)


def build(name: str, seed: int = 0) -> ModelProto:
    """Build one reference model; an unknown name is a `KeyError` that lists the known ones."""
    if name not in BUILDERS:
        raise KeyError(f"no reference model {name!r}; known: {', '.join(BUILDERS)}")
    return BUILDERS[name](seed)
