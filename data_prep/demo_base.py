"""`anyscene prepare base`: first stage, text encoder, an untrained UNet, and a judge.

Writes a standard Stable-Diffusion-type folder of stock classes, whose UNet `anyscene train` then
trains as text-to-image, and the judge that measures demo scenes. Each part is finished before the
next begins, and a second call goes on where the first was stopped.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from anyscene.data.sample import MANIFEST_NAME, ShardManifest
from anyscene.data.shards import read_batches
from anyscene.devices import choose_device
from anyscene.errors import InputError
from anyscene.files import write_json
from anyscene.metrics.fidelity import LayoutMetrics
from anyscene.metrics.judge import ClassMeans, Judge
from anyscene.metrics.segmenter import SmallSegmenter, train_segmenter
from anyscene.metrics.shadow import ShadowCorrelation
from anyscene.metrics.truth import labels_of
from data_prep.first_stage import (
    build_first_stage,
    check_init,
    normalise_latents,
    reconstruction_psnr,
    train_first_stage,
)
from data_prep.shards import file_sha256
from data_prep.text_encoder import build_text_encoder, train_text_encoder, train_tokenizer

Prediction = Literal["epsilon", "sample", "v_prediction"]


@dataclass(frozen=True)
class BaseRecipe:
    """Sizes and budgets of an embedded base."""

    first_stage_channels: tuple[int, ...] = (32, 48, 64)
    latent_channels: int = 16
    first_stage_steps: int = 20_000
    text_width: int = 64
    text_steps: int = 1500
    unet_channels: tuple[int, ...] = (32, 64, 96)
    attention_heads: int = 4
    segmenter_steps: int = 600
    batch: int = 64
    prediction_type: Prediction = "sample"
    init: str | None = None
    """Folder of an embedded base whose text encoder is taken over, and whose first stage is trained
    on from, at a quarter of the rate; null: both from scratch."""


@dataclass(frozen=True)
class Scenes:
    """A split in memory: `scenes` uint8 N 3 H W, `masks` uint8 N 1 H W, first captions, truths."""

    scenes: Tensor
    masks: Tensor
    captions: list[str]
    truths: list[dict[str, Any] | None]


def read_scenes(folder: Path, limit: int | None = None) -> Scenes:
    """All (or the first `limit`) samples of a shard folder. Raises `InputError` without them.

    The judge needs their truth, so that there must be one.
    """
    manifest = ShardManifest.read(folder)
    batches = read_batches(manifest, limit or manifest.samples)
    if not all(truth for batch in batches for truth in batch["truth"]):
        raise InputError(
            f"{folder} has scenes without truth, which the judge needs: use the shards of "
            "`anyscene prepare demo`"
        )
    return Scenes(
        torch.cat([batch["scene_uint8"] for batch in batches]).contiguous(),
        torch.cat([batch["mask_uint8"] for batch in batches]),
        [prompt for batch in batches for prompt in batch["prompt"]],
        [truth for batch in batches for truth in batch["truth"]],
    )


def prepare_base(
    shards: Path, out: Path, *, recipe: BaseRecipe, seed: int, device: str
) -> dict[str, Any]:
    """Write `out/base` (the model folder) and `out/judge`; returns the figures of `out/base.json`.

    Args:
        shards: folder with the shard folders `train` and `val`.
        out: folder to write to.
        recipe: sizes and budgets.
        seed: of weights and order.
        device: where to train.

    Raises:
        InputError: shards, a device or an `init` that cannot be used, or `out` was begun otherwise.
    """
    choose_device(device)
    if recipe.init is not None:
        check_init(Path(recipe.init), recipe.latent_channels)
    train, val = read_scenes(shards / "train"), read_scenes(shards / "val", limit=256)
    work = out / "parts"
    work.mkdir(parents=True, exist_ok=True)
    manifest = file_sha256(shards / "train" / MANIFEST_NAME)
    _claim(out / "recipe.json", {**asdict(recipe), "seed": seed, "data_manifest_sha256": manifest})
    torch.manual_seed(seed)
    _finish(work / "text", lambda part: _make_text(part, train.captions, recipe, seed, device))
    _finish(work / "vae", lambda part: _make_first_stage(part, train, val, recipe, seed, device))
    _finish(out / "judge", lambda part: _make_judge(part, shards, train, val, recipe, seed, device))
    _finish(out / "base", lambda part: _assemble(part, work, train.scenes.shape[-1], recipe, seed))
    figures = {
        "first_stage": json.loads((work / "vae" / "figures.json").read_text()),
        "text_encoder": json.loads((work / "text" / "figures.json").read_text()),
        "judge": json.loads((out / "judge" / "judge.json").read_text()),
    }
    write_json(out / "base.json", figures)
    return figures


def _claim(path: Path, values: dict[str, Any]) -> None:
    """Record what `out` is made with, or see that it is what was recorded."""
    values = json.loads(json.dumps(values))
    if not path.is_file():
        write_json(path, values)
        return
    recorded = json.loads(path.read_text())
    changed = sorted(key for key in values if recorded.get(key) != values[key])
    if changed:
        raise InputError(
            f"{path.parent} was begun with {changed[0]}={recorded.get(changed[0])!r}, not "
            f"{values[changed[0]]!r}; choose another --out or remove it"
        )


def _finish(final: Path, make: Callable[[Path], None]) -> None:
    """Let `make` fill a folder that appears under its final name when it is complete."""
    if final.is_dir():
        print(f"{final} is complete: reused", flush=True)
        return
    part = final.with_name(f".{final.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    make(part)
    part.rename(final)


def _make_text(part: Path, captions: list[str], recipe: BaseRecipe, seed: int, device: str) -> None:
    if recipe.init is not None:
        for name in ("tokenizer", "text_encoder"):
            shutil.copytree(Path(recipe.init) / name, part / name)
        _write_figures(part, {})
        return
    tokenizer = train_tokenizer(captions)
    model = build_text_encoder(tokenizer, recipe.text_width)
    figures = train_text_encoder(
        model,
        tokenizer,
        captions,
        steps=recipe.text_steps,
        batch=recipe.batch,
        learning_rate=2e-3,
        seed=seed,
        device=device,
    )
    tokenizer.save_pretrained(part / "tokenizer")
    model.save_pretrained(part / "text_encoder")
    _write_figures(part, figures)


def _make_first_stage(
    part: Path, train: Scenes, val: Scenes, recipe: BaseRecipe, seed: int, device: str
) -> None:
    vae: Any = build_first_stage(recipe.first_stage_channels, recipe.latent_channels)
    if recipe.init is not None:
        known: Any = AutoencoderKL.from_pretrained(recipe.init, subfolder="vae")
        vae.load_state_dict(known.float().state_dict())
    state = part.parent / "first_stage.pt"
    train_first_stage(
        vae,
        train.scenes,
        train.masks,
        steps=recipe.first_stage_steps,
        batch=recipe.batch,
        learning_rate=2e-3 if recipe.init is None else 5e-4,
        seed=seed,
        device=device,
        state_path=state,
    )
    normalise_latents(vae, train.scenes[:2000])
    _write_figures(part, reconstruction_psnr(vae, val.scenes, val.masks))
    vae.save_pretrained(part / "vae")
    state.unlink(missing_ok=True)


def _make_judge(
    part: Path,
    shards: Path,
    train: Scenes,
    val: Scenes,
    recipe: BaseRecipe,
    seed: int,
    device: str,
) -> None:
    bar: Any = tqdm(total=recipe.segmenter_steps, desc="segmenter", unit="step")
    segmenter = train_segmenter(
        train.scenes,
        train.masks,
        steps=recipe.segmenter_steps,
        batch=32,
        learning_rate=4e-3,
        seed=seed,
        device=device,
        progress=lambda *_: bar.update(),
    ).cpu()
    bar.close()
    labels = [labels_of(truth) for truth in train.truths if truth is not None]
    class_means = ClassMeans.fit(train.scenes.float() / 255, labels)
    record = {
        "data_manifest_sha256": file_sha256(shards / "train" / MANIFEST_NAME),
        "noise_floor": _noise_floor(segmenter, class_means, val),
    }
    Judge(class_means, segmenter, record).save_pretrained(part)


@torch.no_grad()
def _noise_floor(
    segmenter: SmallSegmenter, class_means: ClassMeans, val: Scenes
) -> dict[str, float]:
    """What the judge says of real held-out scenes: the best that a generated one can get."""
    scenes, alpha = val.scenes.float() / 255, val.masks.float() / 255
    layout, shadow = LayoutMetrics(), ShadowCorrelation()
    layout.update(segmenter(scenes), alpha)
    shadow.update(scenes, alpha, val.truths)
    floor = {name: float(value) for name, value in (layout.compute() | shadow.compute()).items()}
    seen = class_means(scenes)
    asked = [labels_of(truth) for truth in val.truths if truth is not None]
    for name in asked[0]._fields:
        hits = [getattr(s, name) == getattr(a, name) for s, a in zip(seen, asked, strict=True)]
        floor[f"{name}_accuracy"] = sum(hits) / len(hits)
    return floor


def build_unet(recipe: BaseRecipe, size: int, text_width: int) -> UNet2DConditionModel:
    """An untrained UNet for images of `size` pixels; convolutions only at the first level."""
    channels = recipe.unet_channels
    return UNet2DConditionModel(
        sample_size=size // 2 ** (len(recipe.first_stage_channels) - 1),
        in_channels=recipe.latent_channels,
        out_channels=recipe.latent_channels,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * (len(channels) - 1)),
        up_block_types=(*["CrossAttnUpBlock2D"] * (len(channels) - 1), "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=recipe.attention_heads,  # in this class: the number of heads
        norm_num_groups=8,
    )


def _assemble(part: Path, work: Path, size: int, recipe: BaseRecipe, seed: int) -> None:
    text_encoder = CLIPTextModel.from_pretrained(work / "text" / "text_encoder")
    torch.manual_seed(seed)
    kind: Any = StableDiffusionPipeline  # the types of its parts are narrower than what it takes
    pipeline = kind(
        vae=AutoencoderKL.from_pretrained(work / "vae" / "vae"),
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(work / "text" / "tokenizer"),
        unet=build_unet(recipe, size, text_encoder.config.hidden_size),
        scheduler=build_scheduler(recipe.prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(part)


def build_scheduler(prediction_type: Prediction) -> DDIMScheduler:
    """The cosine schedule of Nichol and Dhariwal 2021, sampled at trailing timesteps."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # unused with trailing spacing; stock pipelines insist on 1
    )


def _write_figures(part: Path, figures: dict[str, float]) -> None:
    (part / "figures.json").write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
