"""The rank-one attention bias against an explicit bias matrix, by every kernel."""

import math
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, XFormersAttnProcessor
from torch.nn.attention import SDPBackend, sdpa_kernel

from anyscene.models.layout_attention import (
    AttentionBias,
    BiasedSelfAttention,
    biased_attention,
    biased_self_attention,
)


def heads(batch=4, tokens=16, count=2, head_dim=5, **place):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, tokens, count, head_dim, generator=generator).to(**place)
        for _ in range(3)
    ]


def two_masks():
    """B 1 4 4: the left half, and one soft cell."""
    masks = torch.zeros(2, 1, 4, 4)
    masks[0, :, :, :2] = 1
    masks[1, :, 1, 1] = 0.5
    return masks


def with_bias_matrix(query, key, value, strength, masks):
    """B N heads d by scaled_dot_product_attention with the whole N x N bias."""
    foreground = masks.flatten(1).repeat(len(query) // len(masks), 1).to(query)
    bias = -strength * (1 - foreground)[:, None, :, None] * foreground[:, None, None, :]
    parts = (part.transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(*parts, attn_mask=bias).transpose(1, 2)


@pytest.mark.parametrize("head_dim", [4, 5, 8, 40, 64])
def test_bias_in_one_more_channel_equals_the_bias_matrix(head_dim):
    query, key, value = heads(head_dim=head_dim)
    bias = AttentionBias(torch.tensor(3.0), [two_masks()])
    ours = biased_attention(query, key, value, *bias.columns(4, head_dim, 16))
    expected = with_bias_matrix(query, key, value, 3.0, two_masks())
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    plain = with_bias_matrix(query, key, value, 0.0, two_masks())
    assert (ours - plain).abs().max() > 0.01


def test_strong_bias_leaves_background_to_itself():
    """Background queries see background values alone; foreground queries see everything."""
    query, key, value = heads(batch=1)
    mask = two_masks()[:1]
    inside = mask.flatten() > 0
    bias = AttentionBias(torch.tensor(50.0), [mask])
    ours = biased_attention(query, key, value, *bias.columns(1, 5, 16))
    parts = [query[:, ~inside], key[:, ~inside], value[:, ~inside]]
    alone = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts))
    torch.testing.assert_close(ours[:, ~inside], alone.transpose(1, 2), atol=1e-5, rtol=1e-5)
    whole = with_bias_matrix(query, key, value, 0.0, mask)
    torch.testing.assert_close(ours[:, inside], whole[:, inside], atol=1e-5, rtol=1e-5)


def test_flash_attention_takes_the_bias():
    """Which refuses a bias matrix that broadcasts nothing, and head dimensions not a multiple of 8
    on a GPU."""
    query, key, value = heads(head_dim=40)
    bias = AttentionBias(torch.tensor(3.0), [two_masks()])
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        ours = biased_attention(query, key, value, *bias.columns(4, 40, 16))
    expected = with_bias_matrix(query, key, value, 3.0, two_masks())
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["flash", "xformers"])
def test_fast_kernels_on_a_gpu_take_the_bias(kernel):
    options = None
    if kernel == "xformers":
        pytest.importorskip("xformers")
        options = {"op": None}
    place = {"device": "cuda", "dtype": torch.float16}
    query, key, value = heads(tokens=64, head_dim=40, **place)
    masks = F.interpolate(two_masks(), (8, 8)).cuda()
    bias = AttentionBias(torch.tensor(3.0, device="cuda"), [masks])
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        ours = biased_attention(query, key, value, *bias.columns(4, 40, 64), options)
    expected = with_bias_matrix(query.float(), key.float(), value.float(), 3.0, masks)
    torch.testing.assert_close(ours.float(), expected, atol=5e-3, rtol=5e-3)


def test_xformers_gets_its_own_form(monkeypatch):
    """Its kernels need a GPU: here a stand-in does what its documentation says, on B N H d."""
    ops = ModuleType("xformers.ops")

    def memory_efficient_attention(query, key, value, scale, op):
        assert op == "an operator"
        assert query.shape == key.shape == value.shape == (4, 16, 2, 8)
        logits = torch.einsum("bmhk,bnhk->bhmn", query, key) * scale
        return torch.einsum("bhmn,bnhk->bmhk", logits.softmax(dim=-1), value)

    ops.memory_efficient_attention = memory_efficient_attention  # pyright: ignore
    monkeypatch.setitem(sys.modules, "xformers", ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    query, key, value = heads()
    bias = AttentionBias(torch.tensor(3.0), [two_masks()])
    columns = bias.columns(4, 5, 16)
    ours = biased_attention(query, key, value, *columns, {"op": "an operator"})
    expected = with_bias_matrix(query, key, value, 3.0, two_masks())
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_columns_repeat_the_masks_as_guidance_repeats_the_images():
    bias = AttentionBias(torch.tensor(2.0), [two_masks()])
    queries, keys = bias.columns(6, 9, 16)
    assert torch.equal(keys, two_masks().flatten(1).repeat(3, 1))
    torch.testing.assert_close(queries, (keys - 1) * 2 * math.sqrt(9))
    with pytest.raises(ValueError, match=r"self-attention over 9 tokens; masks have \[16\]"):
        bias.columns(2, 9, 9)


def small_unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=6,
        attention_head_dim=2,
    ).eval()


@torch.no_grad()
def test_processors_are_set_for_the_time_and_restored():
    unet = small_unet()
    unet.set_attn_processor(AttnProcessor())  # a user's own choice
    before = dict(unet.attn_processors)
    masks = [F.adaptive_max_pool2d(two_masks(), size) for size in (8, 4)]
    bias = AttentionBias(torch.tensor(4.0), masks)
    sample, words = torch.randn(4, 4, 8, 8), torch.randn(4, 3, 6)
    plain = unet(sample, 5, words).sample
    with biased_self_attention(unet, bias):
        changed = {name for name, own in unet.attn_processors.items() if own is not before[name]}
        assert changed == {name for name in before if ".attn1." in name}
        assert torch.equal(unet(sample, 5, words).sample, plain)  # not active yet
        bias.active = True
        biased = unet(sample, 5, words).sample
        bias.strength = torch.tensor(0.0)
        torch.testing.assert_close(unet(sample, 5, words).sample, plain, atol=1e-5, rtol=1e-5)
    assert unet.attn_processors == before
    assert (biased - plain).abs().max() > 1e-4
    message = "out of memory"
    with pytest.raises(RuntimeError, match=message), biased_self_attention(unet, bias):
        raise RuntimeError(message)
    assert unet.attn_processors == before


def test_xformers_processor_keeps_its_operator(monkeypatch):
    seen = {}

    def note(query, _key, _value, _query_column, _key_column, options):
        seen["options"] = options
        return query

    monkeypatch.setattr("anyscene.models.layout_attention.biased_attention", note)
    attention = small_unet().down_blocks[0].attentions[0].transformer_blocks[0].attn1
    bias = AttentionBias(torch.tensor(1.0), [torch.zeros(1, 1, 4, 4)])
    bias.active = True
    for plain, options in ((XFormersAttnProcessor("op"), {"op": "op"}), (AttnProcessor(), None)):  # pyright: ignore
        BiasedSelfAttention(plain, bias)(attention, torch.zeros(1, 16, 8))
        assert seen["options"] == options
