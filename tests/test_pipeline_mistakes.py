"""What does not fit is refused in one line, before the model fails deep inside."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from sampling import PROMPTS, foregrounds, generators, moved_fim, quiet

from anyscene.errors import InputError
from anyscene.layout_settings import LayoutControl
from anyscene.models.loading import load_base
from anyscene.pipeline import AnyScenePipeline


@pytest.fixture(scope="module")
def pipeline(tiny_base_folder: Path) -> AnyScenePipeline:
    base = load_base(str(tiny_base_folder))
    return quiet(AnyScenePipeline(**base.components(), controlnet=moved_fim(base)))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"mask": None}, "foreground and mask belong together: give both or neither"),
        ({"foreground": None}, "foreground and mask belong together: give both or neither"),
        ({"foreground": torch.zeros(1, 3, 64, 64)}, "expected (2, 3, H, W), one for each prompt"),
        ({"foreground": torch.zeros(2, 4, 64, 64)}, "has shape (2, 4, 64, 64); expected (2, 3, H"),
        ({"mask": torch.zeros(2, 1, 32, 64)}, "expected (2, 1, 64, 64), as the foreground"),
        ({"height": 32}, "height=32 and width=None differ from the foreground's (64, 64)"),
        (
            {"foreground": None, "mask": None, "height": 60, "width": 30},
            "size 60x30 must be multiples of 8 (VAE factor 4 x UNet factor 2); use 64x32",
        ),
        ({"generator": 7}, "generator=7 must be a torch.Generator, or a list of one an image"),
        ({"generator": generators(3)}, "3 generators for 2 images; give one an image"),
        ({"negative_prompt": ["", "", ""]}, "3 negative prompts for 2 prompts"),
        ({"prompt": None}, "give prompt or prompt_embeds"),
        ({"output_type": "png"}, "output_type='png' must be pil, pt, np, latent"),
        ({"foreground": foregrounds()[0] * 255}, "foreground has values from "),
        ({"mask": foregrounds()[1].mul(255).byte()}, "mask has values from 0 to 255; expected"),
        ({"mask": foregrounds()[1] * float("nan")}, "mask has values from nan"),
        ({"foreground": Image.new("RGB", (64, 64))}, "foreground is of type Image; give a tensor"),
        ({"prompt": []}, "prompt=[] must be a text"),
        ({"prompt": ["a", 3]}, "prompt=['a', 3] must be a text"),
        ({"negative_prompt": 3}, "negative_prompt=3 must be a text"),
        (
            {"prompt": None, "prompt_embeds": torch.zeros(2, 32, 17)},
            "has shape (2, 32, 17); expected (prompts, ",
        ),
        ({"prompt_embeds": torch.zeros(2, 32, 16)}, "give prompt or prompt_embeds, not both"),
        (
            {"negative_prompt": "fog", "negative_prompt_embeds": torch.zeros(2, 32, 16)},
            "give negative_prompt or negative_prompt_embeds, not both",
        ),
        ({"negative_prompt_embeds": torch.zeros(2, 7, 16)}, "have 7 tokens, the prompts 32"),
        ({"pooled_prompt_embeds": torch.zeros(2, 8)}, "pooled prompt_embeds need prompt_embeds"),
        ({"negative_pooled_prompt_embeds": torch.zeros(2, 8)}, "need negative_prompt_embeds bes"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 must be a whole number greater than 0"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt=0 must be a whole number"),
        ({"height": -64}, "height=-64 must be a whole number greater than 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan must be a number"),
        ({"guidance_rescale": 1.5}, "guidance_rescale=1.5 must be between 0 and 1"),
        ({"controlnet_conditioning_scale": [1.0]}, "controlnet_conditioning_scale=[1.0] must be a"),
        ({"control_guidance_start": 0.5, "control_guidance_end": 0.2}, "the start below the end"),
        ({"blend": "mix"}, "blend='mix' must be none, alpha, detail, laplacian, poisson"),
        ({"blend_k": 1.5}, "blend_k=1.5 must be between 0"),
        ({"layout": {"attention": 4}}, "layout={'attention': 4} must be a LayoutControl"),
        (
            {"foreground": None, "mask": None, "layout": LayoutControl(attention=1)},
            "layout acts by a foreground: give foreground and mask, or leave layout out",
        ),
        (
            {"foreground": None, "mask": None, "blend": "alpha"},
            "blend acts by a foreground: give foreground and mask, or leave blend out",
        ),
        ({"latents": torch.zeros(2, 4, 8, 9)}, "latents has shape (2, 4, 8, 9); expected (2, 4, "),
        (
            {
                "prompt": None,
                "prompt_embeds": torch.zeros(2, 32, 16),
                "pooled_prompt_embeds": torch.zeros(2, 8),
            },
            "prompt_embeds of this base has no use for pooled embeddings beside it",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, line, pipeline):
    rgb, mask = foregrounds()
    own = {"prompt": PROMPTS, "foreground": rgb, "mask": mask, "generator": generators()}
    arguments = own | {"num_inference_steps": 1} | change
    with pytest.raises(InputError) as caught:
        pipeline(**arguments)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
