"""The pretrained latent diffusion model: loading, first stage, checks. All of it stays frozen."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from anyscene.errors import InputError
from anyscene.models.text import SIZE_NUMBERS, TextCondition, TextEncoders

Vae = AutoencoderKL | AutoencoderTiny

TOKENIZERS = ["CLIPTokenizer", "CLIPTokenizerFast"]
FAMILY = {
    "unet": ["UNet2DConditionModel"],
    "vae": ["AutoencoderKL", "AutoencoderTiny"],
    "text_encoder": ["CLIPTextModel"],
    "tokenizer": TOKENIZERS,
}
"""The classes of a base's parts: Stable Diffusion 1 and 2."""

FAMILY_XL = FAMILY | {
    "text_encoder_2": ["CLIPTextModelWithProjection"],
    "tokenizer_2": TOKENIZERS,
}
"""The same of SDXL."""


def encode_images(vae: Vae, images: Tensor, noise: Tensor | None = None) -> Tensor:
    """Scaled latents B c h w of images B 3 H W in [-1, 1]; `noise` draws from the posterior."""
    with _without_overflow(vae):
        encoded: Any = vae.encode(images.to(vae.dtype))
    if isinstance(vae, AutoencoderTiny):
        latents = encoded.latents
    else:
        posterior = encoded.latent_dist
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise
    scale, shift = _scale_and_shift(vae, latents)
    return (latents - shift) * scale


def decode_latents(vae: Vae, latents: Tensor) -> Tensor:
    """Images B 3 H W, about [-1, 1], of scaled latents B c h w."""
    scale, shift = _scale_and_shift(vae, latents)
    with _without_overflow(vae):
        decode: Any = vae.decode  # its type says FloatTensor
        decoded = decode((latents / scale + shift).to(vae.dtype))
    return decoded.sample


def _scale_and_shift(vae: Vae, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Scaled latents are (latents - shift) * scale; both are the first stage's own."""
    config: Any = vae.config
    mean, std = (getattr(config, f"latents_{name}", None) for name in ("mean", "std"))
    if mean is not None and std is not None:
        mean, std = (like.new_tensor(value).reshape(1, -1, 1, 1) for value in (mean, std))
        return config.scaling_factor / std, mean
    return config.scaling_factor, getattr(config, "shift_factor", None) or 0.0


@contextmanager
def _without_overflow(vae: Vae) -> Iterator[None]:
    """In float32 while it is open, for a first stage in float16 that says that it overflows there
    (`force_upcast`: SDXL's)."""
    config: Any = vae.config
    upcast = vae.dtype == torch.float16 and getattr(config, "force_upcast", False)
    if upcast:
        vae.float()
    try:
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


def weights_sha256(*modules: nn.Module) -> str:
    """One hash of all weights: names, shapes and float32 values, whatever the file's dtype."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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

    def text(self, prompts: list[str]) -> TextCondition:
        """See `TextEncoders.encode`."""
        return TextEncoders(
            self.tokenizer,
            self.text_encoder,
            self.tokenizer_2,
            self.text_encoder_2,
            self.zeros_for_empty,
        ).encode(prompts)

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """See `encode_images`."""
        return encode_images(self.vae, images, noise)

    def sha256(self) -> str:
        """Hash of the frozen weights."""
        second = [] if self.text_encoder_2 is None else [self.text_encoder_2]
        return weights_sha256(self.unet, self.vae, self.text_encoder, *second)

    def pixel_multiple(self) -> int:
        """Sides of images must be multiples of this many pixels."""
        return vae_factor(self.vae) * unet_factor(self.unet)


def load_base(path: str, revision: str | None = None, first_stage: str | None = None) -> Base:
    """The base in float32 from a folder or hub id; its family is what the folder says.

    Raises:
        InputError: not found, unreachable, incomplete, of another family, or parts that don't fit.
    """
    index = check_family(path, revision)
    options = {} if revision is None else {"revision": revision}

    def part(name: str, load: Callable[..., Any] = _load_weights) -> Any:
        library = diffusers if index[name][0] == "diffusers" else transformers
        kind = getattr(library, index[name][1])
        return load(kind, path, "base.path", subfolder=name, **options)

    second = "text_encoder_2" in index
    base = Base(
        unet=part("unet"),
        vae=part("vae")
        if first_stage is None
        else _load_weights(AutoencoderTiny, first_stage, "base.first_stage"),
        text_encoder=part("text_encoder"),
        tokenizer=part("tokenizer", _load),
        scheduler=part("scheduler", _load),
        text_encoder_2=part("text_encoder_2") if second else None,
        tokenizer_2=part("tokenizer_2", _load) if second else None,
        zeros_for_empty=bool(second and index.get("force_zeros_for_empty_prompt", True)),
    )
    _check_fit(path, base)
    return base


def check_family(path: str, revision: str | None = None) -> dict[str, Any]:
    """The `model_index.json` of a folder or hub id: library and class by part.

    Raises:
        InputError: not found, or neither of the Stable Diffusion 1 and 2 type nor of SDXL's.
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
    family = FAMILY_XL if "text_encoder_2" in index else FAMILY
    for part, classes in family.items():
        found = index.get(part, [None, None])[1]
        if found not in classes:
            raise InputError(
                f"base.path={path!r} is a {index.get('_class_name')} with {found} as its {part}: "
                "this version trains on Stable Diffusion 1 and 2 type folders and on SDXL base "
                f"ones, whose {part} is {' or '.join(classes)}"
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
    _check_tokenizer(path, "tokenizer", base.tokenizer, base.text_encoder)
    unet: Any = base.unet.config
    width = base.text_encoder.config.hidden_size
    if base.text_encoder_2 is not None:
        second = base.text_encoder_2.config
        _check_tokenizer(path, "tokenizer_2", base.tokenizer_2, base.text_encoder_2)
        width += second.hidden_size
        sizes = SIZE_NUMBERS * (unet.addition_time_embed_dim or 0)
        pooled = (second.projection_dim or 0) + sizes
        if unet.projection_class_embeddings_input_dim != pooled:
            raise InputError(
                f"base.path={path!r}: its second text encoder and sizes give {pooled} channels but "
                f"its UNet expects {unet.projection_class_embeddings_input_dim}; "
                "the parts are of different models"
            )
    if unet.cross_attention_dim != width:
        raise InputError(
            f"base.path={path!r}: its text encoder gives {width} channels but its UNet expects "
            f"{unet.cross_attention_dim}; the parts are of different models"
        )
    first_stage: Any = base.vae.config
    channels = first_stage.latent_channels
    if unet.in_channels != channels:
        raise InputError(
            f"base.path={path!r}: the first stage has {channels} latent channels but the UNet "
            f"takes {unet.in_channels} (inpainting UNets, with 9, are not a base)"
        )


def _check_tokenizer(path: str, name: str, tokens: Any, encoder: Any) -> None:
    text = encoder.config
    if (
        tokens.model_max_length > text.max_position_embeddings
        or max(tokens.get_vocab().values()) >= text.vocab_size
        or len(tokens) < text.vocab_size // 2
    ):
        raise InputError(
            f"base.path={path!r}: its {name} has {len(tokens)} tokens and prompts of "
            f"{tokens.model_max_length}, its text encoder takes {text.vocab_size} and "
            f"{text.max_position_embeddings}; the tokenizer is missing or of another model"
        )
