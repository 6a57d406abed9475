"""Loading a base, and one clear line for each way in which it cannot be loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderTiny, DiffusionPipeline
from safetensors import SafetensorError

from anyscene.errors import InputError
from anyscene.models.base import Base
from anyscene.models.text import SIZE_NUMBERS

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


def load_base(path: str, revision: str | None = None, first_stage: str | None = None) -> Base:
    """The base in float32 from a folder or hub id; its family is what the folder says.

    Raises:
        InputError: not found, unreachable, incomplete, of another family, or parts that don't fit.
    """
    return _assemble(path, revision, first_stage, _load_weights)


def fake_base(path: str, revision: str | None = None, first_stage: str | None = None) -> Base:
    """The base as its configurations describe it, with fresh weights: for counting, not for use.

    Reads no weights; under `FakeTensorMode` it takes no memory either. Raises as `load_base`.
    """
    return _assemble(path, revision, first_stage, _from_config)


def _assemble(
    path: str, revision: str | None, first_stage: str | None, load_network: Callable[..., Any]
) -> Base:
    index = check_family(path, revision)
    options = {} if revision is None else {"revision": revision}

    def part(name: str, load: Callable[..., Any] = load_network) -> Any:
        library = diffusers if index[name][0] == "diffusers" else transformers
        kind = getattr(library, index[name][1])
        return load(kind, path, "base.path", subfolder=name, **options)

    second = "text_encoder_2" in index
    base = Base(
        unet=part("unet"),
        vae=part("vae")
        if first_stage is None
        else load_network(AutoencoderTiny, first_stage, "base.first_stage"),
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
    except (OSError, ValueError, SafetensorError) as error:
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


def _from_config(kind: Any, path: str, key: str, **options: Any) -> Any:
    """A model of the class `kind` as its folder configures it, with fresh weights."""
    try:
        if issubclass(kind, transformers.PreTrainedModel):
            settings: Any = kind.config_class
            return kind(settings.from_pretrained(path, **options))
        return kind.from_config(kind.load_config(path, **options))
    except (OSError, ValueError) as error:
        raise _not_found(path, key, error, options.get("subfolder")) from None


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
