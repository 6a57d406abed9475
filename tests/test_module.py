"""The training step: what it draws, drops and returns, whatever the batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_config

from anyscene.compositing.hint import make_hint
from anyscene.data.datamodule import SceneDataModule
from anyscene.diffusion.random import Stream, normal, uniform
from anyscene.models.attention import COMPILED_BLOCKS, compile_blocks
from anyscene.module import SceneModule


@pytest.fixture(scope="module")
def build(tiny_base_folder: Path, demo_shards: Path, tmp_path_factory: pytest.TempPathFactory):
    """Makes a module of some overrides."""

    def make(*overrides: str) -> SceneModule:
        runs = tmp_path_factory.mktemp("runs")
        return SceneModule(tiny_config(tiny_base_folder, demo_shards, runs, *overrides))

    return make


@pytest.fixture(scope="module")
def module(build) -> SceneModule:
    return build("loss.inside=3", "loss.boundary=2")


@pytest.fixture(scope="module")
def host_batch(module: SceneModule) -> dict[str, Any]:
    """Six samples as a loader gives them."""
    data = module.config.data
    module.config.data.batch_size = 6
    batch = next(iter(SceneDataModule(data, seed=0).train_dataloader()))
    module.config.data.batch_size = 2
    return batch


def part(batch: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """Some samples of a batch."""
    return {
        name: value
        if isinstance(value, int)
        else value[rows]
        if isinstance(value, torch.Tensor)
        else [value[row] for row in rows if row < len(value)]
        for name, value in batch.items()
    }


def losses(module: SceneModule, host: dict[str, Any], seed: int = 0) -> torch.Tensor:
    device = module.on_after_batch_transfer(module.on_before_batch_transfer(host, 0), 0)
    with torch.no_grad():
        return module.sample_losses(device, seed)


def test_the_loss_of_a_sample_depends_on_its_slot_alone(module, host_batch):
    """So neither ranks, accumulation nor workers change what is learnt."""
    together = losses(module, host_batch)
    assert together.shape == (6,)
    for rows in ([4], [5, 0, 2], [1, 3]):
        torch.testing.assert_close(losses(module, part(host_batch, rows)), together[rows])
    assert not torch.allclose(losses(module, host_batch, seed=1), together)


def test_prior_preservation_weighs_the_means_of_two_data_sets(build, demo_shards):
    mixed = f"data.mix={{{demo_shards / 'val'}: 1.0}}"
    module = build(mixed, "loss.prior_weight=0.25", "data.batch_size=4")
    batch = next(iter(SceneDataModule(module.config.data, seed=0).train_dataloader()))
    assert sorted(batch["data_set"].tolist()) == [0, 0, 1, 1]
    device = module.on_after_batch_transfer(module.on_before_batch_transfer(batch, 0), 0)
    with torch.no_grad():
        each = module.sample_losses(device, module.config.train.seed)
        total = module.training_step(device, 0)
    prior = batch["data_set"] == 1
    torch.testing.assert_close(total, each[~prior].mean() + 0.25 * each[prior].mean())


def test_another_slot_has_other_noise(module, host_batch):
    moved = {**host_batch, "counter": host_batch["counter"] + 1000}
    assert not torch.isclose(losses(module, moved), losses(module, host_batch)).any()


def test_latents_are_drawn_from_the_posterior_by_slot(module, host_batch):
    device = module.on_after_batch_transfer(host_batch, 0)
    with torch.no_grad():
        posterior = module.base.vae.encode(device["scene"]).latent_dist
    latents = module.scene_latents(device, seed=3) / module.base.vae.config.scaling_factor
    draw = normal(3, host_batch["counter"], Stream.first_stage, (4, 16, 16))
    torch.testing.assert_close(latents, posterior.mean + posterior.std * draw)
    assert posterior.std.min() > 0.01


def test_training_loss_is_the_mean_over_samples(module, host_batch):
    device = module.on_after_batch_transfer(module.on_before_batch_transfer(host_batch, 0), 0)
    loss = module.training_step(device, 0)
    assert loss.requires_grad
    torch.testing.assert_close(loss.detach(), losses(module, host_batch).mean())


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_prompts_are_dropped_by_slot(share, build):
    module = build(f"train.prompt_dropout={share}")
    prompts = [f"prompt {number}" for number in range(4000)]
    host = {"counter": torch.arange(4000), "prompt": prompts}
    first = module.on_before_batch_transfer(host, 0)["prompt"]
    dropped = [prompt == "" for prompt in first]
    assert sum(dropped) / 4000 == pytest.approx(share, abs=0.03)
    assert all(drop or new == old for drop, new, old in zip(dropped, first, prompts, strict=True))
    second_half = {"counter": torch.arange(2000, 4000), "prompt": prompts[2000:]}
    assert module.on_before_batch_transfer(second_half, 0)["prompt"] == first[2000:]
    assert module.eval().on_before_batch_transfer(host, 0)["prompt"] == prompts


def test_the_hint_is_jittered_in_training_alone(module, host_batch):
    training = module.on_after_batch_transfer(host_batch, 0)
    module.eval()
    validation = module.on_after_batch_transfer(host_batch, 0)
    module.train()
    assert torch.equal(training["scene"], validation["scene"])
    assert not torch.allclose(training["hint"][:, :3], validation["hint"][:, :3], atol=0.01)
    assert torch.equal(training["hint"][:, 3:], validation["hint"][:, 3:])


def test_learning_rate(build):
    factors = [
        build(
            "train.steps=100", "train.warmup_steps=4", f"train.final_learning_rate_share={share}"
        ).learning_rate_factor
        for share in (0.1, 1.0)
    ]
    assert [factors[1](step) for step in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1, 1, 1]
    assert factors[0](50) == pytest.approx(0.55)
    assert factors[0](100) == pytest.approx(0.1)


def test_the_schedule_follows_the_module_to_its_device(build):
    assert build().to("meta").schedule.alphas_cumprod.device.type == "meta"


def test_only_what_is_trained_is_saved_and_optimised(build):
    for overrides, trained in (
        ((), "injection"),
        (("train.trainable=unet", "train.injection=none"), "base.unet"),
    ):
        module = build(*overrides)
        expected = dict(module.get_submodule(trained).named_parameters())
        assert module.state_dict().keys() == {f"trained.{name}" for name in expected}
        (optimizer,), _ = module.configure_optimizers()
        optimised = {id(value) for group in optimizer.param_groups for value in group["params"]}
        assert optimised == {id(value) for value in expected.values()}
        learning = {id(value) for value in module.parameters() if value.requires_grad}
        assert learning == optimised


def test_weights_are_loaded_strictly(build):
    module = build()
    weights = module.state_dict()
    weights.popitem()
    with pytest.raises(RuntimeError, match="Missing keys: 1, unknown keys: 0"):
        module.load_state_dict(weights)


def test_gradient_checkpointing_changes_no_gradient(build, host_batch):
    gradients = []
    for overrides in ((), ("train.gradient_checkpointing=true",)):
        module = build(*overrides)
        device = module.on_after_batch_transfer(part(host_batch, [0, 1]), 0)
        module.training_step(device, 0).backward()
        gradients.append([value.grad for value in module.trained.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)
    assert max(float(gradient.abs().max()) for gradient in gradients[0]) > 0


def test_channels_last_changes_the_layout_and_not_the_loss(build, host_batch):
    module = build("train.channels_last=true")
    for network in (module.base.unet, module.base.vae.encoder, module.injection):
        assert network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(losses(module, host_batch), losses(build(), host_batch))


def test_compilation_is_in_place_and_of_repeated_blocks_alone(build, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block: compiled.append(block))
    module = build("train.compile=true")
    before = module.state_dict().keys()
    assert compile_blocks(module.networks) == len(compiled)
    assert {type(block).__name__ for block in compiled} == set(COMPILED_BLOCKS)
    parts = {id(part) for network in module.networks for part in network.modules()}
    assert {id(block) for block in compiled} <= parts
    assert module.state_dict().keys() == before


def test_hints_are_swapped_with_the_sample_before(build):
    module = build()
    hints = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 5, 8, 8)
    assert torch.equal(module.hint_before(hints[:2]), hints[1:2])  # in a circle
    assert torch.equal(module.hint_before(hints[2:3]), hints[1:2])
    assert module.hint_before(torch.zeros(1, 5, 8, 16)) is None  # another size
    assert torch.equal(module.hint_before(torch.ones(1, 5, 8, 16)), torch.zeros(1, 5, 8, 16))


def test_validation_shows_each_sample_the_hint_of_the_one_before(build, host_batch, monkeypatch):
    """Over the batches: no sample is shown its own again, which would hide that hints are used."""
    module = build().eval()
    device = module.on_after_batch_transfer(host_batch, 0)
    shown: list[torch.Tensor] = []

    def note(batch: dict[str, Any], _seed: int) -> torch.Tensor:
        shown.append(batch["hint"])
        return torch.ones(len(batch["hint"]))

    monkeypatch.setattr(module, "sample_losses", note)
    for rows in ([0, 1, 2], [3, 4, 5]):
        module.validation_step(part(device, rows), 0)
    own, swapped, later, later_swapped = shown
    hints = device["hint"]
    assert torch.equal(torch.cat([own, later]), hints)
    assert torch.equal(swapped, hints[[2, 0, 1]])  # the first batch in a circle
    assert torch.equal(later_swapped, hints[[2, 3, 4]])


def test_offset_noise_is_one_draw_a_channel(build, host_batch):
    plain, offset = build(), build("loss.offset_noise=0.25")
    slots = host_batch["counter"]
    latents = torch.zeros(6, 4, 16, 16)
    added = offset.draw_noise(latents, slots, 3) - plain.draw_noise(latents, slots, 3)
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added))
    draws = normal(3, slots, Stream.offset, (4,))
    torch.testing.assert_close(added[:, :, 0, 0], 0.25 * draws)


def test_foregrounds_are_dropped_by_slot_in_training_alone(build, host_batch):
    module = build("train.foreground_dropout=0.5")
    assert module.pipeline().config["empty_hint"]
    assert not build().pipeline().config["empty_hint"]
    shown = module.on_after_batch_transfer(host_batch, 0)["hint"]
    kept = build().on_after_batch_transfer(host_batch, 0)["hint"]
    draws = uniform(0, host_batch["counter"], Stream.foreground_dropout)
    assert 0 < int((draws < 0.5).sum()) < 6
    for row, draw in enumerate(draws):
        empty = make_hint(torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64))[0]
        assert torch.equal(shown[row], empty if draw < 0.5 else kept[row])
    module.eval()
    assert torch.equal(
        module.on_after_batch_transfer(host_batch, 0)["hint"],
        build().eval().on_after_batch_transfer(host_batch, 0)["hint"],
    )
