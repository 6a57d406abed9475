"""AnyScenePipeline: prompts and a composited foreground in, scenes out. The only sampling path."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, DiffusionPipeline, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.utils import BaseOutput
from PIL.Image import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from anyscene.compositing.blending import blend as blend_pixels
from anyscene.config import Blend
from anyscene.export_record import MODEL_INDEX, read_export_record
from anyscene.fim_folder import check_hint_version, load_fim_folder
from anyscene.layout_settings import LayoutControl
from anyscene.models.base import Vae, decode_latents, vae_factor
from anyscene.models.denoiser import Conditions
from anyscene.models.text import TextEncoders
from anyscene.pipeline_checks import check_choices, check_numbers
from anyscene.pipeline_inputs import (
    Foreground,
    TextInput,
    check_foreground,
    controls,
    image_size,
    initial_latents,
    layout_plan,
    sampling_place,
    step_options,
    text_conditions,
    uncropped,
)
from anyscene.pipeline_loop import LATENTS, sample_latents, step_callback


@dataclass
class AnySceneOutput(BaseOutput):
    """`images` after blending and `raw_images` before it, as `output_type` says."""

    images: list[Image] | Tensor | np.ndarray
    raw_images: list[Image] | Tensor | np.ndarray


class AnyScenePipeline(DiffusionPipeline, StableDiffusionMixin, StableDiffusionXLLoraLoaderMixin):
    """Guided sampling of a frozen base with a Foreground Injection Module (`controlnet`).

    Without a foreground, or without a `controlnet`, it is text-to-image with the base.
    LoRA of the base, of one text encoder or two, is loaded as in diffusers (`load_lora_weights`).
    `text_encoder_2`, `tokenizer_2` and `force_zeros_for_empty_prompt` are SDXL's. `empty_hint` says
    that the FIM was trained on it too (`train.foreground_dropout`): foreground guidance then moves
    away from the FIM on the empty hint, and not from the base alone. An export says which.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->unet->vae"
    _optional_components = [  # noqa: RUF012 - the name and form are diffusers'
        "controlnet",
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
    ]

    def __init__(
        self,
        vae: Vae,
        text_encoder: CLIPTextModel | None,
        tokenizer: CLIPTokenizer | None,
        unet: UNet2DConditionModel,
        scheduler: Any,
        controlnet: ControlNetModel | None = None,
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: CLIPTokenizer | None = None,
        force_zeros_for_empty_prompt: bool = True,
        empty_hint: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            controlnet=controlnet,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
        )
        self.register_to_config(
            force_zeros_for_empty_prompt=force_zeros_for_empty_prompt, empty_hint=empty_hint
        )
        self.vae_scale_factor = vae_factor(vae)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> Any:
        """As diffusers', and also for exports that hold the FIM only (`export --no-base`).

        Raises:
            InputError: the base that such an export names is missing or has other weights, or the
                FIM was trained on another version of the hint.
        """
        model, folder = pretrained_model_name_or_path, Path(pretrained_model_name_or_path)
        record = read_export_record(model, **options)
        if record is None:
            return super().from_pretrained(model, **options)
        check_hint_version(model, record)
        known = {"empty_hint": record["config"]["train"].get("foreground_dropout", 0) > 0}
        known["empty_hint"] = options.pop("empty_hint", known["empty_hint"])
        if not folder.is_dir() or (folder / MODEL_INDEX).is_file():
            return super().from_pretrained(model, **{**known, **options})
        pipeline = cls(**load_fim_folder(folder, record, options), **known)
        dtype = options.get("dtype", options.get("torch_dtype"))
        return pipeline if dtype in (None, torch.float32) else pipeline.to(dtype)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        foreground: Tensor | None = None,
        mask: Tensor | None = None,
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        foreground_guidance_scale: float = 1.0,
        guidance_rescale: float = 0.0,
        controlnet_conditioning_scale: float = 1.0,
        control_guidance_start: float = 0.0,
        control_guidance_end: float = 1.0,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        layout: LayoutControl | None = None,
        blend: Blend | str = Blend.none,
        blend_k: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = (LATENTS,),
    ) -> AnySceneOutput:
        """Generate scenes.

        Args:
            prompt: one a scene.
            foreground: B 3 H W in [0, 1], the elements on a canvas; what is outside `mask` is
                not looked at. None: text only.
            mask: B 1 H W in [0, 1], soft alpha, 1 is foreground.
            negative_prompt: what the text guidance moves away from; None is the base's own empty
                prompt, zeros for most SDXL bases, where "" is encoded as any other text.
            height, width: pixels; taken from `foreground` where there is one.
            num_inference_steps: of the base's scheduler.
            guidance_scale: s_text of `diffusion.guidance.combine`; 1 or less: off.
            foreground_guidance_scale: s_fg; other than 1 costs a third pass a step.
            guidance_rescale: share, in [0, 1], by which the guided prediction gets the spread of
                the unguided one (Lin et al. 2024, section 3.4).
            controlnet_conditioning_scale: factor of the FIM's residuals.
            control_guidance_start, control_guidance_end: shares of the steps between which the FIM
                acts.
            num_images_per_prompt: images for each prompt.
            eta: of the schedulers that take one, such as DDIM and TCD.
            prompt_embeds: B n d, in place of `prompt`; `pooled_prompt_embeds`, B p, too for SDXL.
                With both kinds given the pipeline may be loaded with `text_encoder=None`.
            negative_prompt_embeds: the same in place of `negative_prompt`.
            layout: layout control, see `layout_settings`; None: off.
            blend, blend_k: see `compositing.blending.blend`; as `layout`, with a foreground alone.
            generator: one, or one an image; an image depends on its own alone.
            latents: initial noise B c h w, in place of `generator`.
            output_type: `pil`; in [0, 1] `pt`, B 3 H W, or `np`, B H W 3; or `latent`, scaled
                latents, unblended.
            return_dict: False: a tuple, `(images, raw_images)`.
            callback_on_step_end: a function or one of diffusers' `PipelineCallback`s; may return
                other tensors, set `pipeline._guidance_scale` and end sampling by
                `pipeline._interrupt = True`.
            callback_on_step_end_tensor_inputs: what such a function is given: `latents`,
                `prompt_embeds`, `image` (the FIM's), and `add_text_embeds`, `add_time_ids` of SDXL.

        Raises:
            InputError: sizes, counts, values or prompts that do not fit, and unknown choices.
        """
        check_choices(output_type, blend, blend_k, layout, guided=foreground is not None)
        counts = {"num_inference_steps": num_inference_steps, "height": height, "width": width}
        counts["num_images_per_prompt"] = num_images_per_prompt
        scales = {"guidance_scale": guidance_scale, "guidance_rescale": guidance_rescale}
        scales["foreground_guidance_scale"] = foreground_guidance_scale
        scales |= {"controlnet_conditioning_scale": controlnet_conditioning_scale, "eta": eta}
        span = (control_guidance_start, control_guidance_end)
        check_numbers(counts, scales, span)
        negative = (negative_prompt, negative_prompt_embeds, negative_pooled_prompt_embeds)
        full, empty = text_conditions(
            self._encoders(),
            self.unet,
            TextInput("prompt", prompt, prompt_embeds, pooled_prompt_embeds),
            TextInput("negative_prompt", *negative),
            self.config["force_zeros_for_empty_prompt"],
        )
        count = len(full.hidden)
        own = self._foreground(foreground, mask, count, num_images_per_prompt)
        size = image_size(own, height, width, self.unet, self.vae_scale_factor)
        latent_size = (size[0] // self.vae_scale_factor, size[1] // self.vae_scale_factor)
        images = count * num_images_per_prompt
        control, empty_control = controls(self.controlnet, self.vae, own, self.config["empty_hint"])
        place = sampling_place(self.unet, self._execution_device)
        conditions = Conditions(
            full=full.repeated(num_images_per_prompt).to(**place),
            empty=empty.repeated(num_images_per_prompt).to(**place),
            sizes=None if full.pooled is None else uncropped(images, size, place),
            control=control,
            empty_control=empty_control,
            s_text=guidance_scale,
            s_foreground=1.0 if control is None else foreground_guidance_scale,
            rescale=guidance_rescale,
            fim_scale=controlnet_conditioning_scale,
            fim_span=span,
            layout=layout_plan(layout, own, self.unet, self.vae, place, latent_size),
        )
        shape = (images, self.unet.config.in_channels, *latent_size)
        noise = initial_latents(shape, generator, latents, place)
        options = step_options(self.scheduler, generator, eta)
        callback = step_callback(
            callback_on_step_end, callback_on_step_end_tensor_inputs, conditions
        )
        final = sample_latents(self, conditions, noise, num_inference_steps, options, callback)
        output = self._finished(final, own, output_type, blend, blend_k)
        return output if return_dict else output.to_tuple()  # pyright: ignore - the default's type

    @property
    def guidance_scale(self) -> float:
        """Text guidance of the running call; a callback may set `_guidance_scale`."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Steps of the running call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the running call ends before its next step; a callback may set `_interrupt`."""
        return self._interrupt

    def begin_steps(self, steps: int, guidance_scale: float) -> None:
        """Set what callbacks look at, and change, while a call runs."""
        self._num_timesteps, self._guidance_scale = steps, guidance_scale
        self._interrupt = False

    def _encoders(self) -> TextEncoders | None:
        """What encodes prompts; None where the pipeline has no text encoder."""
        if self.text_encoder is None or self.tokenizer is None:
            return None
        first, second = (
            (self.tokenizer, self.text_encoder),
            (self.tokenizer_2, self.text_encoder_2),
        )
        return TextEncoders(self._execution_device, *first, *second)

    def _foreground(
        self, rgb: Tensor | None, alpha: Tensor | None, count: int, repeat: int
    ) -> Foreground | None:
        checked = check_foreground(rgb, alpha, count)
        if checked is None:
            return None
        device = self._execution_device
        return Foreground(*(value.to(device).repeat_interleave(repeat, 0) for value in checked))

    def _finished(
        self,
        latents: Tensor,
        own: Foreground | None,
        output_type: str,
        blend: Blend | str,
        k: float,
    ) -> AnySceneOutput:
        """The scenes decoded and blended, as `output_type` says."""
        if output_type == "latent":
            self.maybe_free_model_hooks()
            return AnySceneOutput(images=latents, raw_images=latents)
        raw = (decode_latents(self.vae, latents).float() / 2 + 0.5).clamp(0, 1)
        self.maybe_free_model_hooks()
        blended = raw
        if own is not None:
            blended = blend_pixels(raw, own.rgb, own.alpha, Blend(blend), k=k)
        return AnySceneOutput(self._shown(blended, output_type), self._shown(raw, output_type))

    def _shown(self, images: Tensor, output_type: str) -> Any:
        """Images B 3 H W in [0, 1] as `output_type` says."""
        flags = [False] * len(images)
        return self.image_processor.postprocess(images, output_type, do_denormalize=flags)
