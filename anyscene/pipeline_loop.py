"""The loop of sampling, and the callback at the end of its steps."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from anyscene.errors import InputError
from anyscene.models.denoiser import Conditions, Denoiser

LATENTS = "latents"


@dataclass(frozen=True)
class StepCallback:
    """diffusers' `callback_on_step_end`, and the names of the tensors that it is given."""

    function: Callable[..., dict | None]
    names: tuple[str, ...]

    def __call__(
        self, pipeline: Any, index: int, timestep: Tensor, latents: Tensor, conditions: Conditions
    ) -> tuple[Tensor, Conditions]:
        """Latents and conditions as the callback leaves them."""
        tensors = {LATENTS: latents, **conditions.tensors()}
        given = {name: tensors[name] for name in self.names}
        changed = dict(self.function(pipeline, index, timestep, given) or {})
        latents = changed.pop(LATENTS, latents)
        changes = {name: changed[name] for name in changed if name in tensors}
        if changes or pipeline.guidance_scale != conditions.s_text:
            conditions = conditions.with_changes(changes, pipeline.guidance_scale)
        return latents, conditions


def step_callback(
    function: Callable[..., dict | None] | None, names: Sequence[str], conditions: Conditions
) -> StepCallback | None:
    """The callback of a call; diffusers' own name their tensors themselves. None without one.

    Raises `InputError` for a name that the call has no tensor of.
    """
    if function is None:
        return None
    if isinstance(function, PipelineCallback | MultiPipelineCallbacks):
        names = function.tensor_inputs
    known = [LATENTS, *conditions.tensors()]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            f"callback_on_step_end_tensor_inputs has {', '.join(unknown)}; this call has "
            f"{', '.join(known)}"
        )
    return StepCallback(function, tuple(names))


def sample_latents(
    pipeline: Any,
    conditions: Conditions,
    noise: Tensor,
    steps: int,
    options: dict[str, Any],
    callback: StepCallback | None,
) -> Tensor:
    """Scaled latents B c h w of the finished scenes.

    Args:
        pipeline: whose scheduler, networks and bar are used; its `_interrupt` ends the loop.
        conditions: what guides the sampling.
        noise: B c h w, to start from.
        steps: of the scheduler.
        options: of the scheduler's step.
        callback: called at the end of every step.

    Raises `InputError` where the scheduler cannot make so many steps.
    """
    scheduler, layout = pipeline.scheduler, conditions.layout
    denoiser = Denoiser(pipeline.unet, pipeline.controlnet, conditions)
    try:
        scheduler.set_timesteps(steps, device=noise.device)
    except ValueError as error:  # more steps than the base was trained with
        reason = " ".join(str(error).split())
        raise InputError(f"num_inference_steps={steps} cannot be used: {reason}") from None
    total = len(scheduler.timesteps)
    pipeline.begin_steps(total, conditions.s_text)
    latents = noise * scheduler.init_noise_sigma
    with (
        pipeline.progress_bar(total=total) as bar,
        nullcontext() if layout is None else layout.installed(pipeline.unet),
    ):
        for index, timestep in enumerate(scheduler.timesteps):
            if pipeline.interrupt:
                break
            if layout is not None and layout.acts("known_latent", index, total):
                noised = scheduler.add_noise(layout.known, noise, timestep.reshape(1))
                latents = layout.with_known(latents, noised)
            model_input = scheduler.scale_model_input(latents, timestep)
            prediction = denoiser(model_input, timestep, index, total)
            stepped = scheduler.step(prediction, timestep, latents, **options, return_dict=False)
            latents = stepped[0]
            if callback is not None:
                state = callback(pipeline, index, timestep, latents, denoiser.conditions)
                latents, denoiser.conditions = state
            bar.update()
    return latents
