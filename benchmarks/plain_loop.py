"""The peer of `train_step.py`: a loop over a ControlNet in the manner of train_controlnet."""

import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from our_step import Setting, Stopwatch, wait
from random_base import device, random_base

from anyscene.compositing.hint import HINT_CHANNELS
from anyscene.config import BaseConfig, Config, DataConfig, TrainConfig
from anyscene.cost import H100_FLOP_PER_SECOND, count_flop, peak_rate
from anyscene.data.datamodule import SceneDataModule
from anyscene.data.transforms import to_device_batch
from anyscene.diffusion.schedule import build_schedule
from anyscene.models.base import scale_latents, vae_factor
from anyscene.models.text import micro_condition

WIDTHS = (16, 32, 96, 256)


def measure_loop(setting: Setting, options: list[str]) -> dict[str, Any]:
    """Speed and peak memory of the loop with `options`, of `channels_last` and `compile`."""
    place = device()
    torch.set_float32_matmul_precision("high")
    half = setting.precision == "bf16"
    base = random_base(str(setting.base))
    with place:
        fim = ControlNetModel.from_unet(
            base.unet,
            conditioning_channels=HINT_CHANNELS,
            conditioning_embedding_out_channels=WIDTHS[: vae_factor(base.vae).bit_length()],
        )
    base.to(dtype=torch.bfloat16 if half else torch.float32)
    fim.train()
    if "channels_last" in options:
        fim.to(memory_format=torch.channels_last)
        base.unet.to(memory_format=torch.channels_last)
    if "compile" in options:
        fim.compile()
        base.unet.compile()
    optimizer = torch.optim.AdamW(fim.parameters(), lr=1e-5, fused=bool(options))
    schedule = build_schedule(base.scheduler.config)
    data = SceneDataModule(
        DataConfig(train=str(setting.shards), batch_size=setting.batch, workers=0)
    )
    batch: Any = to_device_batch(next(iter(data.train_dataloader())), place)
    alphas = schedule.alphas_cumprod.to(place)
    size = (batch["mask"].shape[2], batch["mask"].shape[3])
    sizes = micro_condition(batch["original_size"], batch["crop_top_left"], size)

    def step() -> None:
        latents = batch["latent_mean"] + batch["latent_std"] * torch.randn_like(batch["latent_std"])
        latents = scale_latents(base.vae, latents)
        noise = torch.randn_like(latents)
        steps = torch.randint(len(alphas), (len(latents),), device=place)
        alpha = alphas[steps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        with torch.autocast(place.type, torch.bfloat16, enabled=half):
            text = base.text(batch["prompt"]).network_arguments(sizes)
            down, mid = fim(noisy, steps, controlnet_cond=batch["hint"], return_dict=False, **text)
        predicted = base.predict(  # frozen, in its own dtype, as in train_controlnet
            noisy,
            steps,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            **text,
        )
        F.mse_loss(predicted.float(), noise).backward()
        torch.nn.utils.clip_grad_norm_(fim.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    watch = Stopwatch(setting)
    while not watch.is_over():
        step()
    return watch.figures()


def flop_per_image(base: Path, size: int) -> float:
    """Operations of UNet and FIM an image, forward and backward."""
    config = Config(
        name="count",
        base=BaseConfig(path=str(base)),
        data=DataConfig(train="", batch_size=1),
        train=TrainConfig(steps=1),
    )
    return count_flop(config, (size, size))


def device_rates() -> dict[str, float]:
    """FLOP/s: measured with matrix products in bf16, the median of several; on a GPU also by its
    data sheet (an H100's, if it is not known)."""
    gpu = torch.cuda.is_available()
    side, dtype = (8192, torch.bfloat16) if gpu else (1024, torch.float32)
    matrix = torch.randn(side, side, device=device(), dtype=dtype)
    seconds = []
    for _ in range(13):
        wait()
        started = time.perf_counter()
        matrix @ matrix
        wait()
        seconds.append(time.perf_counter() - started)
    measured = {"measured": 2 * side**3 / sorted(seconds[3:])[5]}
    if not gpu:
        return measured
    return {"data sheet": peak_rate(torch.bfloat16) or H100_FLOP_PER_SECOND} | measured
