"""Train a small first stage (AutoencoderKL) for an embedded base."""

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from anyscene.errors import InputError
from anyscene.files import replace_file

KL_WEIGHT = 2e-5  # of the mean divergence a latent, against a mean squared error a pixel value
FOREGROUND_WEIGHT = 4.0  # of pixels inside the mask, whose detail the product exists for

Vae = Any  # AutoencoderKL, whose own methods are typed as what they are not


def build_first_stage(channels: tuple[int, ...], latent_channels: int) -> AutoencoderKL:
    """An AutoencoderKL whose factor is 2 ** (len(channels) - 1)."""
    stages = len(channels)
    kind: Any = AutoencoderKL  # its type wants tuples of one element
    return kind(
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def check_init(init: Path, latent_channels: int) -> None:
    """Raises `InputError` where a base's first stage cannot be gone on from."""
    path = init / "vae" / "config.json"
    if not path.is_file():
        raise InputError(f"--init {init} is no base's folder: it has no vae/config.json")
    own = json.loads(path.read_text())["latent_channels"]
    if own != latent_channels:
        raise InputError(
            f"--init {init} has latents of {own} channels, not {latent_channels}: give "
            f"--latent-channels {own}"
        )


def train_first_stage(
    vae: Vae,
    scenes: Tensor,
    masks: Tensor,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    device: str,
    state_path: Path,
) -> AutoencoderKL:
    """Reconstruction with a small divergence; resumes from `state_path`, where it saves at times.

    Args:
        vae: to be trained in place.
        scenes, masks: uint8 N 3 H W and N 1 H W.
        steps, batch, learning_rate: of AdamW with a cosine decay to zero.
        seed: of the order and of the posterior's draws.
        device: where to train.
        state_path: file of the last saved state; removed by the caller when the stage is complete.
    """
    vae.to(device).train()
    optimizer = torch.optim.AdamW(vae.parameters(), learning_rate, betas=(0.9, 0.99), fused=True)
    start = _restore(vae, optimizer, state_path, device)
    scenes, masks = scenes.to(device), masks.to(device)
    bar = tqdm(range(start, steps), initial=start, total=steps, desc="first stage", unit="step")
    for step in bar:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randint(len(scenes), (batch,), generator=generator).to(device)
        images = scenes[chosen].float() / 127.5 - 1
        loss = _loss(vae, images, masks[chosen].float() / 255, generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / 100) * _cosine(step / steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
        if (step + 1) % 2000 == 0:
            state = {
                "vae": vae.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
            }
            replace_file(state_path, lambda path, state=state: torch.save(state, path))
    return vae.eval()


def _restore(vae: AutoencoderKL, optimizer: torch.optim.Optimizer, path: Path, device: str) -> int:
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True, map_location=device)
    vae.load_state_dict(state["vae"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _loss(vae: Vae, images: Tensor, masks: Tensor, generator: torch.Generator) -> Tensor:
    posterior = vae.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(images.device)
    restored = vae.decode(posterior.mean + posterior.std * noise).sample
    weight = 1 + (FOREGROUND_WEIGHT - 1) * masks
    error = (F.mse_loss(restored, images, reduction="none") * weight).mean() / weight.mean()
    divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    return error + KL_WEIGHT * divergence


def _cosine(done: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * done)


@torch.no_grad()
def normalise_latents(vae: Vae, scenes: Tensor, batch: int = 64) -> None:
    """Give every latent channel mean 0 and deviation 1 over `scenes` (uint8 N 3 H W), in place.

    The shift and the scale go into the 1x1 convolutions on both sides of the latents, so that the
    reconstruction stays as it is and `scaling_factor` is 1.
    """
    device = vae.device
    posteriors = [
        vae.encode(part.to(device).float() / 127.5 - 1).latent_dist for part in scenes.split(batch)
    ]
    means = torch.cat([p.mean for p in posteriors]).double()
    variance = torch.cat([p.var for p in posteriors]).double().mean((0, 2, 3))
    shift = means.mean((0, 2, 3))
    scale = (means.var((0, 2, 3)) + variance).sqrt()
    channels = len(scale)
    into, out = vae.quant_conv, vae.post_quant_conv
    out.bias += torch.einsum("oi,i->o", out.weight[:, :, 0, 0].double(), shift).float()
    out.weight *= scale.float()[None, :, None, None]
    into.weight[:channels] /= scale.float()[:, None, None, None]
    into.bias[:channels] = ((into.bias[:channels].double() - shift) / scale).float()
    into.bias[channels:] -= 2 * scale.log().float()


@torch.no_grad()
def reconstruction_psnr(
    vae: Vae, scenes: Tensor, masks: Tensor, batch: int = 64
) -> dict[str, float]:
    """Mean PSNR (dB, peak 1) of reconstructed scenes, whole and inside the mask: the ceiling of
    every fidelity figure before blending. `scenes`, `masks`: uint8 N 3 H W and N 1 H W."""
    whole, inside = [], []
    for images, alpha in zip(scenes.split(batch), masks.split(batch), strict=True):
        truth = images.to(vae.device).float() / 255
        restored = vae.decode(vae.encode(truth * 2 - 1).latent_dist.mean).sample
        error = ((restored / 2 + 0.5).clamp(0, 1) - truth).square().mean(1, keepdim=True)
        mask = (alpha.to(vae.device) > 0.95 * 255).float()
        whole.append(-10 * error.mean((1, 2, 3)).log10())
        inside.append(-10 * ((error * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))).log10())
    return {"psnr": float(torch.cat(whole).mean()), "psnr_in_mask": float(torch.cat(inside).mean())}
