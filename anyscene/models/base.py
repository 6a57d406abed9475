"""The pretrained latent diffusion model: loading, text, first stage. All of it stays frozen."""

import hashlib
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from anyscene.errors import InputError

Vae = AutoencoderKL | AutoencoderTiny

FAMILY = {
    "unet": ["UNet2DConditionModel"],
    "vae": ["AutoencoderKL", "AutoencoderTiny"],
    "text_encoder": ["CLIPTextModel"],
    "tokenizer": ["CLIPTokenizer", "CLIPTokenizerFast"],
}
"""The classes of a base's parts."""


def encode_prompts(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, prompts: list[str]
) -> Tensor:
    """Last hidden states of the prompts, B n d; the tokenizer cuts long ones and keeps EOS."""
    tokens = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return text_encoder(tokens.input_ids.to(text_encoder.device))[0]


def encode_moments(vae: Vae, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the posterior, B c h w each, of images B 3 H W in [-1, 1].

    As the first stage gives them: not scaled. The deviation of an `AutoencoderTiny` is 0.
    """
    encoded: Any = vae.encode(images.to(vae.dtype))
    if isinstance(vae, AutoencoderTiny):
        return encoded.latents, torch.zeros_like(encoded.latents)
    return encoded.latent_dist.mean, encoded.latent_dist.std


def scale_latents(vae: Vae, latents: Tensor) -> Tensor:
    """Latents as the UNet takes them, from latents as the first stage gives them."""
    config: Any = vae.config
    shift = getattr(config, "shift_factor", None) or 0.0
    return (latents - shift) * config.scaling_factor


def encode_images(vae: Vae, images: Tensor, noise: Tensor | None = None) -> Tensor:
    """Scaled latents B c h w of images B 3 H W in [-1, 1]; `noise` draws from the posterior."""
    mean, std = encode_moments(vae, images)
    return scale_latents(vae, mean if noise is None else mean + std * noise)


def decode_latents(vae: Vae, latents: Tensor) -> Tensor:
    """Images B 3 H W, about [-1, 1], of scaled latents B c h w."""
    config: Any = vae.config
    shift = getattr(config, "shift_factor", None) or 0.0
    decoded: Any = vae.decode(latents.to(vae.dtype) / config.scaling_factor + shift)
    return decoded.sample


def vae_factor(vae: Vae) -> int:
    """Pixels a latent, along one side."""
    config: Any = vae.config
    return 2 ** (len(config.block_out_channels) - 1)


def unet_factor(unet: UNet2DConditionModel) -> int:
    """What the UNet divides the side of the latents by."""
    config: Any = unet.config
    return 2 ** (len(config.block_out_channels) - 1)


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
    index = check_family(path, revision)
    options = {} if revision is None else {"revision": revision}
    if first_stage is None:
        vae_class = getattr(diffusers, index["vae"][1])
        vae = _load_weights(vae_class, path, "base.path", subfolder="vae", **options)
    else:
        vae = _load_weights(AutoencoderTiny, first_stage, "base.first_stage")
    base = Base(
        unet=_load_weights(UNet2DConditionModel, path, "base.path", subfolder="unet", **options),
        vae=vae,
        text_encoder=_load_weights(
            CLIPTextModel, path, "base.path", subfolder="text_encoder", **options
        ),
        tokenizer=_load(CLIPTokenizer, path, "base.path", subfolder="tokenizer", **options),
        scheduler=_load(
            getattr(diffusers, index["scheduler"][1]),
            path,
            "base.path",
            subfolder="scheduler",
            **options,
        ),
    )
    _check_fit(path, base)
    return base


def check_family(path: str, revision: str | None = None) -> dict[str, Any]:
    """The `model_index.json` of a folder or hub id: class by part.

    Raises:
        InputError: not found, or not of the Stable Diffusion type.
    """
    if Path(path).is_dir() and not (Path(path) / "model_index.json").is_file():
        raise InputError(
            f"base.path={path!r} has no model_index.json: give the folder that "
            "`save_pretrained` of a diffusers pipeline wrote, not one of its parts"
        )
    try:
        index: Any = DiffusionPipeline.load_config(path, revision=revision)
    except (OSError, ValueError) as error:
        raise _not_found(path, "base.path", error) from None
    if "text_encoder_2" in index or any(
        index.get(part, [None, None])[1] not in classes for part, classes in FAMILY.items()
    ):
        raise InputError(
            f"base.path={path!r} is a {index.get('_class_name')}: this version trains on "
            "Stable Diffusion 1.x and 2.x type folders (one CLIP text encoder, UNet, VAE)"
        )
    return dict(index)


def _load(kind: Any, path: str, key: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise _not_found(path, key, error, options.get("subfolder")) from None


def _load_weights(kind: Any, path: str, key: str, **options: Any) -> Any:
    """A model in float32, from safetensors alone, with every weight that it needs."""
    model, report = _load(
        kind,
        path,
        key,
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
        **options,
    )
    missing = sorted(report["missing_keys"])
    if missing:  # the libraries fill them with random numbers
        raise InputError(
            f"{key}={path!r}: its {options.get('subfolder', 'file')} lacks {len(missing)} weights "
            f"of {kind.__name__}, such as {missing[0]}; it is incomplete or of another model"
        )
    return model


def _not_found(path: str, key: str, error: Exception, part: str | None = None) -> InputError:
    reason = " ".join(str(error).split())[:300]
    if Path(path).is_dir():
        of = "" if part is None else f", its {part} cannot be loaded"
        return InputError(f"{key}={path!r} is not a complete diffusers folder{of}: {reason}")
    return InputError(
        f"{key}={path!r} is no folder here, and as a hub id it could not be fetched ({reason}); "
        f"run `hf download {path} --local-dir DIR` where there is a network and set {key}=DIR"
    )


def _check_fit(path: str, base: Base) -> None:
    tokens, text = base.tokenizer, base.text_encoder.config
    if (
        tokens.model_max_length > text.max_position_embeddings
        or max(tokens.get_vocab().values()) >= text.vocab_size
        or len(tokens) < text.vocab_size // 2
    ):
        raise InputError(
            f"base.path={path!r}: its tokenizer has {len(tokens)} tokens and prompts of "
            f"{tokens.model_max_length}, its text encoder takes {text.vocab_size} and "
            f"{text.max_position_embeddings}; the tokenizer is missing or of another model"
        )
    unet: Any = base.unet.config
    first_stage: Any = base.vae.config
    width = text.hidden_size
    if unet.cross_attention_dim != width:
        raise InputError(
            f"base.path={path!r}: its text encoder gives {width} channels but its UNet expects "
            f"{unet.cross_attention_dim}; the parts are of different models"
        )
    channels = first_stage.latent_channels
    if unet.in_channels != channels:
        raise InputError(
            f"base.path={path!r}: the first stage has {channels} latent channels but the UNet "
            f"takes {unet.in_channels} (inpainting UNets, with 9, are not a base)"
        )
