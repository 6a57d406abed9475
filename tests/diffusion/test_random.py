"""Counter-based randomness: distributions against scipy, independence, golden values."""

import numpy as np
import pytest
import torch
from scipy import stats

from anyscene.diffusion.random import Stream, normal, uniform

SLOTS = torch.arange(64)
LARGE = torch.tensor([0, 1, 2**31, 2**40 + 3])
GOLDEN_UNIFORM = [0.9990279674530029, 0.40888041257858276, 0.7632169127464294]
GOLDEN_NORMAL = [-0.05166253447532654, 0.8959231376647949, -1.3772135972976685, -0.0732738152146339]
GOLDEN_STREAMS = {
    "noise": 1,
    "timestep": 2,
    "prompt_dropout": 3,
    "first_stage": 4,
    "jitter": 5,
}


def integer_uniforms(seed: int, counter: int, stream: int, count: int) -> list[int]:
    """SplitMix64 in Python's own integers: the upper 24 bits of each value."""
    wrap, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & wrap
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & wrap
        return z ^ (z >> 31)

    key = mix((seed + golden) & wrap)
    key = mix((key + stream * golden) & wrap)
    key = mix((key + counter * golden) & wrap)
    return [mix((key + position * golden) & wrap) >> 40 for position in range(1, count + 1)]


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_bits_are_splitmix64(seed):
    values = uniform(seed, LARGE, Stream.noise, (5,)) * 2**24
    for row, counter in zip(values, LARGE.tolist(), strict=True):
        assert row.long().tolist() == integer_uniforms(seed, counter, int(Stream.noise), 5)


def test_golden_values():
    """A run's identity: when these change, no earlier run can be resumed or made again."""
    drawn = uniform(0, torch.tensor([0, 1, 1000]), Stream.timestep)
    assert drawn.tolist() == GOLDEN_UNIFORM
    drawn = normal(3, torch.tensor([5]), Stream.noise, (2, 2))
    torch.testing.assert_close(drawn.flatten(), torch.tensor(GOLDEN_NORMAL), rtol=0, atol=1e-6)
    assert GOLDEN_STREAMS.items() <= {stream.name: int(stream) for stream in Stream}.items()


def test_uniform_is_uniform():
    values = uniform(1, SLOTS, Stream.timestep, (40, 40)).double().flatten().numpy()
    assert 0 <= values.min() < 1e-4
    assert 1 - 1e-4 < values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 0.01
    assert abs(np.mean(values) - 1 / 2) < 0.003
    assert abs(np.var(values) - 1 / 12) < 0.002


def test_normal_is_normal():
    values = normal(1, SLOTS, Stream.noise, (40, 40)).double().flatten().numpy()
    assert stats.kstest(values, "norm").pvalue > 0.01
    assert abs(np.mean(values)) < 0.01
    assert abs(np.var(values) - 1) < 0.015
    assert abs(stats.kurtosis(values)) < 0.05
    tails = [int((np.abs(values) > bound).sum()) for bound in (2, 3)]
    expected = [2 * stats.norm.sf(bound) * values.size for bound in (2, 3)]
    assert tails == pytest.approx(expected, rel=0.1)


def test_first_value_of_neighbouring_slots_is_uniform():
    """One value a slot, as timesteps are drawn: the counter alone must mix well."""
    for stream in (Stream.timestep, Stream.prompt_dropout):
        values = uniform(0, torch.arange(20_000), stream).double().numpy()
        assert stats.kstest(values, "uniform").pvalue > 0.01
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03


@pytest.mark.parametrize("draw", [uniform, normal])
def test_a_slot_does_not_depend_on_its_batch(draw):
    together = draw(4, SLOTS, Stream.noise, (3, 5))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(4, SLOTS[order], Stream.noise, (3, 5)), together[order])
    assert torch.equal(draw(4, SLOTS[9:10], Stream.noise, (3, 5))[0], together[9])
    split = torch.cat([draw(4, part, Stream.noise, (3, 5)) for part in SLOTS.split(7)])
    assert torch.equal(split, together)


def test_a_longer_shape_begins_alike():
    """Values depend on their position only, not on how many are drawn."""
    short, long = (uniform(4, SLOTS, Stream.noise, (n,)) for n in (10, 100))
    assert torch.equal(long[:, :10], short)


def test_seeds_streams_and_slots_are_uncorrelated():
    size = (10_000,)
    rows = [
        normal(seed, torch.tensor([counter]), stream, size)[0]
        for seed, counter, stream in (
            (0, 0, Stream.noise),
            (1, 0, Stream.noise),
            (0, 1, Stream.noise),
            (0, 0, Stream.timestep),
            (1, 1, Stream.first_stage),
            (2**31, 0, Stream.noise),
        )
    ]
    correlation = torch.corrcoef(torch.stack(rows)) - torch.eye(len(rows))
    assert correlation.abs().max() < 0.045  # 4.5 standard errors
    shifted = torch.corrcoef(torch.stack([rows[0][:-1], rows[2][1:]]))[0, 1]
    assert abs(shifted) < 0.045
    radius_and_value = torch.corrcoef(torch.stack([rows[0][:-1], rows[0][1:]]))[0, 1]
    assert abs(radius_and_value) < 0.045


def test_timesteps_stay_in_range():
    values = uniform(0, torch.arange(50_000), Stream.timestep)
    below_one = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    for steps in (3, 513, 1000):
        assert int((below_one * steps).long()) == steps - 1
        drawn = (values * steps).long()
        assert (int(drawn.min()), int(drawn.max())) == (0, steps - 1)
