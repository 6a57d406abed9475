"""LAION's aesthetic predictors: small heads on CLIP's embedding of an image.

V1 (`sa_0_4_vit_*_linear`, LAION-AI/aesthetic-predictor) is linear, V2 (`sac+logos+ava1-l14-
linearMSE`, christophschuhmann/improved-aesthetic-predictor) a chain of linear layers. Published
"LAION aesthetic scores" are of either: both are computed, under their names.
"""

import pickle
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from anyscene.errors import InputError
from anyscene.metrics.per_image import PerImageMetric

V2_WIDTHS = (768, 1024, 128, 64, 16, 1)
V2_PLACES = (0, 2, 4, 6, 7)  # of its linear layers in the published file; dropout is between them


class AestheticHead(nn.Module):
    """A rating of about 0 to 10 from CLIP embeddings B D of length 1: B values.

    In float64, where an image's rating does not depend on its neighbours in a batch.
    """

    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers).double()
        self.width = layers[0].in_features

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.layers(embeddings.double())[:, 0]


def load_aesthetic(path: str, key: str) -> AestheticHead:
    """The head of a `.safetensors` or `.pth` file (weights only) with the published names.

    Raises:
        InputError: no such file, or not one of the two heads.
    """
    weights = _read_weights(path, key)
    linear = set(weights) == {"weight", "bias"}
    if linear and key.endswith("_v2"):
        raise InputError(f"{key}={path!r} is the linear head V1; give it as metrics.aesthetic_v1")
    if not linear and key.endswith("_v1") and any(name.startswith("layers.") for name in weights):
        raise InputError(f"{key}={path!r} is the MLP head V2; give it as metrics.aesthetic_v2")
    if linear:
        named = [("", nn.Linear(weights["weight"].shape[1], 1))]
    else:
        pairs = zip(V2_PLACES, V2_WIDTHS[:-1], V2_WIDTHS[1:], strict=True)
        named = [(f"layers.{place}.", nn.Linear(wide, narrow)) for place, wide, narrow in pairs]
    expected = {f"{name}{part}" for name, _ in named for part in ("weight", "bias")}
    try:
        if set(weights) != expected:
            raise RuntimeError(f"it holds {', '.join(sorted(weights)[:3])}, ...")
        for name, layer in named:
            layer.load_state_dict({p: weights[name + p].float() for p in ("weight", "bias")})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{key}={path!r} is neither the linear V1 head nor the MLP V2: {reason}"
        ) from None
    return AestheticHead([layer for _, layer in named]).eval().requires_grad_(False)


def _read_weights(path: str, key: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise InputError(
            f"{key}={path!r} is no file here; see docs/metrics.md for where the head is published"
        )
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{key}={path!r} holds no weights: {reason}") from None
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise InputError(f"{key}={path!r} holds no weights by name")
    return weights


class AestheticScore(PerImageMetric):
    """The rating of each image by a head."""

    def __init__(self, name: str) -> None:
        self.names = (name,)
        super().__init__()

    def update(self, ratings: Tensor) -> None:
        """Ratings of B images."""
        self.keep(ratings)
