"""`anyscene evaluate`: figures of an exported model on held-out scenes, beside rivals and controls.

The rows answer how good it is: real scenes, the first stage alone, training-free rivals, the FIM
before and after blending. The controls answer whether it does what it should: they change the
prompt's light, the hint or the FIM, and say what must follow. Written for the demo's scenes, whose
truth is known; scenes without truth count in the metrics that need none.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from anyscene.compositing.hint import jitter_foreground, make_hint
from anyscene.config import Blend, SampleConfig
from anyscene.diffusion.random import Stream, uniform
from anyscene.errors import InputError
from anyscene.files import write_json
from anyscene.held_out import Scenes, read_held_out
from anyscene.layout_settings import LayoutControl
from anyscene.metrics.bootstrap import bootstrap_interval
from anyscene.metrics.judge import ClassMeans, Judge
from anyscene.metrics.suite import SceneMetrics
from anyscene.metrics.truth import labels_of, swapped_truth
from anyscene.models.base import decode_latents, encode_images
from anyscene.pipeline import AnyScenePipeline
from anyscene.sampler import sample_options, sample_scenes

LEVEL = 0.95
SIDES = {"left": "right", "right": "left"}
TONES = {"warm": "cool", "cool": "warm"}
LIGHT_WORDS = re.compile(r",? *(warm|cool) light from (the left|the right|above)")


@dataclass(frozen=True)
class Bench:
    """What every row needs."""

    pipeline: AnyScenePipeline
    judge: Judge
    sample: SampleConfig

    def generate(self, scenes: Scenes, **options: Any) -> tuple[Tensor, Tensor]:
        """Images before and after blending, each N 3 H W, where the judge is: on the CPU."""
        output = sample_scenes(
            self.pipeline,
            scenes.prompts,
            scenes.seeds,
            scenes.foreground,
            scenes.alpha,
            micro_batch=self.sample.micro_batch,
            **(sample_options(self.sample) | options),
        )
        return torch.as_tensor(output.raw_images).cpu(), torch.as_tensor(output.images).cpu()

    def row(self, name: str, images: Tensor, scenes: Scenes) -> dict[str, Any]:
        """Figures and intervals (bootstrap over scenes) of images N 3 H W."""
        metrics = SceneMetrics(self.judge)
        metrics.update(images, images, scenes.scene, scenes.alpha, scenes.truths)
        figures = metrics.compute()
        intervals = {
            metric: list(bootstrap_interval(values, seed=0, level=LEVEL))
            for metric, values in metrics.per_image().items()
            if metric in figures
        }
        unwanted = {"psnr_in_mask_blended"}
        if images is scenes.scene:  # compared with itself
            unwanted |= {"psnr_in_mask", "colour_shift"}
        return {
            "name": name,
            "figures": {k: v for k, v in figures.items() if k not in unwanted},
            "intervals": {k: v for k, v in intervals.items() if k not in unwanted},
        }


NOTE = (
    "Shadow correlation is a partial correlation (smooth illumination is removed first). "
    "fid_small uses the judge's features and few samples: compare only within the table."
)


def evaluate(
    pipeline: AnyScenePipeline,
    judge: Judge,
    shards: Path,
    out: Path,
    *,
    sample: SampleConfig,
    samples: int,
    controls: bool = False,
    tint: float = 0.7,
    exposure_stops: float = 0.5,
    step: int | None = None,
) -> dict[str, Any]:
    """Write `out` (JSON, as the report reads it) and return what it says.

    Args:
        pipeline: the model.
        judge: what measures.
        shards: folder of held-out shards.
        out: file to write.
        sample: how to sample.
        samples: at most so many scenes, the first ones.
        controls: also the controls; they take seven more rounds of sampling.
        tint, exposure_stops: photometric jitter of the hints that the controls show.
        step: of the training that made the model, as its export says.

    Raises:
        InputError: a model without FIM, no scene that can be read, controls for scenes without
            truth, or `out` is a folder.
    """
    if pipeline.controlnet is None:
        raise InputError(
            "the model has no Foreground Injection Module (controlnet/), which the figures are of: "
            "give an export that has one"
        )
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; give a file, such as {out / 'evaluation.json'}")
    out.parent.mkdir(parents=True, exist_ok=True)
    scenes = read_held_out(shards, samples, sample.seed)
    if controls and not all(scenes.truths):
        raise InputError(f"controls need scenes whose truth is known; {shards} has photos")
    micro_batch = min(sample.micro_batch, len(scenes.prompts))
    bench = Bench(pipeline, judge, replace(sample, micro_batch=micro_batch))
    makers = _row_makers(bench, scenes)
    if controls:
        makers |= _control_makers(bench, scenes, tint, exposure_stops)
    results = {}
    for name, make in tqdm(makers.items(), desc="evaluate", unit="row", disable=None):
        results[name] = make()
    rows = [row for name in _row_makers(bench, scenes) for row in results[name]]
    record = {
        "samples": len(scenes.prompts),
        "step": step,
        "level": LEVEL,
        "rows": rows,
        "controls": [row for n, r in results.items() if n.startswith("control") for row in r],
        "note": NOTE,
    }
    write_json(out, record)
    return record


Maker = Callable[[], list[dict[str, Any]]]


def _row_makers(bench: Bench, scenes: Scenes) -> dict[str, Maker]:
    """The rows of the main table, each group made by one round of sampling."""

    def reconstructed() -> list[dict[str, Any]]:
        vae = bench.pipeline.vae
        parts = scenes.scene.split(bench.sample.micro_batch)
        with torch.no_grad():
            latents = [encode_images(vae, part.to(vae.device) * 2 - 1) for part in parts]
            images = torch.cat([decode_latents(vae, part).cpu() for part in latents]) / 2 + 0.5
        return [bench.row("first stage alone", images.clamp(0, 1), scenes)]

    def pasted() -> list[dict[str, Any]]:
        images = bench.generate(scenes, blend=Blend.alpha, controlnet_conditioning_scale=0.0)[1]
        return [bench.row("pasted on the text-only image", images, scenes)]

    def known_latent() -> list[dict[str, Any]]:
        layout = LayoutControl(known_latent=1.0, known_latent_end=0.9)
        images = bench.generate(scenes, layout=layout, controlnet_conditioning_scale=0.0)[0]
        return [bench.row("known latent, without the FIM", images, scenes)]

    def injected() -> list[dict[str, Any]]:
        raw, blended = bench.generate(scenes)
        return [
            bench.row("FIM, before blending", raw, scenes),
            bench.row("FIM, after blending", blended, scenes),
        ]

    return {
        "real": lambda: [bench.row("real scenes", scenes.scene, scenes)],
        "first stage": reconstructed,
        "pasted": pasted,
        "known latent": known_latent,
        "injected": injected,
    }


def _control_makers(
    bench: Bench, scenes: Scenes, tint: float, exposure_stops: float
) -> dict[str, Maker]:
    """What must follow when the prompt, the hint or the FIM is changed. All before blending."""
    counter = torch.tensor(scenes.seeds)
    uniforms = uniform(1, counter, Stream.jitter, (3,))
    shown = jitter_foreground(scenes.scene, scenes.alpha, uniforms, exposure_stops, tint)
    scenes = replace(scenes, foreground=shown)

    def simple(name: str, changed: Scenes, **options: Any) -> Maker:
        return lambda: [bench.row(name, bench.generate(changed, **options)[0], changed)]

    mirrored = replace(
        scenes,
        prompts=[_swap(prompt, SIDES) for prompt in scenes.prompts],
        truths=[None if truth is None else swapped_truth(truth) for truth in scenes.truths],
    )
    shuffled = replace(
        scenes, foreground=scenes.foreground.roll(1, 0), alpha=scenes.alpha.roll(1, 0)
    )

    def with_shuffled_hints() -> list[dict[str, Any]]:
        images = bench.generate(shuffled)[0]
        return [bench.row("hints of other scenes, judged by their own", images, scenes)]

    unlit = replace(scenes, prompts=[LIGHT_WORDS.sub("", prompt) for prompt in scenes.prompts])
    return {
        "control jitter": simple("jittered hints", scenes),
        "control sides": simple("left and right swapped in the prompt", mirrored),
        "control tones": lambda: [_tone_row(bench, scenes)],
        "control unlit": simple("no light in the prompt", unlit),
        "control off": simple("FIM off", scenes, controlnet_conditioning_scale=0.0),
        "control shuffled": with_shuffled_hints,
        "control hint": lambda: [_hint_row(scenes)],
    }


def _swap(prompt: str, pairs: dict[str, str]) -> str:
    return re.sub(rf"\b({'|'.join(pairs)})\b", lambda match: pairs[match[0]], prompt)


def _tone_row(bench: Bench, scenes: Scenes) -> dict[str, Any]:
    """Warm and cool swapped in the prompt, with the response of the elements' own colour.

    `tint_response`: the change of the elements' mean log2(red / blue) from a cool to a warm
    prompt, as a share of the same change between real warm and cool scenes' gains. 1 is right.
    """
    swapped = replace(
        scenes,
        prompts=[_swap(prompt, TONES) for prompt in scenes.prompts],
        truths=[
            None if truth is None else truth | {"tone": TONES[truth["tone"]]}
            for truth in scenes.truths
        ],
    )
    images = bench.generate(swapped)[0]
    row = bench.row("warm and cool swapped in the prompt", images, swapped)
    change = _red_to_blue(images, scenes.alpha) - _red_to_blue(
        bench.generate(scenes)[0], scenes.alpha
    )
    known = [i for i, truth in enumerate(scenes.truths) if truth is not None]
    tones = [truth["tone"] for truth in swapped.truths if truth is not None]
    signs = torch.tensor([1.0 if tone == "warm" else -1.0 for tone in tones])
    response = change[known] * signs / _expected_tint()
    row["figures"]["tint_response"] = float(response.mean())
    row["intervals"]["tint_response"] = list(bootstrap_interval(response.tolist(), 0, LEVEL))
    return row


def _red_to_blue(images: Tensor, alpha: Tensor) -> Tensor:
    """log2 of mean red over mean blue inside the mask, N."""
    inside = (alpha > 0.95).float()
    means = (images * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)
    return ((means[:, 0] + 1 / 255) / (means[:, 2] + 1 / 255)).log2()


def _expected_tint() -> float:
    """The change of log2(red / blue) that the scene generator's tones make."""
    from data_prep.demo_plan import TONES as GAINS

    warm, cool = GAINS["warm"], GAINS["cool"]
    return float(torch.log2(torch.tensor(warm[0] / warm[2] / (cool[0] / cool[2]))))


def _hint_row(scenes: Scenes) -> dict[str, Any]:
    """What of the light can be read from the jittered hints alone: chance is 1/3 and 1/2.

    Class means of half of the hints, tested on the other half, both ways.
    """
    hints = make_hint(scenes.foreground, scenes.alpha)[:, :3]
    known = [i for i, truth in enumerate(scenes.truths) if truth is not None]
    labels = [labels_of(truth) for truth in scenes.truths if truth is not None]
    hints = hints[known]
    hits: dict[str, list[float]] = {"direction_accuracy": [], "tone_accuracy": []}
    for part in (0, 1):
        fitted = ClassMeans.fit(hints[part::2], labels[part::2])
        seen = fitted(hints[1 - part :: 2])
        for guess, label in zip(seen, labels[1 - part :: 2], strict=True):
            hits["direction_accuracy"].append(float(guess.direction == label.direction))
            hits["tone_accuracy"].append(float(guess.tone == label.tone))
    return {
        "name": "light read from the jittered hint alone (chance 0.33 and 0.50)",
        "figures": {name: sum(values) / len(values) for name, values in hits.items()},
        "intervals": {
            name: list(bootstrap_interval(values, 0, LEVEL)) for name, values in hits.items()
        },
    }
