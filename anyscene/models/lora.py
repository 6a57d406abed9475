"""Low-rank adapters (LoRA) of a network's attention, through peft."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

ATTENTION_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
"""The layers that get an adapter, those of diffusers' own training scripts."""

NEW_LAYERS = ("controlnet_cond_embedding.", "controlnet_down_blocks.", "controlnet_mid_block.")
"""Layers of a FIM that its base does not have: trained whole, for adapters of them would change
nothing at zero."""


def add_lora(network: Any, rank: int, seed: int) -> None:
    """Freeze a UNet or FIM but for new adapters, in float32, and a FIM's new layers.

    An adapter adds B A x to a layer (Hu et al. 2022, section 4.1), with B zero at first, so that
    nothing changes, and A as peft initialises it, but a function of `seed` alone.
    """
    from peft import LoraConfig, inject_adapter_in_model

    network.requires_grad_(False)
    settings = LoraConfig(r=rank, lora_alpha=rank, target_modules=ATTENTION_LAYERS)
    with unset_fake_temporarily():  # where a step is counted: peft moves fake adapters and fails
        inject_adapter_in_model(settings, network, low_cpu_mem_usage=True)  # shapes alone
    generator = torch.Generator().manual_seed(seed)
    for name, module in network.named_modules():
        if name.endswith((".lora_A.default", ".lora_B.default")):
            module.weight = nn.Parameter(torch.zeros(module.weight.shape))
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
    for name, parameter in network.named_parameters():
        if name.startswith(NEW_LAYERS):
            parameter.requires_grad_(True)


def lora_weights(network: nn.Module) -> dict[str, Tensor]:
    """The adapters by the names that diffusers' `save_lora_weights` takes."""
    from peft.utils import get_peft_model_state_dict

    return get_peft_model_state_dict(network)


def merge_lora(network: Any) -> None:
    """Add the adapters to the weights and take them out: a plain network again."""
    network.fuse_lora()
    network.unload_lora()
