"""The two guidance scales against the formula."""

import pytest
import torch

from anyscene.diffusion.guidance import combine


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, 3, 3, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("s_foreground", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("s_text", [0.0, 1.0, 7.5])
def test_formula(predictions, s_foreground, s_text):
    base, foreground, full = predictions
    expected = base + s_foreground * (foreground - base) + s_text * (full - foreground)
    torch.testing.assert_close(combine(*predictions, s_foreground, s_text), expected)


def test_base_cancels_at_scale_1(predictions):
    _, foreground, full = predictions
    without = combine(None, foreground, full, 1.0, 3.0)
    assert torch.equal(without, combine(*predictions, 1.0, 3.0))
    assert torch.equal(without, foreground + 3.0 * (full - foreground))


def test_limits(predictions):
    base, foreground, full = predictions
    torch.testing.assert_close(combine(base, foreground, full, 1.0, 1.0), full)
    torch.testing.assert_close(combine(base, foreground, full, 0.0, 0.0), base)
    torch.testing.assert_close(combine(base, foreground, full, 1.0, 0.0), foreground)
