"""SAM as a segmenter: its points, and a tiny random one through its real loading code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_sam import tiny_sam

from anyscene.errors import InputError
from anyscene.metrics.sam import POINTS, SamSegmenter, element_points


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> SamSegmenter:
    return SamSegmenter.from_pretrained(tiny_sam(tmp_path_factory.mktemp("sam")))


def two_elements(height: int = 48, width: int = 64) -> torch.Tensor:
    mask = torch.zeros(1, 1, height, width)
    mask[..., 8:28, 6:26] = 1
    mask[..., 30:40, 40:60] = 1
    return mask


def test_sam_answers_at_the_size_of_the_image(sam: SamSegmenter):
    image = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    mask = two_elements().repeat(2, 1, 1, 1)
    found = sam(image, mask)
    assert found.shape == (2, 1, 48, 64)
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.std() > 0
    assert not torch.equal(found[0], found[1])
    assert torch.equal(sam(image[:1], mask[:1])[0], found[0])


def test_sam_is_prompted_from_the_mask(sam: SamSegmenter):
    image = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    mask = two_elements()
    assert not torch.equal(sam(image, mask), sam(image, mask.flip(-1)))
    assert (sam(image, torch.zeros_like(mask)) == 0).all()


def test_union_of_the_elements_is_found(sam: SamSegmenter):
    image = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    mask = two_elements()
    first, second = mask.clone(), mask.clone()
    first[..., 30:], second[..., :30, :30] = 0, 0
    first[..., 30:, :] = 0
    parts = [sam(image, (mask * side)) for side in (first, second)]
    torch.testing.assert_close(sam(image, mask), torch.maximum(*parts), atol=1e-4, rtol=0)


def test_points_lie_inside_their_own_part_and_apart():
    mask = two_elements()[0, 0].bool().numpy()
    mask[0, 0] = True  # a speck
    points = element_points(mask)
    assert [len(part) for part in points] == [POINTS, POINTS]
    for part, (rows, columns) in zip(points, ((8, 28), (30, 40)), strict=True):
        x, y = np.array(part).T
        assert mask[y.astype(int), x.astype(int)].all()
        assert rows <= y.min() <= y.max() < columns
        distances = np.linalg.norm(np.array(part)[:, None] - np.array(part)[None], axis=-1)
        assert distances[~np.eye(POINTS, dtype=bool)].min() >= 3
    assert element_points(np.zeros((8, 8), dtype=bool)) == []


def test_a_folder_without_a_sam_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="could not be loaded"):
        SamSegmenter.from_pretrained(tmp_path)


def test_a_sam_that_is_not_whole_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """transformers would fill what it lacks with random numbers, and print a table of it."""
    file = tiny_sam(tmp_path) / "model.safetensors"
    capfd.readouterr()
    whole, weights = file.read_bytes(), load_file(file)
    name = "mask_decoder.iou_token.weight"
    for changed in ({}, {name: weights[name][:, :8].contiguous()}):
        rest = {key: value for key, value in weights.items() if key != name}
        save_file(rest | changed, file, metadata={"format": "pt"})
        with pytest.raises(InputError, match=f"1 of its weights are missing .*, as {name}"):
            SamSegmenter.from_pretrained(tmp_path)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="could not be loaded"):
        SamSegmenter.from_pretrained(tmp_path)
    assert "MISSING" not in "".join(capfd.readouterr())


def test_another_model_is_no_sam(tmp_path: Path):
    config = tiny_sam(tmp_path) / "config.json"
    config.write_text(config.read_text().replace('"model_type": "sam"', '"model_type": "sam2"'))
    with pytest.raises(InputError, match="it is a sam2"):
        SamSegmenter.from_pretrained(tmp_path)
