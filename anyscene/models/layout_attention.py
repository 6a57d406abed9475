"""Self-attention that keeps background queries off foreground keys, with fast kernels.

The bias -s b_i f_j of query i (b: background) and key j (f: foreground) has rank one, so it fits
into one more channel of queries and keys: no N x N bias matrix is made, and kernels without biases
(FlashAttention, xformers) stay usable. They want head dimensions in multiples of 8, which is what
the channels are padded to.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, XFormersAttnProcessor
from torch import Tensor

SELF_ATTENTION = ".attn1.processor"  # of a transformer block, as diffusers names them
HEAD_MULTIPLE = 8


class AttentionBias:
    """Where the foreground is at every resolution, and how strongly background is kept off it.

    `masks` are B 1 h w in [0, 1], one a resolution, 1 where there is foreground. `active` switches
    it from step to step.
    """

    def __init__(self, strength: Tensor, masks: Sequence[Tensor]) -> None:
        self.strength = strength
        self.foreground = {mask.shape[2] * mask.shape[3]: mask.flatten(1) for mask in masks}  # B N
        self.active = False

    def columns(self, batch: int, head_dim: int, tokens: int) -> tuple[Tensor, Tensor]:
        """The channel of the queries and that of the keys, each `batch` N.

        `batch` is a multiple of B: guidance puts several predictions of the images in one batch.
        """
        if tokens not in self.foreground:
            known = sorted(self.foreground)
            raise ValueError(f"self-attention over {tokens} tokens; masks have {known}")
        own = self.foreground[tokens]
        foreground = own.repeat(batch // len(own), 1)
        return (foreground - 1) * self.strength * math.sqrt(head_dim), foreground


class BiasedSelfAttention:
    """diffusers' attention processor in a block while layout control is on.

    Does what `plain`, the processor in its place, does, wherever the bias is not active.
    """

    def __init__(self, plain: Any, bias: AttentionBias) -> None:
        self.plain = plain
        self.bias = bias

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """The attended hidden states, B N C."""
        if not self.bias.active or encoder_hidden_states is not None:
            return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        batch, tokens, _ = hidden_states.shape
        layers: Any = attn  # whose types say that any layer may be missing
        projections = (layers.to_q, layers.to_k, layers.to_v)
        query, key, value = (
            layer(hidden_states).view(batch, tokens, attn.heads, -1) for layer in projections
        )  # B N heads d
        columns = self.bias.columns(batch, query.shape[-1], tokens)
        use_xformers = isinstance(self.plain, XFormersAttnProcessor)
        operator = {"op": self.plain.attention_op} if use_xformers else None
        attended = biased_attention(query, key, value, *columns, operator)
        projected = layers.to_out[0](attended.reshape(batch, tokens, -1))
        return layers.to_out[1](projected)  # dropout, the identity while sampling


def biased_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_column: Tensor,
    key_column: Tensor,
    xformers_options: dict[str, Any] | None = None,
) -> Tensor:
    """softmax((q k^T + column_q column_k^T) / sqrt(d)) v, B N heads d like `query`.

    query, key, value: B N heads d; the columns: B N. With `xformers_options` by xformers, otherwise
    by PyTorch's scaled_dot_product_attention.
    """
    head_dim = query.shape[-1]
    extra = HEAD_MULTIPLE - head_dim % HEAD_MULTIPLE  # at least one
    query, key = _with_column(query, query_column, extra), _with_column(key, key_column, extra)
    value = F.pad(value, (0, extra))  # fast kernels want one head dimension for all
    scale = head_dim**-0.5
    if xformers_options is not None:
        from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]

        attended = memory_efficient_attention(query, key, value, scale=scale, **xformers_options)
    else:
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, scale=scale).transpose(1, 2)
    return attended[..., :head_dim]


def _with_column(heads: Tensor, column: Tensor, extra: int) -> Tensor:
    """B N heads d with `column` B N and zeros as `extra` more channels."""
    own = column.to(heads.dtype)[:, :, None, None].expand(-1, -1, heads.shape[2], 1)
    return torch.cat([heads, F.pad(own, (0, extra - 1))], dim=-1)


@contextmanager
def biased_self_attention(unet: UNet2DConditionModel, bias: AttentionBias) -> Iterator[None]:
    """While it is open, the UNet's self-attention has the bias; afterwards all is as before."""
    before = dict(unet.attn_processors)
    biased: dict[str, Any] = {
        name: BiasedSelfAttention(own, bias) if name.endswith(SELF_ATTENTION) else own
        for name, own in before.items()
    }
    unet.set_attn_processor(biased)
    try:
        yield
    finally:
        unet.set_attn_processor(before)
