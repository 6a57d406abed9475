"""CLIP's and DINO's features, through transformers, without its torchvision image processors."""

from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPModel,
    Dinov2Model,
    Dinov2WithRegistersModel,
    ViTModel,
)

from anyscene.errors import InputError
from anyscene.metrics.features import ExtractorRecord, FeatureExtractor, in_micro_batches
from anyscene.metrics.preprocess import normalise, resize_and_crop, resize_square
from anyscene.models.base import weights_sha256

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DINO_SIDE = 224  # pixels; as Stein et al. 2023, whatever the network was last trained at

DINO_KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dinov2": (Dinov2Model, {}),
    "dinov2_with_registers": (Dinov2WithRegistersModel, {}),
    "vit": (ViTModel, {"add_pooling_layer": False}),
}
"""transformers' class for each `model_type`; `vit` is the first DINO."""


class ClipFeatures(FeatureExtractor):
    """CLIP's embeddings of images and texts in their common space, of length 1."""

    def __init__(self, network: CLIPModel, tokenizer: Any, micro_batch: int = 16) -> None:
        super().__init__(micro_batch)
        self.network = network.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        settings: Any = network.config
        vision = settings.vision_config
        self.side = vision.image_size
        self.record = ExtractorRecord(
            f"CLIP ViT-{vision.hidden_size}/{vision.patch_size}@{self.side}",
            weights_sha256(network),
            f"bicubic to a short side of {self.side}, centre square, 8 bits; unit length",
            settings.projection_dim,
        )

    def prepare(self, images: Tensor) -> Tensor:
        return normalise(resize_and_crop(images, self.side), CLIP_MEAN, CLIP_STD)

    def rows(self, prepared: Tensor) -> Tensor:
        output: Any = self.network.get_image_features(prepared)
        return F.normalize(output.pooler_output, dim=1)

    def texts(self, prompts: list[str]) -> Tensor:
        """Embeddings B D of length 1. A text that is too long is cut by the tokenizer, which keeps
        its end token: the embedding is read there."""
        settings: Any = self.network.config
        length = settings.text_config.max_position_embeddings
        options = {"padding": "max_length", "truncation": True, "max_length": length}
        tokens = self.tokenizer(prompts, return_tensors="pt", **options)
        both = torch.stack([tokens["input_ids"], tokens["attention_mask"]], dim=1)  # B 2 L

        def embed(part: Tensor) -> Tensor:
            output: Any = self.network.get_text_features(part[:, 0], attention_mask=part[:, 1])
            return F.normalize(output.pooler_output, dim=1)

        return in_micro_batches(embed, both.to(self.network.device), self.micro_batch)


class DinoFeatures(FeatureExtractor):
    """The class token of DINOv2 (or of the first DINO) after the last norm."""

    def __init__(self, network: Any, micro_batch: int = 16) -> None:
        super().__init__(micro_batch)
        self.network = network.eval().requires_grad_(False)
        self.side = DINO_SIDE
        settings = network.config
        self.is_v2 = settings.model_type != "vit"
        self.record = ExtractorRecord(
            f"{settings.model_type} ViT-{settings.hidden_size}/{settings.patch_size}",
            weights_sha256(network),
            f"bicubic to {DINO_SIDE}x{DINO_SIDE}, 8 bits",
            settings.hidden_size,
        )

    def prepare(self, images: Tensor) -> Tensor:
        return normalise(resize_square(images, DINO_SIDE), IMAGENET_MEAN, IMAGENET_STD)

    def rows(self, prepared: Tensor) -> Tensor:
        return self.network(prepared).last_hidden_state[:, 0]


def load_clip(path: str, key: str, micro_batch: int = 16) -> ClipFeatures:
    """CLIP from a folder or hub id. Raises `InputError` where it is not one, or incomplete."""
    if _model_type(path, key) != "clip":
        raise InputError(f"{key}={path!r} is a {_model_type(path, key)}, not a CLIP")
    tokenizer = _load(AutoTokenizer, path, key)
    return ClipFeatures(_load_network(CLIPModel, path, key), tokenizer, micro_batch)


def load_dino(path: str, key: str, micro_batch: int = 16) -> DinoFeatures:
    """DINOv2 or DINO from a folder or hub id. Raises `InputError` as `load_clip`."""
    kind = _model_type(path, key)
    if kind not in DINO_KINDS:
        raise InputError(f"{key}={path!r} is a {kind}, none of {', '.join(DINO_KINDS)}")
    network, options = DINO_KINDS[kind]
    return DinoFeatures(_load_network(network, path, key, **options), micro_batch)


def _model_type(path: str, key: str) -> str:
    return _load(AutoConfig, path, key).model_type


def _load_network(kind: Any, path: str, key: str, **options: Any) -> Any:
    """In float32, with every weight: transformers fills missing ones with random numbers."""
    network, report = _load(
        kind, path, key, dtype=torch.float32, output_loading_info=True, **options
    )
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"{key}={path!r} lacks {len(missing)} weights of {kind.__name__}, such as "
            f"{missing[0]}; it is incomplete or of another model"
        )
    return network


def _load(kind: Any, path: str, key: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(path, **options)
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{key}={path!r} cannot be loaded ({reason}); give a folder that `save_pretrained` "
            f"wrote, or run `hf download {path} --local-dir DIR` where there is a network"
        ) from None
