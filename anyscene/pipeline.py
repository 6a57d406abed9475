"""AnyScenePipeline: prompts and a composited foreground in, scenes out. The only sampling path."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, DiffusionPipeline, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL.Image import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from anyscene.compositing.blending import blend as blend_pixels
from anyscene.compositing.hint import HINT_VERSION, make_hint
from anyscene.config import Blend
from anyscene.diffusion.guidance import combine
from anyscene.errors import InputError
from anyscene.export_record import MODEL_INDEX, read_export_record
from anyscene.models.base import (
    Vae,
    decode_latents,
    encode_images,
    encode_prompts,
    load_base,
    unet_factor,
    vae_factor,
)
from anyscene.models.injection import control_condition
from anyscene.models.layout_control import LayoutControl, keep_known_latents, keep_mask


@dataclass
class AnySceneOutput(BaseOutput):
    """`images` after blending and `raw_images` before it; PIL images, or B 3 H W in [0, 1]."""

    images: list[Image] | Tensor
    raw_images: list[Image] | Tensor


class AnyScenePipeline(DiffusionPipeline):
    """Guided sampling of a frozen base with a Foreground Injection Module (`controlnet`).

    Without a foreground, or without a `controlnet`, it is text-to-image with the base.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _optional_components = ["controlnet"]  # noqa: RUF012 - the name and form are diffusers'

    def __init__(
        self,
        vae: Vae,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: Any,
        controlnet: ControlNetModel | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            controlnet=controlnet,
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
        folder = Path(pretrained_model_name_or_path)
        record = read_export_record(folder)
        if record is not None and record["hint"] and record["hint_version"] != HINT_VERSION:
            raise InputError(
                f"{folder} was trained on hints of version {record['hint_version']}, this software "
                f"makes version {HINT_VERSION}: use the version that exported it, or train again"
            )
        if record is not None and not (folder / MODEL_INDEX).is_file():
            return cls._from_fim_only(folder, record, **options)
        return super().from_pretrained(pretrained_model_name_or_path, **options)

    @classmethod
    def _from_fim_only(cls, folder: Path, record: dict[str, Any], **options: Any) -> Any:
        stated = record["base"]
        path, first_stage = (
            str((folder / name).resolve()) if name and (folder / name).is_dir() else name
            for name in (stated["path"], stated["first_stage"])
        )
        base = load_base(path, stated["revision"], first_stage)
        if base.sha256() != stated["sha256"]:
            raise InputError(
                f"{folder} was trained on a base with sha256 {stated['sha256'][:16]}..., "
                f"but {path} has {base.sha256()[:16]}...: give the base it names"
            )
        fim = ControlNetModel.from_pretrained(folder / "controlnet", dtype=torch.float32)
        pipeline = cls(**base.components(), controlnet=fim)
        dtype = options.get("dtype", options.get("torch_dtype"))
        return pipeline if dtype in (None, torch.float32) else pipeline.to(dtype)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        foreground: Tensor | None = None,
        mask: Tensor | None = None,
        negative_prompt: str | list[str] = "",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        foreground_guidance_scale: float = 1.0,
        controlnet_conditioning_scale: float = 1.0,
        num_images_per_prompt: int = 1,
        layout: LayoutControl | None = None,
        blend: Blend | str = Blend.none,
        blend_k: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[..., dict] | None = None,
    ) -> AnySceneOutput:
        """Generate scenes.

        Args:
            prompt: one a scene.
            foreground: B 3 H W in [0, 1], the elements on a canvas; what is outside `mask` is
                not looked at. None: text only.
            mask: B 1 H W in [0, 1], soft alpha, 1 is foreground.
            negative_prompt: what the text guidance moves away from.
            height, width: pixels; taken from `foreground` where there is one.
            num_inference_steps: of the base's scheduler.
            guidance_scale: s_text of `diffusion.guidance.combine`; 1 or less: off.
            foreground_guidance_scale: s_fg; other than 1 costs a third pass a step.
            controlnet_conditioning_scale: factor of the FIM's residuals.
            num_images_per_prompt: images for each prompt.
            layout: layout control; None: off.
            blend, blend_k: see `compositing.blending.blend`.
            generator: one, or one an image; an image depends on its own alone.
            latents: initial noise B c h w, in place of `generator`.
            output_type: `pil` or `pt` (tensors in [0, 1]).
            callback_on_step_end: diffusers' callback with `latents`; may return other ones.

        Raises:
            InputError: sizes or counts that do not fit.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negatives = self._negatives(negative_prompt, len(prompts))
        foreground, mask = self._check_foreground(foreground, mask, len(prompts))
        size = self._size(foreground, height, width)
        repeat = num_images_per_prompt
        prompts = [p for p in prompts for _ in range(repeat)]
        negatives = [n for n in negatives for _ in range(repeat)]
        if foreground is not None and mask is not None:
            foreground = foreground.repeat_interleave(repeat, 0)
            mask = mask.repeat_interleave(repeat, 0)

        condition = self._condition(foreground, mask)
        conditions = _Conditions(
            full=encode_prompts(self.tokenizer, self.text_encoder, prompts),
            empty=encode_prompts(self.tokenizer, self.text_encoder, negatives),
            control=condition,
            s_text=guidance_scale,
            s_foreground=foreground_guidance_scale if condition is not None else 1.0,
            fim_scale=controlnet_conditioning_scale,
        )
        final = self._sample(
            conditions,
            self._initial_latents(len(prompts), size, generator, latents),
            num_inference_steps,
            generator,
            self._known(foreground, mask, layout),
            callback_on_step_end,
        )
        raw = (decode_latents(self.vae, final).float() / 2 + 0.5).clamp(0, 1)
        blended = raw
        if foreground is not None and mask is not None:
            blended = blend_pixels(raw, foreground, mask, Blend(blend), k=blend_k)
        self.maybe_free_model_hooks()
        if output_type == "pt":
            return AnySceneOutput(images=blended, raw_images=raw)
        return AnySceneOutput(images=self._pil(blended), raw_images=self._pil(raw))

    def _sample(
        self,
        conditions: "_Conditions",
        latents: Tensor,
        steps: int,
        generator: Any,
        known: "_Known | None",
        callback: Callable[..., dict] | None,
    ) -> Tensor:
        """Scaled latents B c h w of the finished scenes."""
        self.scheduler.set_timesteps(steps, device=self._execution_device)
        noise, latents = latents, latents * self.scheduler.init_noise_sigma
        accepted = inspect.signature(self.scheduler.step).parameters
        options = {"generator": generator} if "generator" in accepted else {}
        progress_bar: Any = self.progress_bar  # its type says that it is a decorator
        with progress_bar(total=steps) as bar:
            for index, timestep in enumerate(self.scheduler.timesteps):
                if known is not None and index < known.steps_share * steps:
                    latents = self._keep_known(latents, known, noise, timestep)
                model_input = self.scheduler.scale_model_input(latents, timestep)
                prediction = self._guided_prediction(model_input, timestep, conditions)
                latents = self.scheduler.step(
                    prediction, timestep, latents, **options, return_dict=False
                )[0]
                if callback is not None:
                    changed = callback(self, index, timestep, {"latents": latents})
                    latents = changed.get("latents", latents)
                bar.update()
        return latents

    def _guided_prediction(self, latents: Tensor, timestep: Tensor, c: "_Conditions") -> Tensor:
        """The UNet's prediction under both guidances, B c h w. Unneeded passes are left out."""
        if c.s_text <= 1 and c.s_foreground == 1:
            return self._predict(latents, timestep, [c.full], c.control, c.fim_scale)[0]
        texts = [c.empty, c.full]
        foreground, full = self._predict(latents, timestep, texts, c.control, c.fim_scale)
        base = None
        if c.s_foreground != 1:
            base = self._predict(latents, timestep, [c.empty], None, 0.0)[0]
        return combine(base, foreground, full, c.s_foreground, max(c.s_text, 1.0))

    def _predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        texts: list[Tensor],
        control: Tensor | None,
        scale: float,
    ) -> tuple[Tensor, ...]:
        """One prediction B c h w for each text B n d, in one batch."""
        n = len(texts)
        model_input, text = torch.cat([latents] * n), torch.cat(texts)
        residuals: dict[str, Any] = {}
        if control is not None:
            down, mid = self.controlnet(
                model_input,
                timestep,
                encoder_hidden_states=text,
                controlnet_cond=torch.cat([control] * n),
                conditioning_scale=scale,
                return_dict=False,
            )
            residuals = {
                "down_block_additional_residuals": down,
                "mid_block_additional_residual": mid,
            }
        output = self.unet(
            model_input, timestep, encoder_hidden_states=text, return_dict=False, **residuals
        )
        return output[0].chunk(n)

    def _keep_known(
        self, latents: Tensor, known: "_Known", noise: Tensor, timestep: Tensor
    ) -> Tensor:
        noised = self.scheduler.add_noise(known.latents, noise, timestep.reshape(1))
        return keep_known_latents(latents, noised, known.keep)

    def _known(
        self, foreground: Tensor | None, mask: Tensor | None, layout: LayoutControl | None
    ) -> "_Known | None":
        if layout is None or layout.known_latent == 0 or foreground is None or mask is None:
            return None
        pasted = foreground * mask + 0.5 * (1 - mask)
        latents = encode_images(self.vae, pasted * 2 - 1)
        keep = keep_mask(mask, (latents.shape[2], latents.shape[3]))
        return _Known(latents, keep, layout.known_latent)

    def _condition(self, foreground: Tensor | None, mask: Tensor | None) -> Tensor | None:
        if self.controlnet is None or foreground is None or mask is None:
            return None
        hint = make_hint(foreground, mask).to(self.controlnet.dtype)
        return control_condition(self.controlnet, self.vae, hint)

    def _check_foreground(
        self, foreground: Tensor | None, mask: Tensor | None, count: int
    ) -> tuple[Tensor | None, Tensor | None]:
        if (foreground is None) != (mask is None):
            raise InputError("foreground and mask belong together: give both or neither")
        if foreground is None or mask is None:
            return None, None
        if foreground.ndim != 4 or foreground.shape[1] != 3 or len(foreground) != count:
            raise InputError(
                f"foreground has shape {tuple(foreground.shape)}; expected ({count}, 3, H, W), "
                "one for each prompt, in [0, 1]"
            )
        if mask.shape != (count, 1, *foreground.shape[2:]):
            raise InputError(
                f"mask has shape {tuple(mask.shape)}; "
                f"expected {(count, 1, *foreground.shape[2:])}, as the foreground"
            )
        device = self._execution_device  # and float32: blending gives these very pixels back
        return foreground.to(device, torch.float32), mask.to(device, torch.float32)

    def _size(
        self, foreground: Tensor | None, height: int | None, width: int | None
    ) -> tuple[int, int]:
        if foreground is not None:
            own = (foreground.shape[2], foreground.shape[3])
            if (height or own[0], width or own[1]) != own:
                raise InputError(
                    f"height={height} and width={width} differ from the foreground's {own}; "
                    "leave them out or resize the foreground"
                )
            height, width = own
        default = self.unet.config.sample_size * self.vae_scale_factor
        size = (height or default, width or default)
        multiple = self.vae_scale_factor * unet_factor(self.unet)
        if size[0] % multiple or size[1] % multiple:
            fit = [max(multiple, round(side / multiple) * multiple) for side in size]
            raise InputError(
                f"size {size[0]}x{size[1]} must be multiples of {multiple} "
                f"(VAE factor {self.vae_scale_factor} x UNet factor {unet_factor(self.unet)}); "
                f"use {fit[0]}x{fit[1]}"
            )
        return size

    def _initial_latents(
        self, count: int, size: tuple[int, int], generator: Any, latents: Tensor | None
    ) -> Tensor:
        if latents is not None:
            return latents.to(self._execution_device, self.unet.dtype)
        if isinstance(generator, list) and len(generator) != count:
            raise InputError(f"{len(generator)} generators for {count} images; give one an image")
        shape = (
            count,
            self.unet.config.in_channels,
            size[0] // self.vae_scale_factor,
            size[1] // self.vae_scale_factor,
        )
        device = self._execution_device
        return randn_tensor(shape, generator=generator, device=device, dtype=self.unet.dtype)

    def _negatives(self, negative: str | list[str], count: int) -> list[str]:
        negatives = [negative] * count if isinstance(negative, str) else list(negative)
        if len(negatives) != count:
            raise InputError(f"{len(negatives)} negative prompts for {count} prompts")
        return negatives

    def _pil(self, images: Tensor) -> list[Image]:
        flags = [False] * len(images)
        pictures: Any = self.image_processor.postprocess(images, "pil", do_denormalize=flags)
        return pictures


@dataclass(frozen=True)
class _Conditions:
    """What guides the sampling: texts B n d, the FIM's input, and the scales."""

    full: Tensor
    empty: Tensor
    control: Tensor | None
    s_text: float
    s_foreground: float
    fim_scale: float


@dataclass(frozen=True)
class _Known:
    """The foreground's latents B c h w, where to keep them B 1 h w, and for how long."""

    latents: Tensor
    keep: Tensor
    steps_share: float
