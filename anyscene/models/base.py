"""The pretrained latent diffusion model: its parts, and what its first stage does."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from anyscene.models.text import TextCondition, TextEncoders

Vae = AutoencoderKL | AutoencoderTiny


def encode_moments(vae: Vae, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the posterior, B c h w each, of images B 3 H W in [-1, 1].

    As the first stage gives them: not scaled. The deviation of an `AutoencoderTiny` is 0. They are
    contiguous, though the attention of an `AutoencoderKL` leaves them channels last: so they can be
    stored, and a step on stored ones is the same bit for bit.
    """
    with _without_overflow(vae, images.device):
        encoded: Any = vae.encode(images.to(vae.dtype))
    if isinstance(vae, AutoencoderTiny):
        return encoded.latents, torch.zeros_like(encoded.latents)
    return encoded.latent_dist.mean.contiguous(), encoded.latent_dist.std.contiguous()


def scale_latents(vae: Vae, latents: Tensor) -> Tensor:
    """Latents as the UNet takes them, from latents as the first stage gives them."""
    scale, shift = _scale_and_shift(vae, latents)
    return (latents - shift) * scale


def encode_images(vae: Vae, images: Tensor, noise: Tensor | None = None) -> Tensor:
    """Scaled latents B c h w of images B 3 H W in [-1, 1]; `noise` draws from the posterior."""
    mean, std = encode_moments(vae, images)
    return scale_latents(vae, mean if noise is None else mean + std * noise)


def decode_latents(vae: Vae, latents: Tensor) -> Tensor:
    """Images B 3 H W, about [-1, 1], of scaled latents B c h w."""
    scale, shift = _scale_and_shift(vae, latents)
    with _without_overflow(vae, latents.device):
        decode: Any = vae.decode  # its type says FloatTensor
        decoded = decode((latents / scale + shift).to(vae.dtype))
    return decoded.sample


def _scale_and_shift(vae: Vae, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Scaled latents are (latents - shift) * scale; both are the first stage's own."""
    config: Any = vae.config
    mean, std = (getattr(config, f"latents_{name}", None) for name in ("mean", "std"))
    if mean is not None and std is not None:
        mean, std = (
            torch.tensor(value, dtype=like.dtype)
            .to(like.device, non_blocking=True)
            .reshape(1, -1, 1, 1)
            for value in (mean, std)
        )
        return config.scaling_factor / std, mean
    return config.scaling_factor, getattr(config, "shift_factor", None) or 0.0


def overflows_in_half(vae: Vae) -> bool:
    """Whether a first stage says that it overflows in float16 (`force_upcast`, as most do)."""
    config: Any = vae.config
    return bool(getattr(config, "force_upcast", False))


@contextmanager
def _without_overflow(vae: Vae, device: torch.device) -> Iterator[None]:
    """In the first stage's own dtype while it is open, whatever autocast says; in float32 for one
    in float16 that overflows there."""
    upcast = vae.dtype == torch.float16 and overflows_in_half(vae)
    if upcast:
        vae.float()
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        if upcast:
            vae.half()


def vae_factor(vae: Vae) -> int:
    """Pixels a latent, along one side."""
    config: Any = vae.config
    return 2 ** (len(config.block_out_channels) - 1)


def unet_factor(unet: UNet2DConditionModel) -> int:
    """What the UNet divides the side of the latents by."""
    config: Any = unet.config
    return 2 ** (len(config.block_out_channels) - 1)


def weights_sha256(*modules: nn.Module, dtype: torch.dtype = torch.float32) -> str:
    """One hash of all weights: names, shapes and values in `dtype`, whatever the file's dtype."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().to(dtype).cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def store_frozen(network: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of a network that have no gradients in `dtype`."""
    for parameter in network.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


class Base(nn.Module):
    """UNet, first stage and text encoders of a diffusers folder, with its scheduler.

    `text_encoder_2` and `tokenizer_2` are SDXL's; `zeros_for_empty` says that its empty prompt is
    zeros.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: Vae,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: Any,
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: CLIPTokenizer | None = None,
        zeros_for_empty: bool = False,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.vae = vae
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.scheduler = scheduler
        self.text_encoder_2 = text_encoder_2
        self.tokenizer_2 = tokenizer_2
        self.zeros_for_empty = zeros_for_empty
        self.requires_grad_(False)
        self.eval()

    @property
    def is_xl(self) -> bool:
        """Whether it is of the SDXL type, with a second text encoder and size conditioning."""
        return self.text_encoder_2 is not None

    def components(self) -> dict[str, Any]:
        """The parts by the names of diffusers' pipelines."""
        parts = {
            "unet": self.unet,
            "vae": self.vae,
            "text_encoder": self.text_encoder,
            "tokenizer": self.tokenizer,
            "scheduler": self.scheduler,
        }
        if self.is_xl:
            parts["text_encoder_2"] = self.text_encoder_2
            parts["tokenizer_2"] = self.tokenizer_2
            parts["force_zeros_for_empty_prompt"] = self.zeros_for_empty
        return parts

    def text_parts(self) -> list[tuple[CLIPTokenizer, Any]]:
        """The one or two tokenizers, each with its text encoder."""
        parts: list[tuple[CLIPTokenizer, Any]] = [(self.tokenizer, self.text_encoder)]
        if self.tokenizer_2 is not None:
            parts.append((self.tokenizer_2, self.text_encoder_2))
        return parts

    def text(self, prompts: list[str]) -> TextCondition:
        """See `TextEncoders.encode`."""
        return TextEncoders(
            self.text_encoder.device,
            self.tokenizer,
            self.text_encoder,
            self.tokenizer_2,
            self.text_encoder_2,
            self.zeros_for_empty,
        ).encode(prompts)

    def predict(self, noisy: Tensor, steps: Tensor, **arguments: Any) -> Tensor:
        """The UNet's prediction for latents B c h w at `steps` B, with its further arguments.

        A frozen UNet computes in the dtype in which it is stored, as diffusers' training scripts
        have it: under autocast a GPU computes, and keeps for the backward pass, each norm and
        activation in float32.
        """
        if any(parameter.requires_grad for parameter in self.unet.parameters()):
            return self.unet(noisy, steps, **arguments).sample

        def stored(value: Tensor) -> Tensor:
            return value.to(self.unet.dtype) if value.is_floating_point() else value

        with torch.autocast(noisy.device.type, enabled=False):
            noisy, arguments = tree_map_only(Tensor, stored, (noisy, arguments))
            return self.unet(noisy, steps, **arguments).sample

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """See `encode_images`."""
        return encode_images(self.vae, images, noise)

    def sha256(self) -> str:
        """Hash of the frozen weights."""
        second = [] if self.text_encoder_2 is None else [self.text_encoder_2]
        return weights_sha256(self.unet, self.vae, self.text_encoder, *second)

    def encoder_sha256(self) -> str:
        """Hash of the weights that make moments of images, all that a cache depends on.

        Rounded to float16: bases that share a first stage have it in common, whatever their UNets
        and decoders, and whether their files are in half precision.
        """
        vae: Any = self.vae
        after = None if isinstance(vae, AutoencoderTiny) else vae.quant_conv
        parts = [part for part in (vae.encoder, after) if part is not None]
        return weights_sha256(*parts, dtype=torch.float16)

    def store_frozen(self, dtype: torch.dtype) -> None:
        """Store the weights without gradients in `dtype`, but for a first stage that overflows."""
        for part in self.children():
            if part is not self.vae or not overflows_in_half(self.vae):
                store_frozen(part, dtype)

    def native_size(self) -> int:
        """Pixels a side that the base was made for."""
        return self.unet.config["sample_size"] * vae_factor(self.vae)

    def pixel_multiple(self) -> int:
        """Sides of images must be multiples of this many pixels."""
        return vae_factor(self.vae) * unet_factor(self.unet)
