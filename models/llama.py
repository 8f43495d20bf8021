"""A llama-like decoder block: RMSNorm, rotary causal attention, gated MLP, final RMSNorm.

RMSNorm has no mean, no bias and, before opset 23, no operator: exporters write Pow, ReduceMean, Add, a root, Mul, Mul.
Its scale is on the last axis in front of bias-free MatMuls that could absorb it, and the first norm's output has three
readers (query, key, value), all of which must then absorb it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnx import ModelProto

from models.exporting import block, export, export_dynamo
from models.ports import VOCABULARY, Port

if TYPE_CHECKING:
    from torch import Tensor, nn  # noqa: TID251 - for annotations only, never executed

WIDTH, HEADS = 32, 4
HEAD = WIDTH // HEADS
IDS = Port("ids", ("batch", "tokens"), indices=True)


def llama_block(seed: int = 0) -> ModelProto:
    """Build it with RMSNorm written out as the Hugging Face code does."""
    return export(_decomposed, [IDS], seed)


def llama_block_dynamo(seed: int = 0) -> ModelProto:
    """Build it at opset 23, where RMSNormalization is an operator."""
    return export_dynamo(_operators, [IDS], seed, opset=23)


def _decomposed() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return _net(lambda: block(_rms_norm, affine=nn.RMSNorm(WIDTH)))


def _operators() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return _net(lambda: nn.RMSNorm(WIDTH, eps=1e-6))


def _rms_norm(m: nn.Module, x: Tensor) -> Tensor:
    import torch  # noqa: TID251 - builders are where torch lives

    variance = x.pow(2).mean(-1, keepdim=True)
    return m.affine.weight * (x * torch.rsqrt(variance + 1e-6))


def _net(norm: Callable[[], nn.Module]) -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    return nn.Sequential(
        nn.Embedding(VOCABULARY, WIDTH),
        block(lambda m, x: x + m.body(m.norm(x)), norm=norm(), body=_attention()),
        block(lambda m, x: x + m.body(m.norm(x)), norm=norm(), body=_gated_mlp()),
        norm(),
        nn.Linear(WIDTH, VOCABULARY, bias=False),
    )


def _attention() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    names = ("query", "key", "value", "project")
    return block(_attend, **{name: nn.Linear(WIDTH, WIDTH, bias=False) for name in names})


def _attend(m: nn.Module, x: Tensor) -> Tensor:
    import torch  # noqa: TID251 - builders are where torch lives

    tokens = x.shape[1]
    q, k, v = (_heads(part(x)) for part in (m.query, m.key, m.value))
    turn = torch.arange(tokens).float()[:, None] * (10000.0 ** (-torch.arange(HEAD // 2) / (HEAD // 2)))
    future = torch.ones(tokens, tokens).triu(1) * -1e4
    weights = (_rotate(q, turn) @ _rotate(k, turn).transpose(-2, -1) * HEAD**-0.5 + future).softmax(dim=-1)
    return m.project((weights @ v).transpose(1, 2).flatten(2))


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, HEAD)).transpose(1, 2)


def _rotate(x: Tensor, turn: Tensor) -> Tensor:
    import torch  # noqa: TID251 - builders are where torch lives

    cos, sin = turn.cos().repeat(1, 2), turn.sin().repeat(1, 2)
    swapped = torch.cat([-x[..., HEAD // 2 :], x[..., : HEAD // 2]], dim=-1)
    return x * cos + swapped * sin


def _gated_mlp() -> nn.Module:
    from torch import nn  # noqa: TID251 - builders are where torch lives

    parts = {"gate": nn.Linear(WIDTH, 64, bias=False), "up": nn.Linear(WIDTH, 64, bias=False)}
    down = nn.Linear(64, WIDTH, bias=False)
    return block(lambda m, x: m.down(nn.functional.silu(m.gate(x)) * m.up(x)), down=down, **parts)
