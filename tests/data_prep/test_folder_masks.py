"""Mask files and alpha channels as labels, and what lies under alpha 0."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from data_prep.folder_masks import MaskKind, carries_scene, parts, read_labels
from data_prep.preparation import RejectedError

SIZE = (60, 80)
SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


def two_blocks(first: int, second: int, kind: Any = np.uint8) -> np.ndarray:
    """A mask with a left block of one value and a right one of another."""
    mask = np.zeros(SIZE, kind)
    mask[10:30, 5:25] = first
    mask[20:50, 40:70] = second
    return mask


def save(path: Path, mask: np.ndarray | Image.Image) -> Path:
    (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(path)
    return path


def palette(mask: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(mask, "L").copy()
    image.putpalette([value for colour in colours for value in colour])
    return image


def soft(mask: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(mask, (5, 5), 1)


BLOCKS = two_blocks(1, 2)
COLOURS = (0, 0, 0), (128, 0, 0), (0, 128, 0)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (two_blocks(255, 255), BLOCKS),
        (two_blocks(255, 255) > 0, BLOCKS),  # one bit a pixel
        (two_blocks(65535, 65535, np.uint16), BLOCKS),
        (np.repeat(two_blocks(255, 255)[..., None], 3, axis=2), BLOCKS),
        (palette(BLOCKS, (0, 0, 0), (255, 255, 255), (255, 255, 255)), BLOCKS),
        (soft(two_blocks(255, 255)), BLOCKS * (soft(two_blocks(255, 255)) > 127)),
        (two_blocks(7, 3), two_blocks(7, 3)),
        (two_blocks(7, 7), two_blocks(7, 7)),  # one id of two parts
        (two_blocks(1, 0), two_blocks(1, 0)),
        (two_blocks(900, 255, np.uint16), two_blocks(900, 255, np.uint16)),
        (palette(BLOCKS, *COLOURS), BLOCKS),
        (palette(two_blocks(1, 1), *COLOURS), two_blocks(1, 1)),
    ],
)
def test_values_tell_a_binary_mask_from_ids(
    mask: Any, expected: np.ndarray, tmp_path: Path
) -> None:
    labels = read_labels(save(tmp_path / "mask.png", mask), MaskKind.auto)
    assert np.array_equal(labels, expected)


@pytest.mark.parametrize(
    ("mask", "binary", "ids"),
    [
        (two_blocks(1, 1), None, two_blocks(1, 1)),
        (two_blocks(85, 170), two_blocks(0, 1), two_blocks(85, 170)),
        (two_blocks(1, 255), two_blocks(0, 1), two_blocks(1, 0)),  # id 1 and PASCAL VOC's void
        (two_blocks(100, 0), None, two_blocks(100, 0)),
    ],
)
def test_a_mask_that_can_be_read_in_two_ways_needs_a_choice(
    mask: np.ndarray, binary: np.ndarray | None, ids: np.ndarray, tmp_path: Path
) -> None:
    path = save(tmp_path / "mask.png", mask)
    with pytest.raises(RejectedError, match="choose binary masks or ids"):
        read_labels(path, MaskKind.auto)
    assert np.array_equal(read_labels(path, MaskKind.ids), ids)
    if binary is None:
        with pytest.raises(RejectedError, match="an empty mask"):
            read_labels(path, MaskKind.binary)
    else:
        assert np.array_equal(read_labels(path, MaskKind.binary), binary)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: two_blocks(0, 0), "an empty mask"),
        (lambda: np.dstack([two_blocks(255, 0)] * 2 + [two_blocks(0, 255)]), "that is RGB"),
        (lambda: np.dstack([two_blocks(255, 0)] * 4), "that is RGBA"),
        (lambda: np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE), "more than 255"),
    ],
)
def test_what_is_no_mask_is_rejected(
    make: Callable[[], np.ndarray], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RejectedError, match=message):
        read_labels(save(tmp_path / "mask.png", make()), MaskKind.auto)


def test_a_damaged_mask_is_rejected(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", soft(two_blocks(255, 255)))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RejectedError, match="unreadable mask"):
        read_labels(path, MaskKind.auto)


def test_parts_touch_at_corners_and_specks_are_none() -> None:
    mask = np.zeros((200, 200), bool)
    mask[10:50, 10:50] = mask[50:90, 50:90] = True
    mask[150, 150:153] = True  # under a 10,000th of the image
    mask[150, 100:104] = True
    labels = parts(mask)
    assert np.array_equal(np.unique(labels), [0, 1, 2])
    assert np.array_equal(labels > 0, mask & ~(np.indices(mask.shape)[1] >= 150))


def cut_out(name: str, photo: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """What programs leave under alpha 0, in place of the photo."""
    if name == "black":
        return photo * inside[..., None]
    if name == "white":
        return np.where(inside[..., None], photo, 255).astype(np.uint8)
    if name == "nearest":  # the edge's colours smeared outwards
        labels = cv2.distanceTransformWithLabels(
            (~inside).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )[1]
        colours = np.zeros((labels.max() + 1, 3), np.uint8)
        colours[labels[inside]] = photo[inside]
        return colours[labels]
    if name == "blurred":
        weight = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 8)[..., None]
        blurred = cv2.GaussianBlur(photo * inside[..., None].astype(np.float32), (0, 0), 8)
        return np.where(inside[..., None], photo, blurred / np.maximum(weight, 1e-3)).astype(
            np.uint8
        )
    buffer = io.BytesIO()
    alpha = inside.astype(np.uint8) * 255
    Image.fromarray(np.dstack([photo, alpha])).save(buffer, "WEBP", quality=80)
    return np.asarray(Image.open(buffer).convert("RGBA"))[..., :3]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("name", ["black", "white", "nearest", "blurred", "webp"])
def test_photos_carry_a_scene_and_their_cut_outs_do_not(name: str) -> None:
    paths = sorted(SHARED.glob("dreambooth/*/00.jpg")) + sorted(SHARED.glob("coco_mini/images/*"))
    photos = [path for path in paths if path.parent.name != "red_cartoon"]  # drawn, on white
    for path in photos[::4]:
        photo = np.asarray(Image.open(path).convert("RGB"))
        height, width = photo.shape[:2]
        disc = cv2.ellipse(
            np.zeros((height, width), np.uint8),
            (width // 2, height // 2),
            (width // 4, height // 4),
            *(0, 0, 360, 1, -1),
        )
        inside = disc > 0
        assert carries_scene(photo, ~inside), path
        assert not carries_scene(cut_out(name, photo, inside), ~inside), path


def test_nothing_transparent_is_no_scene() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    assert carries_scene(photo, np.ones((40, 40), bool))
    assert not carries_scene(photo, np.zeros((40, 40), bool))
