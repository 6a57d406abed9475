"""The peer of `train_step.py`: a loop over a ControlNet in the manner of train_controlnet."""

import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel

from anyscene.compositing.hint import HINT_CHANNELS
from anyscene.config import BaseConfig, Config, DataConfig, TrainConfig
from anyscene.cost import H100_FLOP_PER_SECOND, count_step
from anyscene.data.datamodule import SceneDataModule
from anyscene.data.transforms import to_device_batch
from anyscene.diffusion.schedule import build_schedule
from anyscene.models.base import scale_latents, vae_factor
from anyscene.models.loading import load_base
from anyscene.models.text import micro_condition

WIDTHS = (16, 32, 96, 256)


def measure_loop(base_path: Path, shards: Path, setting: Any, options: list[str]) -> dict[str, Any]:
    """Images a second and the peak of the device's memory of the loop with `options`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    half = setting.precision == "bf16"
    base = load_base(str(base_path))
    fim = ControlNetModel.from_unet(
        base.unet,
        conditioning_channels=HINT_CHANNELS,
        conditioning_embedding_out_channels=WIDTHS[: vae_factor(base.vae).bit_length()],
    )
    base.to(device, dtype=torch.bfloat16 if half else torch.float32)
    fim.to(device).train()
    if "channels_last" in options:
        fim.to(memory_format=torch.channels_last)
        base.unet.to(memory_format=torch.channels_last)
    if "compile" in options:
        fim.compile()
        base.unet.compile()
    optimizer = torch.optim.AdamW(fim.parameters(), lr=1e-5, fused=bool(options))
    schedule = build_schedule(base.scheduler.config)
    data = SceneDataModule(DataConfig(train=str(shards), batch_size=setting.batch, workers=0))
    batch: Any = to_device_batch(next(iter(data.train_dataloader())), device)
    alphas = schedule.alphas_cumprod.to(device)
    size = (batch["mask"].shape[2], batch["mask"].shape[3])
    sizes = micro_condition(batch["original_size"], batch["crop_top_left"], size)

    def step() -> None:
        latents = batch["latent_mean"] + batch["latent_std"] * torch.randn_like(batch["latent_std"])
        latents = scale_latents(base.vae, latents)
        noise = torch.randn_like(latents)
        steps = torch.randint(len(alphas), (len(latents),), device=device)
        alpha = alphas[steps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            text = base.text(batch["prompt"]).network_arguments(sizes)
            down, mid = fim(noisy, steps, controlnet_cond=batch["hint"], return_dict=False, **text)
            predicted = base.unet(
                noisy,
                steps,
                down_block_additional_residuals=down,
                mid_block_additional_residual=mid,
                **text,
            ).sample
        F.mse_loss(predicted.float(), noise).backward()
        torch.nn.utils.clip_grad_norm_(fim.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(2 * setting.steps):
        step()
    _wait(device)
    started = time.perf_counter()
    for _ in range(setting.steps):
        step()
    _wait(device)
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {
        "images_per_second": setting.steps * setting.batch / seconds,
        "peak_gib": peak / 2**30,
    }


def count_flop(base: Path, batch: int, size: int) -> float:
    """Operations of UNet and FIM an image, forward and backward."""
    config = Config(
        name="count",
        base=BaseConfig(path=str(base)),
        data=DataConfig(train="", batch_size=batch),
        train=TrainConfig(steps=1),
    )
    return count_step(config, (size, size)).flop_per_image


def device_rates() -> dict[str, float]:
    """FLOP/s: measured with matrix products in bf16; on a GPU also an H100's data sheet."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 8192 if device == "cuda" else 1024
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    for _ in range(3):
        matrix @ matrix
    _wait(torch.device(device))
    started, rounds = time.perf_counter(), 10
    for _ in range(rounds):
        matrix @ matrix
    _wait(torch.device(device))
    measured = 2 * side**3 * rounds / (time.perf_counter() - started)
    sheet = {"data sheet": H100_FLOP_PER_SECOND} if device == "cuda" else {}
    return {"measured": measured} | sheet


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
