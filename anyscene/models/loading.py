"""Loading a base, and one clear line for each way in which it cannot be loaded."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderTiny, ControlNetModel, DiffusionPipeline
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from anyscene.errors import InputError
from anyscene.models.base import Base
from anyscene.models.fit import check_channels, check_fit

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

NETWORKS = ("unet", "controlnet", "vae", "text_encoder", "text_encoder_2")
"""The parts of a pipeline that have weights."""

HALF = "fp16"  # the name that diffusers gives to files of weights in float16

UNLOADABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    StrictDataclassError,
    SafetensorError,
)
"""What the libraries raise of files that are missing, damaged or of another model."""

LIBRARIES = ("transformers", "diffusers.models")
REPORTS = ("MISSING", "MISMATCH", "were not initialized", "trying to fetch")
"""What is in the libraries' tables of that, which an error of ours follows in one line."""


def load_base(path: str, revision: str | None = None, first_stage: str | None = None) -> Base:
    """The base in float32 from a folder or hub id; its family is what the folder says.

    Raises:
        InputError: not found, unreachable, incomplete, of another family, or parts that don't fit.
    """
    return _assemble(path, revision, first_stage, load_weights)


def fake_base(path: str, revision: str | None = None, first_stage: str | None = None) -> Base:
    """The base as its configurations describe it, with fresh weights: for counting, not for use.

    Reads no weights; under `FakeTensorMode` it takes no memory either. Raises as `load_base`.
    """
    return _assemble(path, revision, first_stage, from_config)


def _assemble(
    path: str, revision: str | None, first_stage: str | None, load_network: Callable[..., Any]
) -> Base:
    index = check_family(path, revision)
    options = {} if revision is None else {"revision": revision}

    def part(name: str, load: Callable[..., Any] = load_network) -> Any:
        kind = _kind_of(index, name, path, "base.path")
        return load(kind, path, "base.path", subfolder=name, **options)

    second = "text_encoder_2" in index
    base = Base(
        unet=part("unet"),
        vae=part("vae") if first_stage is None else _first_stage(first_stage, load_network),
        text_encoder=part("text_encoder"),
        tokenizer=part("tokenizer", _load),
        scheduler=part("scheduler", _load),
        text_encoder_2=part("text_encoder_2") if second else None,
        tokenizer_2=part("tokenizer_2", _load) if second else None,
        zeros_for_empty=bool(second and index.get("force_zeros_for_empty_prompt", True)),
    )
    check_fit(f"base.path={path!r}", base)
    check_channels(f"base.path={path!r}", base)
    return base


def _first_stage(path: str, load_network: Callable[..., Any]) -> Any:
    """The `AutoencoderTiny` of a folder or hub id, in the place of a base's own first stage."""
    try:
        settings: Any = AutoencoderTiny.load_config(path)
    except UNLOADABLE as error:
        raise _not_found(path, "base.first_stage", error) from None
    kind = settings.get("_class_name") if isinstance(settings, dict) else None
    if kind != AutoencoderTiny.__name__:
        raise InputError(
            f"base.first_stage={path!r} has the class {kind}, not AutoencoderTiny such as "
            "madebyollin/taesd; leave it out to use the base's own VAE"
        )
    return load_network(AutoencoderTiny, path, "base.first_stage")


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
    if Path(path).is_dir() and revision is not None:
        raise InputError(
            f"base.revision={revision!r} is of a hub id, but base.path={path!r} is a folder here, "
            "which has one version; leave it out"
        )
    index = _read_index(path, "base.path", revision)
    family = FAMILY_XL if "text_encoder_2" in index else FAMILY
    for part, classes in family.items():
        found = _class_of(index, part)
        if found not in classes:
            raise InputError(
                f"base.path={path!r} is a {index.get('_class_name')} with {found} as its {part}: "
                "this version trains on Stable Diffusion 1 and 2 type folders and on SDXL base "
                f"ones, whose {part} is {' or '.join(classes)}"
            )
    return index


def _read_index(path: str, key: str, revision: str | None = None) -> dict[str, Any]:
    """The `model_index.json` of a folder or hub id. Raises `InputError` where it is none."""
    try:
        index: Any = DiffusionPipeline.load_config(path, revision=revision)
    except (OSError, ValueError) as error:
        raise _not_found(path, key, error) from None
    if not isinstance(index, dict):
        raise _not_found(path, key, ValueError("its model_index.json holds no names"))
    return dict(index)


def _class_of(index: dict[str, Any], part: str) -> str | None:
    """The class of a part; None: the index names none, or not as library and class."""
    named = index.get(part)
    return named[1] if isinstance(named, list) and len(named) == 2 else None


def _kind_of(index: dict[str, Any], name: str, path: str, key: str) -> Any:
    """The class of a part that the index names."""
    named = index.get(name)
    library: Any = diffusers if named and named[0] == "diffusers" else transformers
    kind = getattr(library, _class_of(index, name) or "", None)
    if kind is None:
        raise InputError(
            f"{key}={path!r} names {_class_of(index, name)} as its {name} in model_index.json, "
            f"which {library.__name__} {library.__version__} does not have"
        )
    return kind


def _load(kind: Any, path: str, key: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(path, **options)
    except UNLOADABLE as error:
        raise _not_found(path, key, error, options.get("subfolder")) from None


def load_networks(path: str, key: str) -> dict[str, nn.Module]:
    """The networks that the `model_index.json` of a folder or hub id names, in float32.

    diffusers' pipelines fill weights that a file lacks with random numbers; here it is an error.
    `key` is what the user calls `path`; classes that we do not know are left to diffusers.

    Raises:
        InputError: not found, unreachable, incomplete or damaged.
    """
    index = _read_index(path, key)
    known = {**FAMILY_XL, "controlnet": [ControlNetModel.__name__]}
    return {
        name: load_weights(_kind_of(index, name, path, key), path, key, subfolder=name)
        for name in NETWORKS
        if _class_of(index, name) in known[name]
    }


def load_weights(kind: Any, path: str, key: str, **options: Any) -> Any:
    """A model in float32, from safetensors alone, with every weight that it needs.

    Raises `InputError`, which calls `path` by the name `key`, as `load_networks`.
    """
    options |= _variant(path, key, options.get("subfolder", ""))
    if issubclass(kind, transformers.PreTrainedModel):  # whose own error names no weight
        options["ignore_mismatched_sizes"] = True
    with _without_reports():
        model, report = _load(
            kind,
            path,
            key,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    _check_weights(f"{key}={path!r}: its {options.get('subfolder', 'file')}", kind, report)
    return model


def _variant(path: str, key: str, part: str) -> dict[str, str]:
    """The option that reads a folder whose weights are there in float16 alone, as `hf download
    --include "*.fp16.*"` leaves it. Raises `InputError` for one that has pickles alone."""
    folder = Path(path) / part
    names = [file.name for file in folder.glob("*.safetensors")]
    if not names and any(folder.glob("*.bin")):
        raise InputError(
            f"{key}={path!r}: {part or 'it'} has its weights as pickles (.bin) alone, which are "
            "not read; load it with diffusers and `save_pretrained` it, which writes safetensors"
        )
    return {"variant": HALF} if names and all(f".{HALF}" in name for name in names) else {}


@contextmanager
def _without_reports() -> Iterator[None]:
    """Keeps the libraries from logging what `_check_weights` and errors say."""

    def is_news(record: logging.LogRecord) -> bool:
        return not any(words in record.getMessage() for words in REPORTS)

    loggers = [logging.getLogger(f"{name}.modeling_utils") for name in LIBRARIES]
    for logger in loggers:
        logger.addFilter(is_news)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_news)


def _check_weights(what: str, kind: type, report: dict[str, Any]) -> None:
    """Raises `InputError` where `from_pretrained` has reported weights that are missing or of other
    shapes: the libraries fill these with random numbers."""
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"{what} lacks {len(missing)} weights of {kind.__name__}, such as {missing[0]}; "
            "it is incomplete or of another model"
        )
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise InputError(
            f"{what} has weights of other shapes than its config.json says, such as {name} with "
            f"{tuple(found)} in place of {tuple(expected)}; they are of another model"
        )


def from_config(kind: Any, path: str, key: str, **options: Any) -> Any:
    """A model of the class `kind` as its folder configures it, with fresh weights.

    Raises as `load_weights`.
    """
    try:
        if issubclass(kind, transformers.PreTrainedModel):
            settings: Any = kind.config_class
            return kind(settings.from_pretrained(path, **options))
        return kind.from_config(kind.load_config(path, **options))
    except UNLOADABLE as error:
        raise _not_found(path, key, error, options.get("subfolder")) from None


def _not_found(path: str, key: str, error: Exception, part: str | None = None) -> InputError:
    reason = " ".join(str(error).split()).split(" If you want to instead")[0][:300]
    if Path(path).is_dir():
        of = "" if part is None else f", its {part} cannot be loaded"
        return InputError(f"{key}={path!r} is not a complete diffusers folder{of}: {reason}")
    return InputError(
        f"{key}={path!r} is no folder here, and as a hub id it could not be fetched ({reason}); "
        f"run `hf download {path} --local-dir DIR` where there is a network and set {key}=DIR"
    )
