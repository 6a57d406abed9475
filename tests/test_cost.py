"""The cost of a step, counted for published configurations and against a real step."""

from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from published import published_base
from tiny import tiny_config
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from anyscene import config_checks, cost
from anyscene.cli import main
from anyscene.config import Config, Optimizer, TrainConfig
from anyscene.cost import GIB, StepCost, count_step, images_at_peak
from anyscene.counted_memory import EightBitAdamW, LiveBytes
from anyscene.counted_step import fake_step
from anyscene.errors import ConfigError
from anyscene.models.injection import build_fim
from anyscene.models.loading import fake_base, load_base
from anyscene.models.trained import trained_parameters
from anyscene.module import SceneModule
from anyscene.optimizer import build_optimizer


def config_of(base: Path, shards: Path, *overrides: str) -> Config:
    return tiny_config(base, shards, base.parent / "runs", *overrides)


Costs = dict[str, StepCost]
LEAN = ("train.precision=bf16", "train.gradient_checkpointing=true")


@pytest.fixture(scope="module")
def costs_of_sd15(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Costs:
    base = published_base(tmp_path_factory.mktemp("sd15") / "base", "sd15")
    options = {"lean": LEAN, "plain": LEAN[:1]}
    return {
        name: count_step(config_of(base, demo_shards, "data.batch_size=4", *own))
        for name, own in options.items()
    }


@pytest.fixture(scope="module")
def costs_of_sdxl(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Costs:
    base = published_base(tmp_path_factory.mktemp("sdxl") / "base", "sdxl")
    saving = ("train.optimizer=adamw8bit", "train.ema_on_cpu=true")
    options = {"lean": LEAN, "leaner": (*LEAN, *saving)}
    with pytest.MonkeyPatch.context() as patch:  # bitsandbytes is not needed for counting
        patch.setattr(config_checks, "find_spec", lambda _: True)
        return {
            name: count_step(config_of(base, demo_shards, "data.batch_size=1", *own))
            for name, own in options.items()
        }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "expected", "side"),
    [("sd15", 2.27, 512), ("sdxl", 20.0, 1024)],
)
def test_flops_of_published_bases(
    family: str, expected: float, side: int, request: pytest.FixtureRequest
) -> None:
    """The figures that public records of ControlNet-type training give, within 1 %."""
    for step in request.getfixturevalue(f"costs_of_{family}").values():
        assert step.size == (side, side)
        assert step.flop_per_image / 1e12 == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_flops_and_memory_of_sd15(costs_of_sd15: Costs) -> None:
    """Batch 4 in bf16 with checkpointing; without it the activations take more."""
    lean, plain = costs_of_sd15["lean"], costs_of_sd15["plain"]
    assert lean.peak < 12 * GIB
    assert lean.peak < 0.9 * plain.peak
    assert lean.trained == pytest.approx(361e6 * 4, rel=0.01)
    assert (lean.gradients, lean.average) == (lean.trained, lean.trained)
    assert lean.optimizer == pytest.approx(2 * lean.trained, rel=0.01)
    assert lean.flop_per_image == plain.flop_per_image
    assert f"peak {lean.peak / GIB:.1f}" in lean.lines()[-1]


@pytest.mark.slow
def test_memory_of_sdxl(costs_of_sdxl: Costs) -> None:
    assert costs_of_sdxl["lean"].peak < 40 * GIB
    assert costs_of_sdxl["leaner"].peak < 24 * GIB


def test_memory_of_adamw_in_8_bits_is_that_of_bitsandbytes() -> None:
    """But for the two maps of 256 values from 8 bits, which all tensors share."""
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes, of the extra cuda")
    sizes = ((64, 64, 3, 3), (4095,), (4096,), (70, 70))
    parameters = [nn.Parameter(torch.randn(size)) for size in sizes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    counted = EightBitAdamW(parameters)
    counted.step()
    real = build_optimizer(TrainConfig(optimizer=Optimizer.adamw8bit), parameters)
    real.step()
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for state in real.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    }
    maps = 2 * 256 * 4
    assert sum(storages.values()) - maps == sum(value.nbytes for value in counted.state)


@pytest.fixture(scope="module")
def cost_of_fim(tiny_base_folder: Path, demo_shards: Path) -> StepCost:
    """Of the tiny configuration as it is: a FIM, two samples, one process."""
    return count_step(config_of(tiny_base_folder, demo_shards))


def test_flops_of_training_the_unet(
    cost_of_fim: StepCost, tiny_base_folder: Path, demo_shards: Path
) -> None:
    of = ("train.ema_decay=0", "train.trainable=unet", "train.injection=none")
    unet = count_step(config_of(tiny_base_folder, demo_shards, *of))
    assert unet.flop_per_image < cost_of_fim.flop_per_image
    assert unet.frozen < cost_of_fim.frozen
    assert (unet.average, cost_of_fim.average) == (0, cost_of_fim.trained)
    for cost_of in (unet, cost_of_fim):  # two moments, and a step's number a tensor
        assert cost_of.optimizer == pytest.approx(2 * cost_of.trained, rel=0.01)


def test_memory_of_the_average_is_the_device_s_but_on_the_cpu(
    cost_of_fim: StepCost, tiny_base_folder: Path, demo_shards: Path
) -> None:
    elsewhere = count_step(config_of(tiny_base_folder, demo_shards, "train.ema_on_cpu=true"))
    assert (elsewhere.average, cost_of_fim.average) == (0, cost_of_fim.trained)
    assert cost_of_fim.peak - elsewhere.peak == cost_of_fim.average


@pytest.mark.parametrize("of", [(), ("train.trainable=unet", "train.injection=none")])
def test_counted_adapters_are_those_of_a_run(
    of: tuple[str, ...], tiny_base_folder: Path, demo_shards: Path
) -> None:
    pytest.importorskip("peft")
    config = config_of(tiny_base_folder, demo_shards, "train.lora_rank=2", *of)
    with FakeTensorMode(allow_non_fake_inputs=True):
        base = fake_base(config.base.path)
        fim = None if of else build_fim(config.fim, base, 0, False)
        step = cost.Step(base, fim, config, (64, 64), 1)
    run = trained_parameters(SceneModule(config).trained)
    assert [(v.shape, v.dtype) for v in step.trained] == [(v.shape, v.dtype) for v in run]


def test_flops_of_attention_are_those_of_its_matrix_products(
    tiny_base_folder: Path, demo_shards: Path
) -> None:
    """As of diffusers' processor that makes them one by one; a fused kernel does them again in the
    backward pass, which is not the method's work."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        step = fake_step(config_of(tiny_base_folder, demo_shards), None, 1)
        counted = step.flop()
        for network in step.networks:
            network.set_attn_processor(AttnProcessor())
        assert step.flop() == counted


def test_memory_of_ranks_that_share_the_weights(
    cost_of_fim: StepCost, tiny_base_folder: Path, demo_shards: Path
) -> None:
    """Four ranks of two samples each against one."""
    whole = cost_of_fim
    of = ("data.batch_size=8", "train.devices=4", "train.strategy=fsdp2")
    shared = count_step(config_of(tiny_base_folder, demo_shards, *of))
    for name in ("trained", "gradients", "optimizer", "average"):
        assert getattr(shared, name) == pytest.approx(getattr(whole, name) / 4, abs=4)
    unet = 4 * sum(p.numel() for p in load_base(str(tiny_base_folder)).unet.parameters())
    assert shared.frozen == whole.frozen - unet * 3 // 4  # first stage and text encoder are whole
    less = 3 * (4 * whole.trained + whole.trained) // 4  # average as large as the weights
    assert whole.peak - shared.peak < less + unet * 3 // 4
    assert shared.flop_per_image == whole.flop_per_image


def test_mfu_is_counted_operations_over_the_data_sheet(
    cost_of_fim: StepCost,
    tiny_base_folder: Path,
    demo_shards: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two devices of 1 TFLOP/s; half of the images have twice the area of the commonest ones."""
    config = config_of(tiny_base_folder, demo_shards, "train.devices=2")
    assert images_at_peak(config) is None or torch.cuda.is_available()
    monkeypatch.setattr(cost.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cost, "get_available_flops", lambda *_: 1e12)
    one = cost_of_fim.flop_per_image
    assert images_at_peak(config) == pytest.approx(2e12 / one)
    mixed = cost.mean_flop(config, {"64x64": 3, "64x128": 2, "128x64": 1})
    assert mixed == pytest.approx(1.5 * one)


def test_flops_of_going_on_with_a_fim(
    cost_of_fim: StepCost, tiny_base_folder: Path, tiny_export: Path, demo_shards: Path
) -> None:
    begun = count_step(config_of(tiny_base_folder, demo_shards, f"fim.init={tiny_export}"))
    assert begun == cost_of_fim


def test_flops_mode_counts_live_bytes() -> None:
    memory = LiveBytes()
    with memory:
        first = torch.zeros(1000)
        view = first[:10]
        second = first + 1
        assert memory.now == 8000
        del first
        assert memory.now == 8000  # the view holds it
        del view
        assert memory.now == 4000
        del second
    assert (memory.now, memory.peak) == (0, 8000)


def test_flops_are_printed_by_a_dry_run(
    tiny_base_folder: Path,
    demo_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the packages of the optimizer and the tracker, which only a run needs."""
    monkeypatch.setattr(config_checks, "find_spec", lambda _: None)
    config = tmp_path / "runs/tiny.yaml"
    with pytest.raises(ConfigError, match="needs the package wandb"):
        tiny_config(tiny_base_folder, demo_shards, tmp_path / "runs", "log.logger=wandb")
    only_a_run = ["train.optimizer=adamw8bit", "log.logger=wandb"]
    assert main(["train", str(config), *only_a_run, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "TFLOP an image of 64x64" in printed
    assert "3 steps of 2 images" in printed
    assert "30 % of an H100" in printed or "30 % of this device" in printed
    assert not (tmp_path / "runs/tiny").exists()
