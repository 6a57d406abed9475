"""The README.md of an export: what it is, how to load it, what was measured, what to beware of."""

from typing import Any

import yaml

STOCK_FIM = """\
import torch
from anyscene.compositing.compose import read_canvas
from anyscene.compositing.hint import make_hint
{load}
rgb, alpha = read_canvas("canvas.png", ({size}, {size}))  # RGBA, alpha 255 on the foreground
scene = pipeline(
    "a red mug on a meadow", image=make_hint(rgb, alpha), height={size}, width={size},
    num_inference_steps={steps}, guidance_scale={guidance},
    generator=torch.Generator().manual_seed(0),
).images[0]
scene.save("scene.png")
"""

LOAD_WHOLE = """\
from diffusers import {stock}

pipeline = {stock}.from_pretrained("FOLDER")"""

LOAD_FIM = """\
from diffusers import ControlNetModel, {stock}

fim = ControlNetModel.from_pretrained("FOLDER/controlnet")
pipeline = {stock}.from_pretrained("{base}", controlnet=fim)"""

OWN_FIM = """\
import torch
from anyscene.compositing.compose import read_canvas
from anyscene.pipeline import AnyScenePipeline

pipeline = AnyScenePipeline.from_pretrained("FOLDER")
rgb, alpha = read_canvas("canvas.png", ({size}, {size}))
scene = pipeline(
    "a red mug on a meadow", rgb, alpha, num_inference_steps={steps}, guidance_scale={guidance},
    blend="{blend}", blend_k={blend_k}, generator=torch.Generator().manual_seed(0),
).images[0]
scene.save("scene.png")
"""

STOCK_UNET = """\
import torch
from diffusers import {stock}

pipeline = {stock}.from_pretrained("FOLDER")
scene = pipeline(
    "a red mug on a meadow", num_inference_steps={steps}, guidance_scale={guidance},
    generator=torch.Generator().manual_seed(0),
).images[0]
scene.save("scene.png")
"""

HINT_NOTES = """\
The hint has five channels: RGB on grey, alpha, edge band. Make it with `make_hint` (version
{hint_version}) at the size of the image:
- A PIL image as `image=` fails: it has three channels.
- A hint tensor of another size than `height` and `width` is **silently accepted** and resized by
  nearest neighbour; nothing warns you that the scene is wrong.
- Beside another ControlNet give `controlnet=MultiControlNetModel([module, other])` of diffusers, a
  hint and an image as `image=[hint, picture]`; diffusers refuses a plain list for this folder.
- The stock pipeline has no blending, no layout control and no foreground guidance. With these off,
  `AnyScenePipeline` gives the same image for the same seed and hint.
"""

LIMITS = """\
- Trained for {step} steps on the data named above, and measured on held-out samples of the same
  source alone. How it does on other images, elements or prompts is not known.
- Before blending, the elements come back as well as the first stage and the module allow, not pixel
  by pixel. Small print, faces and fine texture suffer first.
- The design follows the idea of AnyScene (CVPR 2024), whose formulas are not public here: module,
  layout control and blending are our own. No figure here is one of the paper's.
- `anyscene generate --matting` cuts photos out with models of rembg, which have licences of their
  own: isnet-general-use and u2net Apache-2.0, birefnet-general MIT, bria-rmbg CC BY-NC 4.0.
- There is no safety checker. What the base can draw, this can draw.
"""


def model_card(record: dict[str, Any], *, with_base: bool, half: bool) -> str:
    """The card of an export. `record` is its `anyscene.json`."""
    parts = [
        _header(record),
        _summary(record, with_base, half),
        _usage(record, with_base),
        _training(record),
        _figures(record),
        "## Limits\n" + LIMITS.format(step=record["step"]),
        _licence(record, with_base),
        f"## Configuration\n```yaml\n{yaml.safe_dump(record['config'], sort_keys=False)}```\n",
    ]
    return "\n".join(parts)


def _header(record: dict[str, Any]) -> str:
    guided = record["hint"] is not None
    header = {
        "library_name": "diffusers",
        "license": record["base"]["licence"] or "other",
        "pipeline_tag": "image-to-image" if guided else "text-to-image",
        "tags": ["anyscene", "controlnet", "scene-customization"] if guided else ["anyscene"],
    }
    return f"---\n{yaml.safe_dump(header)}---\n# {record['config']['name']}\n"


def _summary(record: dict[str, Any], with_base: bool, half: bool) -> str:
    base = record["base"]
    if record["hint"] is None:
        text = f"A Stable-Diffusion-type model whose UNet was trained from `{base['path']}`."
    else:
        text = (
            "A Foreground Injection Module: given cut-out elements on a canvas and a prompt, it "
            f"guides the frozen base `{base['path']}` to a scene around them."
        )
    if not with_base:
        text += " This folder holds the module only; the base is loaded from where it is named."
    if half:
        text += " Weights are stored as float16, but for the text encoder, and load as float32."
    return text + "\n"


def _usage(record: dict[str, Any], with_base: bool) -> str:
    sample = record["config"]["sample"]
    values = {
        "size": record["image_size"],
        "steps": sample["steps"],
        "guidance": sample["guidance_scale"],
        "blend": sample["blend"],
        "blend_k": sample["blend_k"],
    }
    if record["hint"] is None:
        stock = STOCK_UNET.format(**values, stock=stock_class(record))
        return f"## Use\n```python\n{stock}```\n{_adapters(record)}"
    own = f"With blending, from this software:\n```python\n{OWN_FIM.format(**values)}```\n"
    if record["hint"] == "latent":
        note = "Its hint is the foreground's latent: stock pipelines cannot make it.\n"
        return f"## Use\n{note}{own}"
    if record["hint"] == "canny":
        note = (
            "Its hint is the Canny edges (thresholds 100 and 200) of the foreground on grey, three "
            "channels: an edge image for stock pipelines, as for any ControlNet of edges.\n"
        )
        return f"## Use\n{note}{own}"
    base = record["base"]["path"]
    beside = f"FOLDER/{base}" if base.startswith(".") else base  # a local folder, or a hub id
    load = (LOAD_WHOLE if with_base else LOAD_FIM).format(base=beside, stock=stock_class(record))
    stock = STOCK_FIM.format(load=load, **values)
    notes = HINT_NOTES.format(hint_version=record["hint_version"])
    return f"## Use\nWith the stock pipeline:\n```python\n{stock}```\n{own}\n{notes}"


def stock_class(record: dict[str, Any]) -> str:
    """The name of diffusers' pipeline class that loads an export."""
    family = "StableDiffusionXL" if record["is_xl"] else "StableDiffusion"
    return f"{family}{'' if record['hint'] is None else 'ControlNet'}Pipeline"


def _adapters(record: dict[str, Any]) -> str:
    if not record["lora_rank"]:
        return ""
    return (
        f"The UNet holds low-rank adapters (LoRA) of rank {record['lora_rank']}, merged. "
        f'`load_lora_weights("FOLDER/lora")` of a pipeline of the base as it was (`'
        f"{record['base']['path']}`) gives the same.\n"
    )


def _training(record: dict[str, Any]) -> str:
    base, config = record["base"], record["config"]
    rows = {
        "steps": record["step"],
        "images a step": config["data"]["batch_size"],
        "data manifest, sha256": record["data_manifest_sha256"] or "not recorded",
        "base": f"`{base['path']}`, revision {base['revision'] or 'not given'}",
        "base's weights, sha256": base["sha256"],
        "prediction type": record["prediction_type"],
        "first stage": f"factor {record['vae_factor']}, {base['first_stage'] or 'of the base'}",
        "hint": record["hint"] or "none",
    }
    return "## Training\n" + _table(("", ""), rows)


def _figures(record: dict[str, Any]) -> str:
    if not record["figures"]:
        return "## Figures\nNone were measured in the run.\n"
    rows = {name: f"{value:.4g}" for name, value in sorted(record["figures"].items())}
    text = (
        f"## Figures\nOf the run's validation scenes at step {record['figures_step']}, by its own "
        "judge; before blending unless the name says `blended`.\n\n"
    )
    return text + _table(("figure", "value"), rows)


def _table(head: tuple[str, str], rows: dict[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(lines) + "\n"


def _licence(record: dict[str, Any], with_base: bool) -> str:
    licence = record["base"]["licence"]
    named = f"`{licence}`" if licence else "not stated in its model card; look it up before use"
    reason = "contains the base's weights" if with_base else "is grown from the base's weights"
    return f"## Licence\nThe base's licence is {named}. It holds here too: this {reason}.\n"
