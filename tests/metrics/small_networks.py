"""Random networks of the real kinds, small enough for tests, saved as users have the real ones."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyscene.config import MetricsConfig
from anyscene.files import sha256_of

CAPTIONS = ["a red mug on a meadow", "two green mushrooms in the snow", "a car", "an orange ball"]


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 12, 31, stride=29)

    def forward(self, images: Tensor) -> Tensor:
        return self.convolution(images).tanh().amax(dim=(2, 3), keepdim=True)


class _StandIn(nn.Module):
    """The calls of the published network: its own resizing in `forward`, none in `layers`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _Layers()

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        features = self.layers((images - 128) / 128).flatten(1)
        return features if return_features else features.softmax(dim=1)


def save_inception(path: Path) -> Path:
    """A scripted stand-in with 12 features."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(_StandIn()).save(path)
    return path


def save_clip(folder: Path, *, projection: int = 16) -> Path:
    """A CLIP for 32 px with a tokenizer of a few words; texts of at most 32 tokens."""
    from transformers import CLIPConfig, CLIPModel

    from data_prep.text_encoder import MAX_LENGTH, train_tokenizer

    tokenizer: Any = train_tokenizer(CAPTIONS)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}
    tokens = {n: getattr(tokenizer, n) for n in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CLIPConfig(
        text_config={
            **layers,
            **tokens,
            "vocab_size": len(tokenizer),
            "intermediate_size": 32,
            "max_position_embeddings": MAX_LENGTH,
        },
        vision_config={**layers, "intermediate_size": 32, "image_size": 32, "patch_size": 16},
        projection_dim=projection,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(config)
        for name, weights in model.named_parameters():  # random, but not nearly constant
            if name.endswith("weight") and weights.ndim > 1:
                nn.init.normal_(weights, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_dino(folder: Path) -> Path:
    """A DINOv2 with patches of 56 px."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=112,
        patch_size=56,
        mlp_ratio=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Dinov2Model(config).save_pretrained(folder)
    return folder


def save_all(folder: Path) -> MetricsConfig:
    """A configuration with one of each, saved in `folder`; its heads take CLIP's 16 numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    inception = save_inception(folder / "inception.pt")
    head = folder / "v1.pth"
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 16, generator=generator)
    torch.save({"weight": weight, "bias": torch.tensor([5.0])}, head)
    return MetricsConfig(
        inception=str(inception),
        inception_sha256=sha256_of(inception),
        clip=str(save_clip(folder / "clip")),
        dino=str(save_dino(folder / "dino")),
        aesthetic_v1=str(head),
        micro_batch=3,
    )
