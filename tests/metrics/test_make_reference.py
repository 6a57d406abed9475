"""`anyscene metrics reference`: from a folder of images to statistics that a metric set takes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import save_dino, save_inception
from training import refused

from anyscene.cli import main
from anyscene.config import MetricsConfig
from anyscene.files import sha256_of
from anyscene.metrics.build import build_metric_set
from anyscene.metrics.catalogue import ScoreBatch


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> MetricsConfig:
    folder = tmp_path_factory.mktemp("networks")
    path = save_inception(folder / "inception.pt")
    return MetricsConfig(
        inception=str(path),
        inception_sha256=sha256_of(path),
        dino=str(save_dino(folder / "dino")),
        micro_batch=2,
    )


def save_images(folder: Path, count: int = 5, side: int = 32) -> np.ndarray:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    return pixels


def command(config: MetricsConfig, images: Path, out: Path) -> list[str]:
    words = ["metrics", "reference", str(images), "--out", str(out), "--device", "cpu"]
    words += ["--inception", str(config.inception), "--dino", str(config.dino)]
    return [*words, "--inception-sha256", str(config.inception_sha256)]


def test_the_statistics_are_those_of_the_images(config, tmp_path, capsys):
    pixels = save_images(tmp_path / "real")
    assert main(command(config, tmp_path / "real", tmp_path / "out")) == 0
    assert capsys.readouterr().out == f"inception, dinov2 of 5 images: {tmp_path / 'out'}\n"
    record = json.loads((tmp_path / "out/inception.json").read_text())
    assert record["resolution"] == [32, 32]
    assert len(record["data_sha256"]) == 64
    names = ["fid", "kid", "fd_dinov2"]
    generated, real = torch.rand(5, 3, 32, 32), torch.from_numpy(pixels).permute(0, 3, 1, 2)
    results = []
    for settings in (config, replace(config, reference=str(tmp_path / "out"))):
        metrics = build_metric_set(settings, names=names)
        metrics.update(ScoreBatch(list(range(5)), generated, real=real))
        results.append({name: result.value for name, result in metrics.compute().items()})
    assert results[0] == pytest.approx(results[1], abs=1e-9)


def test_images_of_several_sizes_have_no_resolution(config, tmp_path):
    save_images(tmp_path / "real")
    save_images(tmp_path / "real/more", side=40)
    assert main(command(config, tmp_path / "real", tmp_path / "out")) == 0
    record = json.loads((tmp_path / "out/dinov2.json").read_text())
    assert (record["resolution"], record["images"]) == (None, 10)


def test_mistakes_are_told_in_one_line(config, tmp_path, capsys):
    save_images(tmp_path / "one", count=1)
    assert "has 1 images; 2 are the least" in refused(
        command(config, tmp_path / "one", tmp_path / "out"), capsys
    )
    assert "no folder" in refused(command(config, tmp_path / "no", tmp_path / "out"), capsys)
    words = ["metrics", "reference", str(tmp_path), "--out", str(tmp_path / "out")]
    assert "give --inception, --clip or --dino" in refused(words, capsys)
    save_images(tmp_path / "torn")
    (tmp_path / "torn/9.png").write_bytes(b"no image")
    line = refused(command(config, tmp_path / "torn", tmp_path / "out"), capsys)
    assert "9.png' cannot be read as an image" in line
    assert not (tmp_path / "out").exists()
