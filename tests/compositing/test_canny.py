"""Edges of a foreground against OpenCV's detector and where a known shape has them."""

import cv2
import numpy as np
import torch

from anyscene.compositing.canny import canny_edges


def test_canny_edges_are_those_of_opencv():
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(3, 3, 8, 12, generator=generator)
    images = torch.nn.functional.interpolate(small, (64, 96), mode="bilinear")
    edges = canny_edges(images)
    assert edges.shape == images.shape
    for image, found in zip(images, edges, strict=True):
        pixels = (image * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
        expected = cv2.Canny(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), 100, 200)
        assert 0.01 < (expected > 0).mean() < 0.5
        for channel in found:
            assert np.array_equal(channel.numpy() * 255, expected)


def test_canny_edges_lie_on_the_border_of_a_square():
    image = torch.full((1, 3, 32, 32), 0.5)
    image[:, :, 8:24, 8:24] = 1.0
    edges = canny_edges(image)[0, 0]
    assert set(edges.unique().tolist()) == {0.0, 1.0}
    inner = edges[10:22, 10:22].sum() + edges.sum() - edges[6:26, 6:26].sum()
    assert inner == 0
    assert edges.sum() > 50
