"""An export is a stock diffusers folder, and both pipelines draw the same from it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from exporting import files, foreground, loaded_base_sha256, own_image, stock_image
from PIL import Image
from tiny import tiny_base, tiny_config

from anyscene.compositing.hint import make_hint
from anyscene.data.datamodule import SceneDataModule
from anyscene.errors import InputError
from anyscene.export import export, load_trained
from anyscene.metrics.preprocess import as_saved
from anyscene.pipeline import AnyScenePipeline
from anyscene.sampler import sample_options, sample_scenes
from anyscene.train import train
from anyscene.visual import sample_grid


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_stock_pipeline_and_ours_draw_the_same(
    tiny_run: Path, tmp_path: Path, guidance: float, half: bool
):
    folder = export(tiny_run, tmp_path / "out", half=half)
    stock = StableDiffusionControlNetPipeline.from_pretrained(folder)
    own = AnyScenePipeline.from_pretrained(folder)
    image = own_image(own, guidance)
    hint = make_hint(*foreground())
    assert (stock_image(stock, guidance, image=hint) - image).abs().max() <= 1e-4
    assert (own_image(own, guidance, guided=False) - image).abs().max() > 0.01  # the FIM matters
    parts = [pipeline.components for pipeline in (stock, own)]
    modules = [part for c in parts for part in c.values() if isinstance(part, torch.nn.Module)]
    assert {part.dtype for part in modules} == {torch.float32}


def test_export_draws_what_validation_drew(tiny_run: Path, tiny_export: Path):
    """The whole grid of the run's last validation, made again from the export."""
    config = load_trained(tiny_run).config
    module = load_trained(tiny_run).module
    data = SceneDataModule(config.data, seed=config.train.seed, val_batch_size=2)
    batch = module.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)  # type: ignore[arg-type]
    scene = as_saved(batch["scene"] / 2 + 0.5)
    pipeline = AnyScenePipeline.from_pretrained(tiny_export)
    pipeline.set_progress_bar_config(disable=True)
    seeds = [config.sample.seed + number for number in batch["counter"].tolist()]
    options = sample_options(config.sample)
    output = sample_scenes(
        pipeline, batch["prompt"], seeds, scene, batch["mask"], micro_batch=2, **options
    )
    columns = {
        "foreground": batch["hint"][:, :3],
        "mask": batch["mask"],
        "generated": torch.as_tensor(output.raw_images),
        "blended": torch.as_tensor(output.images),
        "real": scene,
    }
    grid = np.asarray(sample_grid(columns, batch["prompt"]))
    with Image.open(tiny_run / "samples" / "step-00000003" / "grid.png") as file:
        assert np.array_equal(grid, np.asarray(file))


@pytest.mark.parametrize("half", [False, True])
def test_fim_alone_loads_the_base_that_it_names(
    tiny_run: Path, tiny_export: Path, tmp_path: Path, half: bool
):
    out = export(tiny_run, tmp_path / "out", with_base=False, half=half)
    assert {name.split("/")[0] for name in files(out)} == {
        "README.md",
        "anyscene.json",
        "controlnet",
    }
    image = own_image(AnyScenePipeline.from_pretrained(out), 2.5)
    whole = own_image(AnyScenePipeline.from_pretrained(tiny_export), 2.5)
    assert (image - whole).abs().max() <= (0.01 if half else 0)
    with pytest.raises(InputError, match=r"device_map='cpu' cannot be given .* use \.to\(DEVICE\)"):
        AnyScenePipeline.from_pretrained(out, device_map="cpu")


def test_fim_alone_refuses_another_base(tiny_run: Path, tmp_path: Path):
    out = export(tiny_run, tmp_path / "out", with_base=False)
    tiny_base(tmp_path / "other", seed=1)
    record = json.loads((out / "anyscene.json").read_text())
    record["base"]["path"] = "../other"
    (out / "anyscene.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=record["base"]["sha256"][:16]):
        AnyScenePipeline.from_pretrained(out)


def test_another_version_of_the_hint_is_refused(tiny_export: Path, tmp_path: Path):
    out = Path(shutil.copytree(tiny_export, tmp_path / "out"))
    record = json.loads((out / "anyscene.json").read_text())
    (out / "anyscene.json").write_text(json.dumps({**record, "hint_version": 99}))
    with pytest.raises(InputError, match="hints of version 99"):
        AnyScenePipeline.from_pretrained(out)


def test_other_first_stage_is_found_again(
    tiny_base_folder: Path, demo_shards: Path, tmp_path: Path
):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1),
        ).save_pretrained(tmp_path / "tiny_vae")
    config = tiny_config(
        tiny_base_folder,
        demo_shards,
        tmp_path,
        f"base.first_stage={tmp_path / 'tiny_vae'}",
        "train.steps=1",
    )
    run = train(config)
    folders = [export(run, tmp_path / f"out{b}", with_base=bool(b)) for b in (0, 1)]
    images = [own_image(AnyScenePipeline.from_pretrained(folder), 1.0) for folder in folders]
    assert torch.equal(images[0], images[1])
    stock = StableDiffusionControlNetPipeline.from_pretrained(folders[1])
    hint = make_hint(*foreground())
    assert (stock_image(stock, 1.0, image=hint) - images[1]).abs().max() <= 1e-4


def test_latent_hint(tiny_base_folder: Path, demo_shards: Path, tmp_path: Path):
    config = tiny_config(
        tiny_base_folder, demo_shards, tmp_path, "fim.hint=latent", "train.steps=1"
    )
    out = export(train(config), tmp_path / "out")
    assert json.loads((out / "anyscene.json").read_text())["hint"] == "latent"
    pipeline = AnyScenePipeline.from_pretrained(out)
    assert not torch.equal(own_image(pipeline, 1.0), own_image(pipeline, 1.0, guided=False))
    assert "StableDiffusionControlNetPipeline" not in (out / "README.md").read_text()


def test_trained_unet(tiny_base_folder: Path, demo_shards: Path, tmp_path: Path):
    config = tiny_config(
        tiny_base_folder,
        demo_shards,
        tmp_path,
        "train.trainable=unet",
        "train.injection=none",
        "train.steps=1",
    )
    run = train(config)
    out = export(run, tmp_path / "out")
    stock, base = (StableDiffusionPipeline.from_pretrained(f) for f in (out, tiny_base_folder))
    image = stock_image(stock, 2.5)
    own = own_image(AnyScenePipeline.from_pretrained(out), 2.5, guided=False)
    assert (image - own).abs().max() <= 1e-4
    assert (image - stock_image(base, 2.5)).abs().max() > 0.001
    assert (
        loaded_base_sha256(out) == json.loads((out / "anyscene.json").read_text())["base"]["sha256"]
    )
    with pytest.raises(InputError, match="no FIM"):
        export(run, tmp_path / "other", with_base=False)
