"""A FIM of edges, the ControlNet baseline: trained, exported, and drawn by the stock pipeline."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline
from PIL import Image
from sampling import PROMPTS, foregrounds, generators, quiet
from tiny import tiny_config

from anyscene.compositing.canny import canny_edges
from anyscene.compositing.hint import make_hint
from anyscene.cost import count_step
from anyscene.export import export
from anyscene.pipeline import AnyScenePipeline
from anyscene.train import train


@pytest.fixture(scope="module")
def exported(tiny_base_folder: Path, demo_shards: Path, tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    run = train(tiny_config(tiny_base_folder, demo_shards, runs, "fim.hint=canny"))
    return export(run, runs / "export")


def test_a_canny_export_gives_the_stock_image_also_of_a_picture_of_edges(exported: Path):
    stock = quiet(StableDiffusionControlNetPipeline.from_pretrained(exported))
    own = quiet(AnyScenePipeline.from_pretrained(exported))
    rgb, mask = foregrounds()
    options = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "pt"}
    images = own(PROMPTS, rgb, mask, generator=generators(), **options).images
    edges = canny_edges(make_hint(rgb, mask)[:, :3])
    expected = stock(PROMPTS, image=edges, generator=generators(), **options).images
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    pictures = [Image.fromarray((e * 255).byte().permute(1, 2, 0).numpy()) for e in edges]
    expected = stock(PROMPTS, image=pictures, generator=generators(), **options).images
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    plain = own(PROMPTS, height=64, width=64, generator=generators(), **options).images
    assert (plain - images).abs().max() > 1e-3


def test_a_canny_export_says_so(exported: Path):
    assert json.loads((exported / "anyscene.json").read_text())["hint"] == "canny"
    card = (exported / "README.md").read_text()
    assert "Canny edges" in card
    assert "make_hint" not in card


@pytest.mark.slow
def test_a_canny_step_is_counted(tiny_base_folder: Path, demo_shards: Path, tmp_path: Path):
    pixel, canny = (
        count_step(tiny_config(tiny_base_folder, demo_shards, tmp_path, f"fim.hint={hint}"))
        for hint in ("pixel", "canny")
    )
    assert 0.9 * pixel.flop_per_image < canny.flop_per_image < pixel.flop_per_image
