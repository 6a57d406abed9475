"""Training and sampling on a GPU without values: every tensor is where it must be, in a dtype that
works there, and a training step makes the host wait for nothing. Values are not looked at."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from fake_gpu import GPU, Waits, compiled_guard, fake_gpu, move, on_a_fake_gpu
from families import family_base
from sampling import foregrounds, generators, moved_fim, quiet
from tiny import tiny_config

from anyscene.compositing.blending import blend
from anyscene.config import Blend
from anyscene.data.datamodule import SceneDataModule
from anyscene.layout_settings import LayoutControl
from anyscene.models.base import store_frozen
from anyscene.models.loading import load_base
from anyscene.module import SceneModule
from anyscene.pipeline import AnyScenePipeline
from anyscene.precision import COMPUTED_IN

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
]
EVERYTHING = LayoutControl(
    attention=4, attention_end=1, residual_gate=0.5, known_latent=1, known_latent_end=1
)


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled_guard(tmp_path_factory.mktemp("guard"))


def training_step(config: Any) -> tuple[list[str], str, str, set[torch.dtype]]:
    """Where a step's forward pass waits; device and dtype of its loss, dtypes of the UNet's norms.

    Under autocast a GPU, and not a CPU, makes float32 of norms.
    """
    module = SceneModule(config)
    dtype = COMPUTED_IN[config.train.precision]
    module.base.store_frozen(dtype)
    if module.injection is not None:
        store_frozen(module.injection, dtype)
    norms: set[torch.dtype] = set()
    for part in module.base.unet.modules():
        if isinstance(part, torch.nn.GroupNorm):
            part.register_forward_hook(lambda *call: norms.add(call[2].dtype))
    data = SceneDataModule(config.data, seed=config.train.seed)
    stored = module.on_before_batch_transfer(next(iter(data.train_dataloader())), 0)
    with fake_gpu() as mode:
        move([module], mode)
        module._device = GPU
        batch: Any = {
            name: mode.from_tensor(value) if isinstance(value, torch.Tensor) else value
            for name, value in stored.items()
        }
        batch = module.transfer_batch_to_device(batch, GPU, 0)  # as Lightning does, pinned
        with Waits() as waits, torch.autocast("cuda", dtype, enabled=dtype is not torch.float32):
            shown = module.on_after_batch_transfer(batch, 0)
            loss = module.training_step(shown, 0)
    return waits.places, str(loss.device), str(loss.dtype), norms


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("sd21-v", ("train.precision=fp16", "fim.hint=latent", "train.foreground_dropout=0.1")),
        ("sdxl", ("train.precision=bf16", "loss.offset_noise=0.1")),
    ],
)
def test_a_training_step_on_a_gpu_waits_for_nothing(family, options, guard, demo_shards, tmp_path):
    base = family_base(tmp_path / "base", family)
    always = ("data.flip=0.5", "train.prompt_dropout=0.5", "data.mask_jitter=1.5")
    config = tiny_config(base, demo_shards, tmp_path / "runs", *always, *options)
    waits, *loss, norms = on_a_fake_gpu(guard, training_step, config)
    assert waits == []
    assert loss == ["cuda:0", "torch.float32"]
    assert norms == {COMPUTED_IN[config.train.precision]}  # frozen: not under autocast


class OneStep:
    """A scheduler that reads no values."""

    init_noise_sigma = 1.0
    config = SimpleNamespace()

    def set_timesteps(self, steps: int, device: torch.device) -> None:
        self.timesteps = torch.arange(steps, 0, -1).to(device)

    def scale_model_input(self, latents, _):
        return latents

    def step(self, prediction, _, latents, return_dict):  # noqa: ARG002
        return (latents + prediction,)

    def add_noise(self, latents, noise, _):
        return latents + noise


def sampling(path: Path) -> list[tuple[str, str]]:
    """Device and dtype of latents, and of the images that each mode of blending makes of them."""
    base = load_base(str(path))
    fim = moved_fim(base)
    pipeline = quiet(AnyScenePipeline(**base.components(), controlnet=fim, empty_hint=True))
    networks = [
        part.bfloat16()
        for part in pipeline.components.values()
        if isinstance(part, torch.nn.Module)
    ]
    with fake_gpu() as mode, patch("anyscene.pipeline.check_foreground", lambda *own: own[:2]):
        move(networks, mode)
        pipeline.scheduler = OneStep()
        rgb, mask = (mode.from_tensor(own) for own in foregrounds())
        made: Any = pipeline(
            ["a red mug", ""],
            rgb,
            mask,
            num_inference_steps=2,
            foreground_guidance_scale=1.5,
            guidance_rescale=0.5,
            layout=EVERYTHING,
            generator=generators(),
            output_type="latent",
        )
        found = [made.images]
        rgb, mask = rgb.to(GPU), mask.to(GPU)
        decoded = pipeline.vae.decode(made.images).sample.float()
        smooth = [own for own in Blend if own is not Blend.poisson]  # which stops by its values
        found += [blend(decoded, rgb, mask, own) for own in smooth]
    return [(str(own.device), str(own.dtype)) for own in found]


def test_sampling_on_a_gpu_keeps_everything_there(guard, tmp_path):
    """In half precision, with both guidances, all of layout control, and blending in float32."""
    base = family_base(tmp_path / "base", "sdxl")
    latents, *images = on_a_fake_gpu(guard, sampling, base)
    assert latents == ("cuda:0", "torch.bfloat16")
    assert images == [("cuda:0", "torch.float32")] * (len(Blend) - 1)
