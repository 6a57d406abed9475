"""What the tests of exports share: a foreground, and what pipelines draw of it."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyscene.models.loading import load_base

PROMPT = "a red mug on a meadow"
SIZE = 64


def foreground() -> tuple[Tensor, Tensor]:
    """Colours 1 3 H W and alpha 1 1 H W of a square element."""
    rgb = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    alpha = torch.zeros(1, 1, SIZE, SIZE)
    alpha[..., 20:44, 12:40] = 1
    return rgb, alpha


def stock_image(pipeline: Any, guidance: float, **options: Any) -> Tensor:
    """3 H W of a stock pipeline, or of ours."""
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(
        PROMPT,
        height=SIZE,
        width=SIZE,
        num_inference_steps=3,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(5),
        output_type="pt",
        **options,
    )
    return output.images[0]


def own_image(pipeline: Any, guidance: float, guided: bool = True) -> Tensor:
    """3 H W of our pipeline, without blending or layout control."""
    shown = dict(zip(("foreground", "mask"), foreground(), strict=True)) if guided else {}
    return stock_image(pipeline, guidance, **shown)


def files(folder: Path) -> dict[str, bytes]:
    """The files of a folder by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def copy_of(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def loaded_base_sha256(folder: Path) -> str:
    return load_base(str(folder)).sha256()
