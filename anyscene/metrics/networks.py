"""The networks that metrics share: each is loaded once, when it is first asked for.

transformers is imported only where a configuration names a network of it.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from torch import nn

from anyscene.config import MetricsConfig
from anyscene.errors import InputError
from anyscene.metrics.aesthetic import load_aesthetic
from anyscene.metrics.elements import Lpips
from anyscene.metrics.features import FeatureExtractor
from anyscene.metrics.inception import load_inception


class Missing(Exception):
    """Why a metric cannot be computed."""


class Networks:
    """The networks that a configuration names, each loaded when it is first asked for."""

    def __init__(self, config: MetricsConfig) -> None:
        self.config = config
        self._known: dict[tuple[str, str], Any] = {}

    @property
    def loaded(self) -> list[nn.Module]:
        """Those that were asked for."""
        return list(self._known.values())

    def _load(self, kind: str, path: str, load: Callable[[], Any]) -> Any:
        if (kind, path) not in self._known:
            self._known[kind, path] = load()
        return self._known[kind, path]

    def inception(self) -> FeatureExtractor:
        """Raises `Missing` without `metrics.inception`, `InputError` where it is not one."""
        path, config = self.config.inception, self.config
        if path is None:
            raise Missing("metrics.inception is not given")
        return self._load(
            "inception",
            path,
            lambda: load_inception(path, config.inception_sha256, config.micro_batch),
        )

    def clip(self, *keys: str) -> Any:
        """The CLIP of the first of these keys of the configuration that is given."""
        from anyscene.metrics.transformer_features import load_clip

        key = next((key for key in keys if getattr(self.config, key) is not None), None)
        if key is None:
            raise Missing(f"metrics.{keys[-1]} is not given")
        path, size = getattr(self.config, key), self.config.micro_batch
        return self._load("clip", path, lambda: load_clip(path, f"metrics.{key}", size))

    def dino(self) -> Any:
        """The DINO or DINOv2."""
        path, size = self.config.dino, self.config.micro_batch
        if path is None:
            raise Missing("metrics.dino is not given")
        from anyscene.metrics.transformer_features import load_dino

        return self._load("dino", path, lambda: load_dino(path, "metrics.dino", size))

    def aesthetic(self, key: str) -> tuple[Any, Any]:
        """The head of a key, and a CLIP whose embeddings it takes."""
        path = getattr(self.config, key)
        if path is None:
            raise Missing(f"metrics.{key} is not given")
        head = self._load("head", path, lambda: load_aesthetic(path, f"metrics.{key}"))
        clips = [
            self.clip(name) for name in ("aesthetic_clip", "clip") if getattr(self.config, name)
        ]
        if not clips:
            raise Missing("metrics.clip is not given")
        for clip in clips:
            if clip.record.width == head.width:
                return head, clip
        found = " and ".join(str(clip.record.width) for clip in clips)
        raise InputError(
            f"metrics.{key}={path!r} takes embeddings of {head.width} numbers, and the CLIP has "
            f"{found}; set metrics.aesthetic_clip to the CLIP that the head was trained on"
        )

    def lpips(self) -> Lpips:
        """LPIPS' network."""
        if not self.config.lpips:
            raise Missing("metrics.lpips is false")
        if find_spec("torchvision") is None:
            raise Missing("LPIPS needs torchvision: pip install torchvision")
        try:
            return self._load("lpips", "", Lpips)
        except (ImportError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise Missing(f"LPIPS' network cannot be loaded: {reason}") from None
