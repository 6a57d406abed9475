"""A training step against the same one written with diffusers alone, as its scripts are."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.training_utils import compute_snr
from families import family_base
from sampling import quiet
from tiny import tiny_config
from torch import Tensor

from anyscene.data.datamodule import SceneDataModule
from anyscene.diffusion.random import Stream, normal, uniform
from anyscene.module import SceneModule

GAMMA = 5.0


def plain_loss(folder: Path, fim: Any, batch: Any) -> Tensor:
    """The loss of diffusers' `train_controlnet`, or of its SDXL form, with the min-SNR weights of
    its `train_text_to_image`. Only the draws are ours."""
    is_xl = (folder / "text_encoder_2").is_dir()
    kind: Any = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    off = {"add_watermarker": False} if is_xl else {"safety_checker": None}
    pipeline = quiet(kind.from_pretrained(folder, **off))
    scheduler: Any = DDPMScheduler.from_config(pipeline.scheduler.config)
    slots, shape = batch["counter"], (4, 8, 8)
    posterior = pipeline.vae.encode(batch["scene"]).latent_dist
    latents = posterior.mean + posterior.std * normal(0, slots, Stream.first_stage, shape)
    latents = latents * pipeline.vae.config.scaling_factor
    noise = normal(0, slots, Stream.noise, shape)
    steps = (uniform(0, slots, Stream.timestep) * 1000).long()
    noisy = scheduler.add_noise(latents, noise, steps)
    text: dict[str, Any] = {}
    if is_xl:
        hidden, _, pooled, _ = pipeline.encode_prompt(
            batch["prompt"], do_classifier_free_guidance=False, device="cpu"
        )
        ids = [
            [*size.tolist(), *corner.tolist(), *batch["scene"].shape[2:]]
            for size, corner in zip(batch["original_size"], batch["crop_top_left"], strict=True)
        ]
        text["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.tensor(ids)}
    else:
        hidden, _ = pipeline.encode_prompt(batch["prompt"], "cpu", 1, False)
    text["encoder_hidden_states"] = hidden
    down, mid = fim(noisy, steps, controlnet_cond=batch["hint"], return_dict=False, **text)
    predicted = pipeline.unet(
        noisy,
        steps,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
        **text,
    ).sample
    snr = compute_snr(scheduler, steps)
    weight, target = snr.clamp(max=GAMMA) / snr, noise
    if scheduler.config.prediction_type == "v_prediction":
        weight = snr.clamp(max=GAMMA) / (snr + 1)
        target = scheduler.get_velocity(latents, noise, steps)
    each = F.mse_loss(predicted, target, reduction="none").mean((1, 2, 3))
    return (each * weight).mean()


@pytest.mark.parametrize("family", ["sd15", "sd21-v", "sdxl"])
def test_loss_and_gradient_are_those_of_a_plain_loop(
    family: str, demo_shards: Path, tmp_path: Path
):
    folder = family_base(tmp_path / "base", family)
    options = ("train.prompt_dropout=0", "data.batch_size=4", f"loss.gamma={GAMMA}")
    module = SceneModule(tiny_config(folder, demo_shards, tmp_path / "runs", *options))
    fim: Any = module.injection
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in [*fim.controlnet_down_blocks, fim.controlnet_mid_block]:
            layer.weight.normal_(std=0.1, generator=generator)  # so that all layers have gradients
    data = SceneDataModule(module.config.data, seed=0)
    host = module.on_before_batch_transfer(next(iter(data.train_dataloader())), 0)
    batch: Any = module.on_after_batch_transfer(host, 0)

    loss = module.training_step(batch, 0)
    loss.backward()
    gradients = {name: value.grad for name, value in fim.named_parameters()}
    fim.zero_grad()
    expected = plain_loss(folder, fim, batch)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, value in fim.named_parameters():
        assert gradients[name].abs().max() > 0, name
        torch.testing.assert_close(gradients[name], value.grad, atol=1e-6, rtol=1e-4)
