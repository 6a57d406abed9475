"""Adapters before training; `test_training_options` trains, resumes and exports them."""

import torch

from anyscene.models.loading import load_base
from anyscene.models.lora import add_lora


def test_lora_begins_as_peft_has_it_by_its_seed_alone(tiny_base_folder):
    """A as `nn.Linear` begins: uniform within 1 / sqrt(inputs); B zero."""
    networks = [load_base(str(tiny_base_folder)).unet for _ in range(3)]
    for network, seed in zip(networks, (0, 0, 1), strict=True):
        torch.manual_seed(seed + 7)  # of which nothing comes
        add_lora(network, 4, seed)
    first, same, other = (dict(network.named_parameters()) for network in networks)
    names = [name for name in first if ".lora_A." in name]
    for name in names:
        bound = first[name].shape[1] ** -0.5
        assert 0.7 * bound < first[name].abs().max() <= bound
        assert torch.equal(first[name], same[name])
        assert not torch.equal(first[name], other[name])
        assert not first[name.replace(".lora_A.", ".lora_B.")].any()
    assert len(names) > 10
