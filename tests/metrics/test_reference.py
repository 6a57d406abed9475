"""Reference statistics: what is kept, and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anyscene.errors import InputError
from anyscene.metrics.features import ExtractorRecord
from anyscene.metrics.frechet import frechet_distance
from anyscene.metrics.reference import Reference

RECORD = ExtractorRecord("inception", "ab" * 32, "bicubic to 299x299", 6)


def reference(images: int = 9) -> Reference:
    features = torch.randn(images, 6, generator=torch.Generator().manual_seed(images))
    return Reference.of_features(RECORD, features, (64, 96), "cd" * 32)


@pytest.mark.parametrize("images", [4, 9], ids=["fewer images than features", "more"])
def test_a_saved_reference_is_the_same(images, tmp_path):
    made = reference(images)
    made.save(tmp_path, "inception")
    loaded = Reference.load(tmp_path, "inception")
    assert torch.equal(loaded.features, made.features)
    assert (loaded.images, loaded.resolution, loaded.data_sha256) == (images, (64, 96), "cd" * 32)
    assert loaded.extractor == RECORD
    assert float(frechet_distance(loaded.gaussian, made.gaussian)) == pytest.approx(0, abs=1e-12)
    loaded.check(RECORD, "metrics.reference")
    loaded.check_size(64, 96, "metrics.reference")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sha256": "ef" * 32}, "the weights 'abab"),
        ({"preprocessing": "bilinear"}, "the preparation of images 'bicubic to 299x299'"),
        ({"width": 7}, "the width 6"),
    ],
)
def test_another_network_is_refused(changed, words):
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        reference().check(replace(RECORD, **changed), "metrics.reference='r'")
    assert str(caught.value).startswith("metrics.reference='r' was made by inception")


def test_another_size_is_refused_and_several_sizes_are_not():
    with pytest.raises(InputError, match="is of images of 64x96, and the generated ones are 64x64"):
        reference().check_size(64, 64, "metrics.reference='r'")
    replace(reference(), resolution=None).check_size(64, 64, "metrics.reference='r'")


def damaged(folder: Path, how: str) -> None:
    """What can have happened to a saved reference."""
    path, record = folder / "inception.safetensors", folder / "inception.json"
    match how:
        case "bytes":
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
        case "tensors gone":
            path.unlink()
        case "record gone":
            record.unlink()
        case "format":
            record.write_text(json.dumps(json.loads(record.read_text()) | {"format": "other"}))
        case "no JSON":
            record.write_text("{")


@pytest.mark.parametrize("how", ["bytes", "tensors gone", "record gone", "format", "no JSON"])
def test_damaged_files_are_refused_in_one_line(how, tmp_path):
    reference().save(tmp_path, "inception")
    damaged(tmp_path, how)
    with pytest.raises(InputError, match=r"inception\.(json|safetensors)") as caught:
        Reference.load(tmp_path, "inception")
    assert "\n" not in str(caught.value)


def test_one_image_makes_no_reference():
    with pytest.raises(InputError, match="reference statistics of 1 images; 2 are the least"):
        reference(1)
