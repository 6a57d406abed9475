"""Known latents: only where a latent lies wholly inside the mask."""

import torch

from anyscene.models.layout_control import keep_known_latents, keep_mask


def test_latents_that_the_mask_covers_in_part_are_not_kept():
    alpha = torch.zeros(1, 1, 32, 32)
    alpha[..., 8:24, 8:22] = 1  # right edge within a cell of 4 pixels
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
