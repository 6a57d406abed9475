"""The feature networks: checksums, the published definitions, and independence of the batch."""

import re
from pathlib import Path

import pytest
import torch
from small_networks import CAPTIONS, save_clip, save_dino, save_inception
from torch import Tensor

from anyscene.errors import InputError
from anyscene.files import sha256_of
from anyscene.metrics.features import FeatureExtractor, exact_floats
from anyscene.metrics.inception import load_inception
from anyscene.metrics.preprocess import as_saved, resize_and_crop, resize_bicubic
from anyscene.metrics.transformer_features import (
    CLIP_MEAN,
    CLIP_STD,
    ClipFeatures,
    load_clip,
    load_dino,
)


def images(count: int, side: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return as_saved(torch.rand(count, 3, side, side, generator=generator))


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_inception(tmp_path_factory.mktemp("inception") / "network.pt")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> ClipFeatures:
    return load_clip(str(clip_folder), "metrics.clip", micro_batch=3)


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dino(tmp_path_factory.mktemp("dino"))


def assert_independent_of_the_batch(extractor: FeatureExtractor) -> None:
    whole = extractor(images(7))
    assert whole.shape == (7, extractor.record.width)
    parts = [extractor(part) for part in images(7).split([1, 4, 2])]
    assert torch.equal(torch.cat(parts), whole)
    assert len(whole.unique(dim=0)) == 7


def test_inception_gets_clean_fids_input(inception):
    extractor = load_inception(str(inception), sha256_of(inception), micro_batch=3)
    resized = resize_bicubic(images(1), 299, 299)
    expected = extractor.network(resized * 255, return_features=True)
    torch.testing.assert_close(extractor(images(1)), expected)
    assert extractor.record.sha256 == sha256_of(inception)
    assert_independent_of_the_batch(extractor)


def test_inception_is_fetched_from_a_url_once(inception, tmp_path):
    url = inception.as_uri()
    for _ in range(2):
        extractor = load_inception(url, sha256_of(inception), cache=tmp_path)
    assert extractor.record.width == 12
    kept = list(tmp_path.iterdir())
    assert [path.read_bytes() for path in kept] == [inception.read_bytes()]


def test_inception_with_another_checksum_is_refused(inception):
    with pytest.raises(InputError, match=r"has the sha256 \w{64}, not f58cb9b6\w+; fetch it from"):
        load_inception(str(inception))


def test_inception_that_is_missing_or_no_network_is_refused(tmp_path):
    with pytest.raises(InputError, match="no file here; fetch it once from https"):
        load_inception(str(tmp_path / "none.pt"))
    other = tmp_path / "other.pt"
    other.write_bytes(b"not TorchScript")
    with pytest.raises(InputError, match="no TorchScript network"):
        load_inception(str(other), sha256_of(other))


def test_clip_embeddings_are_those_of_transformers(clip):
    prepared = resize_and_crop(images(2), 32)
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    with torch.no_grad():
        vision = clip.network.get_image_features((prepared - mean) / std).pooler_output
        tokens = clip.tokenizer(CAPTIONS, padding=True, return_tensors="pt")
        text = clip.network.get_text_features(**tokens).pooler_output
    for found, expected in ((clip(images(2)), vision), (clip.texts(CAPTIONS), text)):
        torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))
    assert_independent_of_the_batch(clip)


def test_a_caption_that_is_too_long_keeps_its_end_token(clip):
    caption = " ".join(["car mug ball red"] * 20)
    tokens = clip.tokenizer(caption)["input_ids"]
    assert len(tokens) > 77
    kept = torch.tensor([[*tokens[:31], clip.tokenizer.eos_token_id]])
    cut = torch.tensor([tokens[:32]])
    with torch.no_grad():
        expected, wrong = (clip.network.get_text_features(t).pooler_output for t in (kept, cut))
    found = clip.texts([caption])
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))
    assert (found - wrong / wrong.norm(dim=1, keepdim=True)).abs().max() > 1e-2


def test_dino_features_are_the_class_token(dino_folder):
    extractor = load_dino(str(dino_folder), "metrics.dino", micro_batch=3)
    assert extractor.is_v2
    prepared = extractor.prepare(images(1))
    assert prepared.shape[-2:] == (224, 224)
    with torch.no_grad():
        expected = extractor.network(prepared).pooler_output
    torch.testing.assert_close(extractor(images(1)), expected)
    assert_independent_of_the_batch(extractor)


def test_wrong_folders_are_refused_in_one_line(clip_folder, dino_folder, tmp_path):
    with pytest.raises(InputError, match=r"metrics.clip='.*' is a dinov2, not a CLIP"):
        load_clip(str(dino_folder), "metrics.clip")
    with pytest.raises(InputError, match=r"metrics.dino='.*' is a clip, none of dinov2"):
        load_dino(str(clip_folder), "metrics.dino")
    with pytest.raises(InputError, match=r"metrics.dino='.*' cannot be loaded .*hf download"):
        load_dino(str(tmp_path), "metrics.dino")


def test_missing_weights_are_refused(dino_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "dino"
    folder.mkdir()
    (folder / "config.json").write_bytes((dino_folder / "config.json").read_bytes())
    weights = load_file(dino_folder / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = re.escape("lacks 1 weights of Dinov2Model, such as layernorm.weight")
    with pytest.raises(InputError, match=message):
        load_dino(str(folder), "metrics.dino")


def test_settings_of_a_training_do_not_reach_the_networks(clip):
    expected = clip(images(3))
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(clip(images(3)), expected)
        assert torch.get_float32_matmul_precision() == "high"
        with exact_floats("cpu"):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")
