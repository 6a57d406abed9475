"""Blending on real photos: a COCO object under another light, beside OpenCV's seamlessClone."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from anyscene.compositing import blending
from anyscene.compositing.blending import blend, eroded_mask, gaussian
from anyscene.compositing.hint import linear_to_srgb, srgb_to_linear
from anyscene.config import Blend

COCO = Path(__file__).parents[3] / "shared" / "data" / "coco_mini"
ACTIVE = [mode for mode in Blend if mode is not Blend.none]


def to_levels(image):
    return (image * 255).round().int()


@pytest.fixture(scope="module")
def zebra():
    """A photo (B 3 H W), a zebra's mask, and the photo in warm dim light without fine detail."""
    if not COCO.is_dir():
        pytest.skip("needs ../shared/data/coco_mini")
    from pycocotools.coco import COCO as Annotations

    annotations = Annotations(str(COCO / "instances.json"))
    with warnings.catch_warnings():  # pycocotools has no copy argument for numpy 2
        warnings.simplefilter("ignore", DeprecationWarning)
        mask = annotations.annToMask(annotations.anns[589215])
    with Image.open(COCO / "images" / "000000244592.jpg") as file:
        photo = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)[None] / 255
    truth = linear_to_srgb(
        srgb_to_linear(photo) * torch.tensor([0.6, 0.5, 0.35])[None, :, None, None]
    )
    return photo, torch.from_numpy(mask)[None, None].float(), truth


def error(image, truth, where):
    return (image - truth)[where.expand_as(truth)].square().mean().sqrt().item()


def seamless_clone(generated, foreground, alpha):
    """OpenCV's Poisson editing of B 3 H W in [0, 1]."""
    scene, cut_out = (
        np.ascontiguousarray((image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        for image in (generated, foreground)
    )
    mask = (alpha[0, 0].numpy() * 255).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(mask)
    centre = (x + width // 2, y + height // 2)
    result = cv2.seamlessClone(cut_out, scene, mask, centre, cv2.NORMAL_CLONE)
    return torch.from_numpy(result).permute(2, 0, 1)[None] / 255


def test_real_photo_under_another_light_against_opencv(zebra):
    """The truth is the sharp photo in the new light: ours comes nearer than seamlessClone."""
    photo, alpha, truth = zebra
    generated = gaussian(truth, 1.5, border="replicate")
    core = eroded_mask(alpha, 2)
    errors = {
        mode.name: error(blend(generated, photo * alpha, alpha, mode, k=0.0), truth, core)
        for mode in ACTIVE
    }
    opencv = error(seamless_clone(generated, photo * alpha, alpha), truth, core)
    blurred = error(generated, truth, core)
    for mode in ("detail", "poisson"):
        assert errors[mode] < 0.4 * min(opencv, blurred, errors["alpha"]), errors
    assert errors["laplacian"] < 0.8 * errors["alpha"], errors


def test_real_photo_keeps_its_surroundings_and_its_object(zebra):
    photo, alpha, truth = zebra
    blended = blend(truth, photo * alpha, alpha, Blend.detail, k=1.0)
    core, outside = eroded_mask(alpha, 2), alpha == 0
    assert torch.equal(
        to_levels(blended)[core.expand_as(photo)], to_levels(photo)[core.expand_as(photo)]
    )
    assert torch.equal(blended[outside.expand_as(photo)], truth[outside.expand_as(photo)])


def test_membrane_of_a_real_mask_converges(zebra, monkeypatch):
    """Far fewer iterations than allowed, or the coarse start is broken."""
    photo, alpha, truth = zebra
    monkeypatch.setattr(blending, "MAX_ITERATIONS", 200)
    limited = blend(truth, photo, alpha, Blend.poisson)
    monkeypatch.undo()
    assert torch.equal(limited, blend(truth, photo, alpha, Blend.poisson))
