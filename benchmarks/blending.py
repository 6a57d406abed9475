"""Blending modes on the demo's scenes and on photos: what decides the default in docs/blending.md.

    python benchmarks/blending.py --shards VAL [--coco FOLDER --taesd FOLDER] --out FOLDER

Demo: the shipped model is shown held-out elements in another light (exposure and tint); the truth
is the real scene. Photos: a photo of COCO under another light is what was generated, with what a
first stage (TAESD) leaves of its detail; the truth is the sharp photo in that light, the foreground
an object in its own. In both the truth is known, so that errors can be told from taste.

Writes blending.json, blending.md, and a picture of each.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import load_file
from torch import Tensor

from anyscene.compositing.blending import blend, eroded_mask, masked_gaussian
from anyscene.compositing.hint import jitter_foreground, linear_to_srgb, srgb_to_linear
from anyscene.config import Blend
from anyscene.held_out import read_held_out
from anyscene.image_jobs import load_model
from anyscene.metrics.bootstrap import bootstrap_interval
from anyscene.metrics.seam import colour_shift, seam
from anyscene.sampler import sample_scenes
from anyscene.visual import sample_grid

VARIANTS: dict[str, tuple[Blend, float]] = {
    "none": (Blend.none, 1.0),
    "alpha (= detail, k = 1)": (Blend.alpha, 1.0),
    "detail, k = 0.5": (Blend.detail, 0.5),
    "detail, k = 0.25": (Blend.detail, 0.25),
    "detail, k = 0": (Blend.detail, 0.0),
    "laplacian": (Blend.laplacian, 1.0),
    "poisson": (Blend.poisson, 1.0),
}
OPENCV = "OpenCV seamlessClone"
FORMS = {"seam": "+.2f", "colour": ".1f", "psnr": ".1f", "detail": ".1f"}
SIDE = 256  # pixels of the photos
Cases = tuple[Tensor, Tensor, Tensor, Tensor]  # generated, foreground, alpha, truth


def demo_cases(model: str, shards: Path, samples: int) -> Cases:
    """Generated scenes of elements whose light was changed."""
    scenes = read_held_out(shards, samples, seed=0)
    uniforms = torch.rand(samples, 3, generator=torch.Generator().manual_seed(1))
    shown = jitter_foreground(scenes.scene, scenes.alpha, uniforms, 0.5, 0.7)
    output = sample_scenes(
        load_model(model, "fp32", "cpu").pipeline,
        scenes.prompts,
        scenes.seeds,
        shown,
        scenes.alpha,
        micro_batch=8,
        num_inference_steps=20,
        guidance_scale=2.0,
    )
    return torch.as_tensor(output.raw_images).float(), shown, scenes.alpha, scenes.scene


def photo_cases(coco: Path, taesd: Path, samples: int) -> Cases:
    """Photos in another light after a first stage, with a large object's mask."""
    annotations = COCO(str(coco / "instances.json"))
    vae = first_stage(taesd)
    generator = torch.Generator().manual_seed(2)
    cases: list[list[Tensor]] = []
    for annotation in sorted(annotations.anns.values(), key=lambda own: own["id"]):
        record = annotations.imgs[annotation["image_id"]]
        share = annotation["area"] / (record["width"] * record["height"])
        used = {int(case[0]) for case in cases}
        if annotation["iscrowd"] or not 0.05 < share < 0.4 or annotation["image_id"] in used:
            continue
        with Image.open(coco / "images" / record["file_name"]) as file:
            photo = np.array(file.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))
        mask = Image.fromarray(annotations.annToMask(annotation) * 255)
        soft = np.array(mask.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        foreground = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
        stops = 1.4 * torch.rand(1, 3, 1, 1, generator=generator) - 1.2
        truth = linear_to_srgb((srgb_to_linear(foreground) * 2**stops).clamp(0, 1))
        with torch.no_grad():
            latents: Any = vae.encode(truth * 2 - 1)
            decoded: Any = vae.decode(latents.latents)
        generated = (decoded.sample / 2 + 0.5).clamp(0, 1)
        alpha = torch.from_numpy(soft)[None, None] / 255
        cases.append([torch.tensor(annotation["image_id"]), generated, foreground, alpha, truth])
        if len(cases) == samples:
            break
    columns = list(zip(*cases, strict=True))[1:]
    generated, foreground, alpha, truth = (torch.cat(column) for column in columns)
    return generated, foreground, alpha, truth


def first_stage(folder: Path) -> AutoencoderTiny:
    """TAESD from its authors' files: `encoder.layers.k`, and `decoder.layers.k - 1`."""
    vae = AutoencoderTiny()
    weights = {
        f"encoder.layers.{name}": own
        for name, own in load_file(folder / "taesd_encoder.safetensors").items()
    }
    for name, own in load_file(folder / "taesd_decoder.safetensors").items():
        number, _, rest = name.partition(".")
        weights[f"decoder.layers.{int(number) - 1}.{rest}"] = own
    vae.load_state_dict({name: own.float() for name, own in weights.items()}, strict=True)
    return vae.eval()


def seamless_clone(generated: Tensor, foreground: Tensor, alpha: Tensor) -> Tensor:
    """OpenCV's Poisson editing of one image, 1 3 H W in [0, 1]."""
    scene, cut_out = (
        np.ascontiguousarray((own[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
        for own in (generated, foreground)
    )
    mask = ((alpha[0, 0].numpy() > 0.5) * 255).astype(np.uint8)
    mask[[0, -1]] = mask[:, [0, -1]] = 0  # it wants a border
    x, y, width, height = cv2.boundingRect(mask)
    centre = (x + width // 2, y + height // 2)
    result = cv2.seamlessClone(cut_out, scene, mask, centre, cv2.NORMAL_CLONE)
    return torch.from_numpy(result).permute(2, 0, 1)[None] / 255


def variants(cases: Cases) -> dict[str, tuple[Tensor, float]]:
    """Blended images and milliseconds an image, by name."""
    generated, foreground, alpha, _ = cases
    foreground = foreground * (alpha > 0)
    results = {}
    for name, (mode, k) in VARIANTS.items():
        started = time.perf_counter()
        images = blend(generated, foreground, alpha, mode, k=k)
        results[name] = images, 1000 * (time.perf_counter() - started) / len(images)
    started = time.perf_counter()
    parts = zip(generated.split(1), foreground.split(1), alpha.split(1), strict=True)
    images = torch.cat([seamless_clone(*part) for part in parts])
    results[OPENCV] = images, 1000 * (time.perf_counter() - started) / len(images)
    return results


def masked_error(images: Tensor, truth: Tensor, alpha: Tensor) -> Tensor:
    """PSNR in dB in the eroded mask, an image each."""
    core = eroded_mask(alpha, 2).double()
    squared = (images - truth).double().square().mean(dim=1, keepdim=True)
    return -10 * torch.log10((squared * core).sum((1, 2, 3)) / core.sum((1, 2, 3)))


def detail_error(images: Tensor, truth: Tensor, alpha: Tensor) -> Tensor:
    """PSNR of what is finer than 2 pixels (within the mask) alone: detail, whatever the light."""
    weight = (alpha > 0.5).float()
    fine = [own - masked_gaussian(own, weight, 2.0) for own in (images, truth)]
    return masked_error(fine[0], fine[1], alpha)


def measure(cases: Cases) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Rows of the table by name, and the images."""
    _, _, alpha, truth = cases
    rows, images = {}, {}
    true_seam = seam(truth, alpha)
    for name, (blended, milliseconds) in variants(cases).items():
        values = {
            "seam": seam(blended, alpha) - true_seam,
            "colour": colour_shift(blended, truth, alpha),
            "psnr": masked_error(blended, truth, alpha),
            "detail": detail_error(blended, truth, alpha),
        }
        rows[name] = {
            key: [float(own.nanmean()), *bootstrap_interval(own.tolist(), seed=0)]
            for key, own in values.items()
        } | {"milliseconds": milliseconds}
        images[name] = blended
    return rows, images


def table(rows: dict[str, Any]) -> str:
    """Markdown."""
    head = ["", "seam - truth's, stops", "colour shift", "PSNR, dB", "PSNR of detail, dB", "ms"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name, row in rows.items():
        cells = [name]
        for key, form in FORMS.items():
            mean, low, high = (format(value, form) for value in row[key])
            cells.append(f"{mean} ({low} to {high})")
        lines.append(f"| {' | '.join(cells)} | {row['milliseconds']:.0f} |")
    return "\n".join(lines) + "\n"


def sheet(cases: Cases, images: dict[str, Tensor], count: int, scale: int) -> Image.Image:
    """Rows of scenes: the foreground, what every mode makes of it, the truth."""
    _, foreground, alpha, truth = cases
    columns = {"foreground": foreground * alpha + 0.5 * (1 - alpha), **images, "truth": truth}
    grown = {
        name: own[:count].repeat_interleave(scale, -1).repeat_interleave(scale, -2)
        for name, own in columns.items()
    }
    return sample_grid(grown, [f"scene {number + 1}" for number in range(count)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="anyscene/assets/demo_fim")
    parser.add_argument("--shards", type=Path, required=True, help="held-out scenes of the demo")
    parser.add_argument("--coco", type=Path, help="folder with instances.json and images/")
    parser.add_argument("--taesd", type=Path, help="folder of TAESD's two files")
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sets = {"demo": demo_cases(options.model, options.shards, options.samples)}
    if options.coco is not None and options.taesd is not None:
        sets["photos"] = photo_cases(options.coco, options.taesd, options.samples)
    record, text = {}, ""
    for name, cases in sets.items():
        rows, images = measure(cases)
        record[name] = rows
        text += f"{name}, {len(cases[0])} scenes\n\n{table(rows)}\n"
        grid = sheet(cases, images, 5, 2 if name == "demo" else 1)
        grid.save(options.out / f"{name}.png")
    (options.out / "blending.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.out / "blending.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
