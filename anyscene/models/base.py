"""The pretrained latent diffusion model: loading, text, first stage. Everything here stays frozen."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DiffusionPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from anyscene.errors import InputError

Vae = AutoencoderKL | AutoencoderTiny


def encode_prompts(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, prompts: list[str]
) -> Tensor:
    """Last hidden states of the prompts, B n d; long prompts are cut by the tokenizer (EOS kept)."""
    tokens = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return text_encoder(tokens.input_ids.to(text_encoder.device))[0]


def encode_images(vae: Vae, images: Tensor, noise: Tensor | None = None) -> Tensor:
    """Scaled latents B c h w of images B 3 H W in [-1, 1]; `noise` draws from the posterior."""
    images = images.to(vae.dtype)
    if isinstance(vae, AutoencoderTiny):
        latents = vae.encode(images).latents
    else:
        posterior = vae.encode(images).latent_dist
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return (latents - shift) * vae.config.scaling_factor


def decode_latents(vae: Vae, latents: Tensor) -> Tensor:
    """Images B 3 H W, about [-1, 1], of scaled latents B c h w."""
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor + shift).sample


def vae_factor(vae: Vae) -> int:
    """Pixels a latent, along one side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def unet_factor(unet: UNet2DConditionModel) -> int:
    """What the UNet divides the side of the latents by."""
    return 2 ** (len(unet.config.block_out_channels) - 1)


def weights_sha256(*modules: nn.Module) -> str:
    """One hash of all weights: names, shapes and float32 values, whatever the file's dtype."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Base(nn.Module):
    """UNet, first stage and text encoder of a Stable-Diffusion-type folder, with its scheduler."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: Vae,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: Any,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.vae = vae
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.scheduler = scheduler
        self.requires_grad_(False)
        self.eval()

    def components(self) -> dict[str, Any]:
        """The parts by the names of diffusers' pipelines."""
        return {
            "unet": self.unet,
            "vae": self.vae,
            "text_encoder": self.text_encoder,
            "tokenizer": self.tokenizer,
            "scheduler": self.scheduler,
        }

    def text(self, prompts: list[str]) -> Tensor:
        """See `encode_prompts`."""
        return encode_prompts(self.tokenizer, self.text_encoder, prompts)

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """See `encode_images`."""
        return encode_images(self.vae, images, noise)

    def sha256(self) -> str:
        """Hash of the frozen weights."""
        return weights_sha256(self.unet, self.vae, self.text_encoder)

    def pixel_multiple(self) -> int:
        """Sides of images must be multiples of this many pixels."""
        return vae_factor(self.vae) * unet_factor(self.unet)


def load_base(path: str, revision: str | None = None, first_stage: str | None = None) -> Base:
    """The base in float32 from a folder or hub id.

    Raises:
        InputError: not found, unreachable, incomplete, of another family, or parts that don't fit.
    """
    check_family(path, revision)
    parts: dict[str, Any] = {"safety_checker": None, "feature_extractor": None}
    if first_stage is not None:
        parts["vae"] = _load(AutoencoderTiny, first_stage, "base.first_stage")
    pipeline = _load(
        StableDiffusionPipeline,
        path,
        "base.path",
        revision=revision,
        requires_safety_checker=False,
        **parts,
    )
    base = Base(
        pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, pipeline.scheduler
    )
    _check_fit(path, base)
    return base


def check_family(path: str, revision: str | None = None) -> None:
    """Raises `InputError` unless `path` is a Stable-Diffusion-type folder or hub id."""
    if Path(path).is_dir() and not (Path(path) / "model_index.json").is_file():
        raise InputError(
            f"base.path={path!r} has no model_index.json: give the folder that "
            "`save_pretrained` of a diffusers pipeline wrote, not one of its parts"
        )
    index = _load_index(path, revision)
    if "text_encoder_2" in index or "unet" not in index or "vae" not in index:
        raise InputError(
            f"base.path={path!r} is a {index.get('_class_name')}: this version trains on "
            "Stable Diffusion 1.x and 2.x type folders (one CLIP text encoder, UNet, VAE)"
        )


def _load_index(path: str, revision: str | None) -> dict[str, Any]:
    try:
        return dict(DiffusionPipeline.load_config(path, revision=revision))
    except (OSError, ValueError) as error:
        raise _not_found(path, "base.path", error) from None


def _load(kind: Any, path: str, key: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(path, dtype=torch.float32, **options)
    except (OSError, ValueError) as error:
        raise _not_found(path, key, error) from None


def _not_found(path: str, key: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(
        f"{key}={path!r} could not be loaded: neither a complete diffusers folder here nor a hub "
        f"id that could be fetched ({reason}); download it with "
        f"`hf download {path} --local-dir DIR` where there is a network and set {key}=DIR"
    )


def _check_fit(path: str, base: Base) -> None:
    width = base.text_encoder.config.hidden_size
    if base.unet.config.cross_attention_dim != width:
        raise InputError(
            f"base.path={path!r}: its text encoder gives {width} channels but its UNet expects "
            f"{base.unet.config.cross_attention_dim}; the parts are of different models"
        )
    channels = base.vae.config.latent_channels
    if base.unet.config.in_channels != channels:
        raise InputError(
            f"base.path={path!r}: the first stage has {channels} latent channels but the UNet takes "
            f"{base.unet.config.in_channels} (inpainting UNets, with 9, are not a base)"
        )
