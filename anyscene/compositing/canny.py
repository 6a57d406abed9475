"""Canny edges of a composited foreground: the hint of the ControlNet baseline."""

import cv2
import numpy as np
import torch
from torch import Tensor

LOW, HIGH = 100, 200
"""Thresholds on gradients of grey levels of 0 to 255, those of ControlNet's published examples."""


def canny_edges(rgb: Tensor) -> Tensor:
    """Edges, 0 or 1, of images B 3 H W in [0, 1], as B 3 H W of three equal channels.

    OpenCV's detector (Canny 1986) on the grey image; three channels, as the published ControlNets
    of edges take them. It runs on the CPU.
    """
    pixels = (rgb.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    images = pixels.permute(0, 2, 3, 1).contiguous().numpy()  # B H W 3
    edges = [cv2.Canny(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), LOW, HIGH) for image in images]
    found = torch.from_numpy(np.stack(edges)).to(rgb.device, rgb.dtype) / 255
    return found[:, None].expand(-1, 3, -1, -1).contiguous()
