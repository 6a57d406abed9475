"""Masks by Segment Anything (Kirillov et al., 2023) from boxes, through transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anyscene.benchmark.methods.base import SceneJob, with_foreground
from anyscene.errors import InputError
from anyscene.image_jobs import Foreground
from anyscene.metrics.sam import load_sam

Box = Sequence[float]  # left, top, width, height in pixels


class SamMasks:
    """A SAM model of a folder or hub id."""

    def __init__(self, path: Path | str, device: str = "cpu") -> None:
        model, processor = load_sam(path)
        loaded: Any = model
        self.model = loaded.to(device)
        self.processor: Any = processor
        self.device = device

    @torch.no_grad()
    def from_boxes(self, image: Image.Image, boxes: Sequence[Box]) -> Tensor:
        """The best mask of each box, n H W bool."""
        corners = [[x, y, x + width, y + height] for x, y, width, height in boxes]
        inputs = self.processor(image, return_tensors="pt", input_boxes=[corners])
        output = self.model(
            pixel_values=inputs["pixel_values"].to(self.device),
            input_boxes=inputs["input_boxes"].float().to(self.device),
        )
        masks = self.processor.post_process_masks(
            output.pred_masks.cpu(), inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )
        best = output.iou_scores[0].argmax(dim=-1).cpu()  # n
        return masks[0][torch.arange(len(best)), best]

    def cut_out(self, job: SceneJob) -> SceneJob:
        """The job with the mask that SAM finds in the real scene from the elements' boxes."""
        scene = job.scene
        if scene["real"] is None:
            raise InputError(f"--sam needs a real scene, scene {scene['scene_id']} has none")
        with Image.open(job.folder / scene["real"]) as file:
            image = file.convert("RGB")
        boxes = [element["box_xywh"] for element in scene["elements"]]
        alpha = self.from_boxes(image, boxes).any(dim=0)[None].float()
        if not alpha.any():
            raise InputError(f"SAM finds nothing in scene {scene['scene_id']}")
        rgb = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        if rgb.shape != job.own.rgb.shape:
            raise InputError(
                f"--sam: scene {scene['scene_id']} is {tuple(rgb.shape[1:])} and the model's image "
                f"{tuple(job.own.rgb.shape[1:])}; use a benchmark of the model's size"
            )
        return with_foreground(job, Foreground(rgb, alpha))
