"""The whole chain on real COCO photos, with the real TAESD as first stage of a random tiny base."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_base

from anyscene.cli import main
from anyscene.compositing.blending import eroded_mask
from anyscene.compositing.compose import canvas_tensors

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
SIZE = 256


def taesd_folder(folder: Path) -> Path:
    """TAESD's weights as an `AutoencoderTiny` folder, loaded strictly."""
    from diffusers import AutoencoderTiny
    from safetensors.torch import load_file

    weights = SHARED / "weights" / "taesd"
    state = {
        f"encoder.layers.{name}": value
        for name, value in load_file(weights / "taesd_encoder.safetensors").items()
    }
    for name, value in load_file(weights / "taesd_decoder.safetensors").items():
        number, _, rest = name.partition(".")
        state[f"decoder.layers.{int(number) - 1}.{rest}"] = value
    vae = AutoencoderTiny()
    vae.load_state_dict(state, strict=True)
    vae.save_pretrained(folder)
    return folder


def cut_out(shards: Path, path: Path) -> None:
    """The first sample of a shard folder as an RGBA canvas."""
    from data_prep.shards import read_samples

    _, members = next(iter(read_samples(sorted(shards.glob("*.tar"))[0])))
    part = path.with_suffix(".part")
    part.write_bytes(members.get("scene.jpg") or members["scene.png"])
    scene = np.asarray(Image.open(part).convert("RGB"))
    part.write_bytes(members["mask.png"])
    alpha = np.asarray(Image.open(part))
    Image.fromarray(np.dstack([scene, alpha])).save(path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_coco_photos_go_through_the_whole_chain(tmp_path: Path) -> None:
    coco = SHARED / "coco_mini"
    shards, run, export, out = (tmp_path / name for name in ("shards", "tiny", "export", "out"))
    files = {"images": "images", "instances": "instances.json", "captions": "captions.json"}
    prepare = [f"--{key}={coco / name}" for key, name in files.items()]
    assert (
        main(["prepare", "coco", *prepare, f"--out={shards}", f"--size={SIZE}", "--workers=1"]) == 0
    )
    assert main(["prepare", "verify", str(shards), "--workers=1"]) == 0
    assert main(["prepare", "inspect", str(shards), "--samples=4"]) == 0
    page = (tmp_path / "shards-inspect" / "statistics.html").read_text()
    assert "no acceptable group" in page
    assert "no caption names any category" in page

    base = tiny_base(tmp_path / "base", factor=8, size=SIZE)
    yaml = tmp_path / "tiny.yaml"
    yaml.write_text(
        f"name: tiny\nruns_dir: {tmp_path}\n"
        f"base: {{path: {base}, first_stage: {taesd_folder(tmp_path / 'taesd')}}}\n"
        f"data: {{train: {shards}, val: {shards}, val_samples: 2, batch_size: 2, workers: 0}}\n"
        "train: {steps: 3, warmup_steps: 0, learning_rate: 1e-3, validate_every: 3}\n"
        "sample: {steps: 2, guidance_scale: 2.0, micro_batch: 2}\n"
        "log: {logger: none, progress_bar: false}\n"
    )
    assert main(["train", str(yaml)]) == 0
    assert (run / "samples/step-00000003/grid.png").is_file()
    assert main(["export", str(run), "--out", str(export)]) == 0

    canvas = tmp_path / "canvas.png"
    cut_out(shards, canvas)
    arguments = ["--canvas", str(canvas), "--prompt", "a photo", "--blend=detail", "--blend-k=1"]
    assert main(["generate", str(export), *arguments, f"--out={out}"]) == 0
    line = json.loads((out / "manifest.jsonl").read_text())
    made = np.asarray(Image.open(out / line["image"]).convert("RGB"))
    rgb, alpha = canvas_tensors(Image.open(canvas))
    inside = eroded_mask(alpha[None], 2)[0, 0].numpy()
    expected = torch.round(rgb * 255).to(torch.uint8).permute(1, 2, 0).numpy()
    assert inside.sum() > 500
    assert np.array_equal(made[inside], expected[inside])
    raw = np.asarray(Image.open(out / line["image_raw"]).convert("RGB"))
    assert not np.array_equal(raw[inside], expected[inside])
