"""Masks, known latents and the gate: where they act, and how strongly."""

import torch

from anyscene.layout_settings import LayoutControl
from anyscene.models.layout_control import (
    foreground_masks,
    keep_known_latents,
    keep_mask,
    plan_layout,
)


def test_latents_that_the_mask_covers_in_part_are_not_kept():
    alpha = torch.zeros(1, 1, 32, 32)
    alpha[..., 8:24, 8:23] = 1  # right edge within a cell of 4 pixels
    keep = keep_mask(alpha, (8, 8))[0, 0]
    expected = torch.zeros(8, 8)
    expected[2:6, 2:5] = 1
    assert torch.equal(keep, expected)
    assert keep_mask(torch.ones(1, 1, 32, 32), (8, 8)).all()
    assert not keep_mask(torch.zeros(1, 1, 32, 32), (8, 8)).any()


def test_known_latents_replace_the_others_under_the_mask_alone():
    generator = torch.Generator().manual_seed(0)
    latents, known = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    keep = torch.zeros(1, 1, 8, 8)
    keep[..., :4] = 1
    mixed = keep_known_latents(latents, known, keep)
    assert torch.equal(mixed[..., :4], known[..., :4])
    assert torch.equal(mixed[..., 4:], latents[..., 4:])


def test_known_latents_are_drawn_by_their_strength():
    generator = torch.Generator().manual_seed(0)
    latents, known = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    keep = torch.ones(1, 1, 8, 8)
    torch.testing.assert_close(
        keep_known_latents(latents, known, keep, 0.25), 0.75 * latents + 0.25 * known
    )
    assert torch.equal(keep_known_latents(latents, known, keep, 1.0), known)


def test_masks_of_attention_and_gate_have_every_latent_that_foreground_touches():
    alpha = torch.zeros(1, 1, 32, 32)
    alpha[..., 9, 9] = 0.7
    fine, coarse = foreground_masks(alpha, (8, 8), 2)
    assert (fine.shape, coarse.shape) == ((1, 1, 8, 8), (1, 1, 4, 4))
    assert fine[0, 0, 2, 2] == coarse[0, 0, 1, 1] == 0.7
    assert fine.sum() == coarse.sum() == 0.7


def test_gate_weakens_residuals_where_no_foreground_is():
    alpha = torch.zeros(2, 1, 16, 16)
    alpha[0, :, :, :8], alpha[1, :, :8] = 1, 1
    plan = plan_layout(LayoutControl(residual_gate=0.75), alpha, (4, 4), 2, None)
    assert plan is not None
    for size in (4, 2):
        gated = plan.gated(torch.ones(4, 3, size, size))  # two images under two prompts
        assert torch.equal(gated[:2], gated[2:])
        assert (gated[0, :, :, : size // 2] == 1).all()
        assert (gated[0, :, :, size // 2 :] == 0.25).all()
        assert (gated[1, :, : size // 2] == 1).all()
        assert (gated[1, :, size // 2 :] == 0.25).all()


def test_nothing_is_planned_where_all_strengths_are_zero():
    alpha = torch.ones(1, 1, 16, 16)
    assert plan_layout(None, alpha, (4, 4), 2, None) is None
    assert plan_layout(LayoutControl(), alpha, (4, 4), 2, None) is None
