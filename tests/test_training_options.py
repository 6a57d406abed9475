"""Options of training on tiny bases: precision, LoRA, smaller FIMs, the average on the CPU."""

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from exporting import files
from families import family_base
from safetensors.torch import load_file, save_file
from sampling import PROMPTS, foregrounds, generators, quiet
from tiny import tiny_config
from training import Run, assert_same_training_state, killed_copy, tensors

from anyscene.config_method import FimConfig
from anyscene.cost import count_step
from anyscene.errors import ConfigError, InputError
from anyscene.export import export
from anyscene.models.base import weights_sha256
from anyscene.models.injection import build_fim
from anyscene.models.loading import load_base
from anyscene.module import SceneModule
from anyscene.pipeline import AnyScenePipeline
from anyscene.train import train

LORA = ("train.lora_rank=2",)
UNET = ("train.trainable=unet", "train.injection=none")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_base(tmp_path_factory.mktemp("families") / "sdxl", "sdxl")


def images(folder: Path) -> torch.Tensor:
    pipeline = quiet(AnyScenePipeline.from_pretrained(folder))
    rgb, mask = foregrounds()
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt"}
    return pipeline(PROMPTS, rgb, mask, generator=generators(), **options).images


def test_precision_bf16_stores_what_is_frozen_in_half(sdxl, demo_shards, tmp_path, monkeypatch):
    """The first stage says that it overflows, and stays; an export has the base's own weights."""
    seen = {}
    training_step = SceneModule.training_step

    def note(self: SceneModule, batch: Any, batch_idx: int) -> torch.Tensor:
        parts = {**dict(self.base.named_children()), "fim": self.injection}
        seen.update({name: {p.dtype for p in part.parameters()} for name, part in parts.items()})
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(SceneModule, "training_step", note)
    run = train(tiny_config(sdxl, demo_shards, tmp_path, "train.precision=bf16"))
    half, single = {torch.bfloat16}, {torch.float32}
    assert seen == {
        "unet": half,
        "text_encoder": half,
        "text_encoder_2": half,
        "vae": single,
        "fim": single,
    }
    exported = export(run, tmp_path / "export")
    assert load_base(str(exported)).sha256() == load_base(str(sdxl)).sha256()
    losses = Run(run).figures("val/loss")
    plain = Run(train(tiny_config(sdxl, demo_shards, tmp_path, "name=plain")))
    assert losses[3] == pytest.approx(plain.figures("val/loss")[3], rel=0.05)


def test_precision_fp16_trains_and_resumes(tiny_run, tiny_base_folder, demo_shards, tmp_path):
    """With the loss scaled, on a CPU too, as the float32 run does but for rounding."""
    precise = ("train.precision=fp16", "train.checkpoint_every=2")
    whole = Run(train(tiny_config(tiny_base_folder, demo_shards, tmp_path, *precise, "name=whole")))
    scaler = whole.state(3)["MixedPrecision"]
    assert (scaler["scale"], scaler["_growth_tracker"]) == (2.0**16, 3)
    assert {value.dtype for value in tensors(whole.state(3)["state_dict"]).values()} == {
        torch.float32
    }
    killed_copy(whole, tmp_path / "resumed", 2)
    options = (*precise, "name=resumed", "data.val=null")
    again = Run(train(tiny_config(tiny_base_folder, demo_shards, tmp_path, *options)))
    assert_same_training_state(again.state(3), whole.state(3))
    assert again.state(3)["MixedPrecision"] == scaler
    single = Run(tiny_run)
    assert whole.figures("val/loss") != single.figures("val/loss")
    assert whole.figures("val/loss") == pytest.approx(single.figures("val/loss"), rel=0.01)


def test_adamw_in_8_bits_trains_and_resumes(tiny_run, tiny_base_folder, demo_shards, tmp_path):
    """Of the larger tensors; it goes on bit for bit, and stays near the run in float32."""
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes, of the extra cuda")
    options = ("train.checkpoint_every=2", "train.optimizer=adamw8bit")
    whole = Run(train(tiny_config(tiny_base_folder, demo_shards, tmp_path, *options, "name=whole")))
    averages = [
        (name.rpartition("/")[2], value)
        for name, value in tensors(whole.state(3)["optimizer_states"]).items()
        if "/state1" in name or "/state2" in name
    ]
    assert {value.dtype for _, value in averages} == {torch.uint8, torch.float32}
    assert all((value.dtype == torch.uint8) == (value.numel() >= 4096) for _, value in averages)
    resumed = tiny_config(tiny_base_folder, demo_shards, tmp_path, *options, "name=resumed")
    train(replace(resumed, train=replace(resumed.train, steps=2)))
    again = Run(train(resumed))
    assert_same_training_state(again.state(3), whole.state(3))
    single = Run(tiny_run)
    assert whole.figures("val/loss") != single.figures("val/loss")
    assert whole.figures("val/loss") == pytest.approx(single.figures("val/loss"), rel=0.01)


@pytest.mark.parametrize("target", ["fim", "unet"])
def test_lora_trains_resumes_and_exports(target, tiny_base_folder, demo_shards, tmp_path):
    overrides = (*LORA, *(UNET if target == "unet" else ()), "train.checkpoint_every=2")
    whole = Run(train(tiny_config(tiny_base_folder, demo_shards, tmp_path, *overrides)))
    names = whole.state(3)["state_dict"].keys()
    assert any(".lora_A." in name for name in names)
    assert all(".lora_" in name for name in names) == (target == "unet")
    again = tmp_path / "again"
    killed_copy(whole, again / "tiny", 2)
    options = (*overrides, "data.val=null")
    resumed = Run(train(tiny_config(tiny_base_folder, demo_shards, again, *options)))
    assert_same_training_state(resumed.state(3), whole.state(3))
    folder = export(whole.folder, tmp_path / "export")
    merged = load_file(folder / ("unet" if target == "unet" else "controlnet") / WEIGHTS)
    assert not any("lora" in name for name in merged)
    if target == "unet":
        assert_adapters_give_the_merged_image(tiny_base_folder, folder)
    else:
        base = load_base(str(tiny_base_folder))
        start = build_fim(FimConfig(), base, seed=0).state_dict()
        moved = {name for name, value in merged.items() if not torch.equal(value, start[name])}
        assert any("to_q" in name for name in moved)
        assert not any("resnets" in name for name in moved)


WEIGHTS = "diffusion_pytorch_model.safetensors"


def assert_adapters_give_the_merged_image(base: Path, exported: Path) -> None:
    """The adapters alone, on the original base, through diffusers' own loading."""
    options: dict[str, Any] = {"num_inference_steps": 2, "height": 64, "width": 64}
    options |= {"output_type": "pt", "guidance_scale": 1.0}
    drawn = []
    for folder, adapters in ((exported, None), (base, exported / "lora"), (base, None)):
        pipeline = quiet(StableDiffusionPipeline.from_pretrained(folder))
        if adapters is not None:
            pipeline.load_lora_weights(adapters)
        drawn.append(pipeline(PROMPTS, generator=generators(), **options).images)
    torch.testing.assert_close(drawn[0], drawn[1], atol=1e-4, rtol=0)
    assert (drawn[0] - drawn[2]).abs().max() > 1e-3


def test_lora_changes_nothing_at_first(tiny_base_folder, demo_shards, tmp_path):
    config = tiny_config(tiny_base_folder, demo_shards, tmp_path, *LORA)
    module = SceneModule(config)
    again = SceneModule(config)
    plain = SceneModule(tiny_config(tiny_base_folder, demo_shards, tmp_path))
    noisy, steps = torch.randn(1, 4, 16, 16), torch.tensor([10])
    text, hint = module.base.text(["x"]).network_arguments(None), torch.rand(1, 5, 64, 64)
    with torch.no_grad():
        ours = module.injection(noisy, steps, controlnet_cond=hint, **text)
        theirs = plain.injection(noisy, steps, controlnet_cond=hint, **text)
    assert torch.equal(ours.mid_block_res_sample, theirs.mid_block_res_sample)
    assert weights_sha256(module.injection) == weights_sha256(again.injection)


@pytest.mark.slow
def test_smaller_fims_stay_stock_and_keep_identity(sdxl, demo_shards, tmp_path):
    overrides = ("fim.transformer_layers=[0,1]",)
    run = train(tiny_config(sdxl, demo_shards, tmp_path, *overrides))
    folder = export(run, tmp_path / "export")
    fim = ControlNetModel.from_pretrained(folder / "controlnet")
    base = load_base(str(sdxl))
    whole = build_fim(FimConfig(), base, seed=0)
    assert sum(p.numel() for p in fim.parameters()) < sum(p.numel() for p in whole.parameters())
    assert images(folder).shape == (2, 3, 64, 64)
    small = count_step(tiny_config(sdxl, demo_shards, tmp_path, *overrides))
    assert (
        small.flop_per_image < count_step(tiny_config(sdxl, demo_shards, tmp_path)).flop_per_image
    )
    for layers in ([1, 2], [0, 1], [0, 0]):
        fim = build_fim(FimConfig(transformer_layers=layers), base, seed=0)
        kept = whole.state_dict()
        for name, value in fim.state_dict().items():
            if not name.startswith("controlnet_cond"):
                assert torch.equal(value, kept[name]), name
    with pytest.raises(ConfigError, match=r"\[3, 1\] does not fit the base's UNet, which has \[1"):
        build_fim(FimConfig(transformer_layers=[3, 1]), base, seed=0)


def test_smaller_fims_of_uneven_levels(tmp_path):
    """SD1.5's last level has no attention, but its middle block has."""
    base = load_base(str(family_base(tmp_path / "sd15", "sd15")))
    fim = build_fim(FimConfig(transformer_layers=[1, 0]), base, seed=0)
    assert list(fim.config["down_block_types"]) == ["CrossAttnDownBlock2D", "DownBlock2D"]


def test_the_average_on_the_cpu_is_the_same(tiny_base_folder, demo_shards, tmp_path):
    runs = [
        Run(train(tiny_config(tiny_base_folder, demo_shards, tmp_path / str(flag), *options)))
        for flag in ("true", "false")
        for options in [(f"train.ema_on_cpu={flag}", "data.val=null")]
    ]
    assert_same_training_state(runs[0].state(3), runs[1].state(3))


def test_a_frozen_fim_beside_the_unet(tiny_base_folder, tiny_export, demo_shards, tmp_path):
    start = f"fim.init={tiny_export}"
    config = tiny_config(
        tiny_base_folder, demo_shards, tmp_path, "train.trainable=unet", start, "data.val=null"
    )
    folder = export(train(config), tmp_path / "export")
    for part, same in (("controlnet", True), ("unet", False)):
        before, after = (load_file(f / part / WEIGHTS) for f in (tiny_export, folder))
        assert all(torch.equal(before[name], after[name]) for name in before) == same
    with pytest.raises(ConfigError, match=r"needs a trained FIM, fim\.init"):
        tiny_config(tiny_base_folder, demo_shards, tmp_path, "train.trainable=unet")


@pytest.mark.parametrize("kind", [LORA, ("train.trainable=unet",)], ids=["lora", "unet"])
def test_a_fim_to_begin_with_must_stay_what_it_was(
    kind, tiny_base_folder, tiny_export, demo_shards, tmp_path
):
    """Where weights of it stay frozen: a checkpoint does not hold them."""
    fim = shutil.copytree(tiny_export / "controlnet", tmp_path / "fim")
    options = (*kind, f"fim.init={fim}", "data.val=null")
    config = tiny_config(tiny_base_folder, demo_shards, tmp_path, *options)
    run = train(replace(config, train=replace(config.train, steps=1)))
    before = files(run)
    moved = {name: value + 0.1 for name, value in load_file(fim / WEIGHTS).items()}
    save_file(moved, fim / WEIGHTS)
    with pytest.raises(ConfigError, match=r"sha256 of fim\.init is "):
        train(config)
    assert files(run) == before
    with pytest.raises(InputError, match=r"from a FIM with other weights than fim\.init="):
        export(run, tmp_path / "export")


def test_a_frozen_fim_beside_the_unet_is_sampled_with(
    tiny_base_folder, tiny_export, demo_shards, tmp_path
):
    """Validation draws with the FIM in its place, and with the UNet's average in the UNet's."""
    options = ("train.trainable=unet", f"fim.init={tiny_export}")
    module = SceneModule(tiny_config(tiny_base_folder, demo_shards, tmp_path, *options))
    pipeline = module.pipeline()
    assert (pipeline.controlnet, pipeline.unet) == (module.injection, module.base.unet)
    module.averaged = deepcopy(module.base.unet)
    pipeline = module.pipeline()
    assert (pipeline.controlnet, pipeline.unet) == (module.injection, module.averaged)
    assert module.pipeline(averaged=False).unet is module.base.unet


def test_zero_terminal_snr_reaches_the_export(tiny_base_folder, demo_shards, tmp_path):
    base = family_base(tmp_path / "sd21", "sd21-v")
    config = tiny_config(base, demo_shards, tmp_path, *UNET)
    assert float(SceneModule(config).alphas_cumprod[-1]) > 0
    config = tiny_config(base, demo_shards, tmp_path, *UNET, "train.zero_terminal_snr=true")
    module = SceneModule(config)
    assert float(module.alphas_cumprod[-1]) == 0
    sampler = module.pipeline().scheduler
    sampler.set_timesteps(4)
    assert int(sampler.timesteps[0]) == 999  # sampling begins where training ended
    folder = export(train(config), tmp_path / "export")
    saved = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    assert (saved["rescale_betas_zero_snr"], saved["timestep_spacing"]) == (True, "trailing")
    with pytest.raises(ConfigError, match=r"has never seen pure noise; use train\.trainable=unet"):
        tiny_config(tiny_base_folder, demo_shards, tmp_path, "train.zero_terminal_snr=true")


@pytest.mark.parametrize("family", ["sd21", "sd15"])
def test_zero_terminal_snr_is_refused_for_epsilon(family, demo_shards, tmp_path):
    """Whatever its scheduler's class: another one would not help."""
    base = family_base(tmp_path / family, family)
    config = tiny_config(base, demo_shards, tmp_path, *UNET, "train.zero_terminal_snr=true")
    for use in (SceneModule, count_step):
        with pytest.raises(ConfigError, match="noise cannot be predicted from pure noise"):
            use(config)


@pytest.mark.gpu  # on a CPU with a C++ compiler it passes too, in minutes
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # inductor
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo looks
def test_compiled_blocks_give_the_same_step_and_names(tiny_base_folder, demo_shards, tmp_path):
    """Also in bf16 with checkpointing."""
    options = ("data.val=null", "train.precision=bf16", "train.gradient_checkpointing=true")
    runs = [
        Run(train(tiny_config(tiny_base_folder, demo_shards, tmp_path / flag, *options, flag)))
        for flag in ("train.compile=true", "train.compile=false")
    ]
    compiled, plain = (run.state(3)["state_dict"] for run in runs)
    assert compiled.keys() == plain.keys()
    for name, value in compiled.items():
        torch.testing.assert_close(value, plain[name], atol=0.1, rtol=0)
