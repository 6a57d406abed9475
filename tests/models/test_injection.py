"""The FIM: changes nothing at first, is all that learns, and fits its base."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from safetensors.torch import load_file, save_file
from tiny import tiny_base

from anyscene.compositing.canny import canny_edges
from anyscene.compositing.hint import HINT_CHANNELS, make_hint
from anyscene.config_method import FimConfig, Hint
from anyscene.errors import ConfigError, InputError
from anyscene.models.base import Base, weights_sha256
from anyscene.models.injection import (
    build_fim,
    control_condition,
    embedder_target,
    fit_embedder,
    hint_kind,
)
from anyscene.models.loading import load_base

CONFIGS = {
    "pixel": FimConfig(embedder_channels=[8, 8, 16]),
    "pixel, default widths": FimConfig(),
    "latent": FimConfig(hint=Hint.latent),
    "canny": FimConfig(hint=Hint.canny),
}


@pytest.fixture(scope="module")
def base(tiny_base_folder: Path) -> Base:
    return load_base(str(tiny_base_folder))


def inputs(base: Base, batch: int = 2):
    """Noisy latents, timesteps, text and a hint."""
    generator = torch.Generator().manual_seed(3)
    noisy = torch.randn(batch, 4, 16, 16, generator=generator)
    rgb = torch.rand(batch, 3, 64, 64, generator=generator)
    alpha = F.interpolate(torch.rand(batch, 1, 4, 4, generator=generator), (64, 64)).round()
    text = base.text(["a red mug on a meadow", "cool light"][:batch]).hidden
    return noisy, torch.tensor([10, 900])[:batch], text, make_hint(rgb, alpha)


def predict(base: Base, fim: ControlNetModel | None, noisy, steps, text, hint):
    residuals = {}
    if fim is not None:
        condition = control_condition(fim, base.vae, hint)
        down, mid = fim(noisy, steps, text, condition, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    return base.unet(noisy, steps, text, **residuals).sample


@pytest.mark.parametrize("name", CONFIGS)
def test_identity_at_initialisation(name, base):
    """Bit for bit the frozen base; and no longer once an output layer has moved."""
    fim = build_fim(CONFIGS[name], base, seed=0)
    with torch.no_grad():
        alone = predict(base, None, *inputs(base))
        assert torch.equal(predict(base, fim, *inputs(base)), alone)
        fim.controlnet_mid_block.weight.add_(0.1)
        assert not torch.allclose(predict(base, fim, *inputs(base)), alone)


@pytest.mark.parametrize("name", CONFIGS)
def test_only_the_fim_learns_and_the_embedder_from_the_second_step(name, base):
    fim = build_fim(CONFIGS[name], base, seed=0)
    assert all(parameter.requires_grad for parameter in fim.parameters())
    optimizer = torch.optim.SGD(fim.parameters(), lr=1.0)
    embedder = fim.controlnet_cond_embedding
    moved = []
    for _ in range(2):
        predict(base, fim, *inputs(base)).square().mean().backward()
        moved.append({n for n, p in embedder.named_parameters() if p.grad.abs().max() > 0})
        optimizer.step()
        optimizer.zero_grad()
    assert moved[0] == set()
    assert moved[1] == {name for name, _ in embedder.named_parameters()}
    assert all(parameter.grad is None for parameter in base.parameters())


def test_frozen_encoder_and_middle_stay_out_of_the_graph(base):
    """A quarter of the memory and time: only the frozen decoder passes gradients back."""
    fim = build_fim(FimConfig(), base, seed=0)
    recorded = {}

    def note(name):
        def hook(_module, _inputs, output):
            outputs = [output[0], *output[1]] if isinstance(output, tuple) else [output]
            recorded[name] = [tensor.requires_grad for tensor in outputs]

        return hook

    unet = base.unet
    blocks = {"mid": unet.mid_block, "conv_in": unet.conv_in, "time": unet.time_embedding}
    blocks |= {f"down {i}": block for i, block in enumerate(unet.down_blocks)}
    blocks |= {f"up {i}": block for i, block in enumerate(unet.up_blocks)}
    handles = [block.register_forward_hook(note(name)) for name, block in blocks.items()]
    try:
        prediction = predict(base, fim, *inputs(base))
    finally:
        for handle in handles:
            handle.remove()
    assert prediction.requires_grad
    for name, flags in recorded.items():
        assert all(flags) if name.startswith("up") else not any(flags), name
    assert recorded.keys() == blocks.keys()


def test_form_of_the_hint(base):
    hint = inputs(base)[3]
    names = ("pixel", "latent", "canny")
    pixel, latent, canny = (build_fim(CONFIGS[name], base, seed=0) for name in names)
    assert [hint_kind(fim).name for fim in (pixel, latent, canny)] == list(names)
    assert torch.equal(control_condition(canny, base.vae, hint), canny_edges(hint[:, :3]))
    assert control_condition(pixel, base.vae, hint) is hint
    condition = control_condition(latent, base.vae, hint)
    assert condition.shape == (2, 5, 16, 16)
    torch.testing.assert_close(condition[:, :4], base.encode(hint[:, :3] * 2 - 1))
    torch.testing.assert_close(condition[:, 4:], F.avg_pool2d(hint[:, 3:4], 4))


def test_the_mask_of_a_latent_hint_is_the_share_that_is_covered(base):
    fim = build_fim(FimConfig(hint=Hint.latent), base, seed=0)
    hint = torch.zeros(1, HINT_CHANNELS, 64, 64)
    hint[:, 3, :, 30:33] = 1  # with cells of 4 pixels: half of one column, a quarter of the next
    mask = control_condition(fim, base.vae, hint)[0, -1]
    expected = torch.zeros(16, 16)
    expected[:, 7], expected[:, 8] = 0.5, 0.25
    torch.testing.assert_close(mask, expected)


def test_a_latent_hint_of_five_channels_is_told_from_a_pixel_one(tmp_path):
    """4 latent channels and the mask are five too, as many as a pixel hint has."""
    base = load_base(str(tiny_base(tmp_path / "b", latent_channels=HINT_CHANNELS - 1)))
    fim = build_fim(FimConfig(hint=Hint.latent), base, seed=0)
    assert fim.config.conditioning_channels == HINT_CHANNELS
    assert hint_kind(fim) is Hint.latent


def test_a_stock_class_with_its_own_stride(base, tmp_path):
    fim = build_fim(CONFIGS["pixel"], base, seed=0)
    fim.save_pretrained(tmp_path / "controlnet")
    again = ControlNetModel.from_pretrained(tmp_path / "controlnet")
    assert weights_sha256(again) == weights_sha256(fim)
    hint = inputs(base)[3]
    assert again.controlnet_cond_embedding(hint).shape[2:] == (16, 16)


def test_initialisation_is_a_function_of_the_seed(base):
    torch.manual_seed(11)
    first = build_fim(FimConfig(), base, seed=5)
    torch.manual_seed(12)
    assert weights_sha256(build_fim(FimConfig(), base, seed=5)) == weights_sha256(first)
    assert weights_sha256(build_fim(FimConfig(), base, seed=6)) != weights_sha256(first)


def test_start_from_a_trained_fim(base, tmp_path):
    trained = build_fim(CONFIGS["pixel"], base, seed=1)
    trained.controlnet_mid_block.weight.data.add_(1)
    trained.save_pretrained(tmp_path / "export" / "controlnet")
    for folder in (tmp_path / "export", tmp_path / "export" / "controlnet"):
        fim = build_fim(FimConfig(init=str(folder)), base, seed=0)
        assert weights_sha256(fim) == weights_sha256(trained)
        assert all(parameter.requires_grad for parameter in fim.parameters())


def test_a_trained_fim_that_is_not_whole_is_refused(base, tmp_path, capfd):
    build_fim(CONFIGS["pixel"], base, seed=1).save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    weights = load_file(file)
    lost = "controlnet_mid_block.weight"
    save_file({k: v for k, v in weights.items() if k != lost}, file, {"format": "pt"})
    with pytest.raises(
        InputError, match=f"^fim.init='.*': its file lacks 1 weights of .*{lost}[^\n]*$"
    ):
        build_fim(FimConfig(init=str(tmp_path)), base, seed=0)
    weights[lost] = torch.zeros(1, 1, 1, 1)
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(
        InputError, match=f"^fim.init='.*' is not a complete [a-z ]*: .*{lost}[^\n]*$"
    ):
        build_fim(FimConfig(init=str(tmp_path)), base, seed=0)
    assert capfd.readouterr().err == ""


def test_what_does_not_fit_is_refused(base, tmp_path):
    with pytest.raises(ConfigError, match=r"\[16, 32\] has 2 entries; .* factor 4 needs .* = 3$"):
        build_fim(FimConfig(embedder_channels=[16, 32]), base, seed=0)
    with pytest.raises(ConfigError, match=r"\[8, 0, 8\] must be positive numbers$"):
        build_fim(FimConfig(embedder_channels=[8, 0, 8]), base, seed=0)
    with pytest.raises(InputError, match=r"^fim.init='.*' is not a complete [a-z ]*: [^\n]*$"):
        build_fim(FimConfig(init=str(tmp_path)), base, seed=0)
    build_fim(FimConfig(hint=Hint.canny), base, seed=0).save_pretrained(tmp_path / "edges")
    with pytest.raises(InputError, match=r"with fim.hint=canny, but fim.hint is pixel; give fim"):
        build_fim(FimConfig(init=str(tmp_path / "edges")), base, seed=0)
    other = load_base(str(tiny_base(tmp_path / "other", latent_channels=3)))
    build_fim(FimConfig(), other, seed=0).save_pretrained(tmp_path / "fim")
    with pytest.raises(InputError, match=r"has in_channels=3, the base has 4: it was trained on"):
        build_fim(FimConfig(init=str(tmp_path / "fim")), base, seed=0)


def test_fitting_the_embedder_explains_the_target_and_keeps_identity(base):
    fim = build_fim(CONFIGS["pixel"], base, seed=0)
    hint = inputs(base)[3]
    target = embedder_target(base, hint)
    assert target.shape == (2, 8, 16, 16)
    latents = base.encode(hint[:, :3] * 2 - 1)
    without_bias = base.unet.conv_in(latents) - base.unet.conv_in.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(target, without_bias)
    untouched = weights_sha256(fim.mid_block, fim.down_blocks, fim.conv_in)
    start = fit_embedder(fim, base, iter([hint]), 1, rate=0.0)
    with torch.no_grad():
        target = embedder_target(base, hint)
        error = F.mse_loss(fim.controlnet_cond_embedding(hint), target)
        assert start == pytest.approx(float(error / target.var()))  # 1 is nothing learnt
    end = fit_embedder(fim, base, iter([hint] * 60), 60, rate=3e-3)
    assert end < 0.6 * start
    assert weights_sha256(fim.mid_block, fim.down_blocks, fim.conv_in) == untouched
    assert all(parameter.grad is None for parameter in fim.parameters())
    with torch.no_grad():
        alone = predict(base, None, *inputs(base))
        assert torch.equal(predict(base, fim, *inputs(base)), alone)


def test_the_embedder_fits_micro_batches_as_it_fits_their_whole(base):
    hint = inputs(base)[3]
    fims = [build_fim(CONFIGS["pixel"], base, seed=0) for _ in range(2)]
    whole = fit_embedder(fims[0], base, iter([hint] * 3), 3, rate=3e-3)
    parts = iter([*hint.split(1)] * 3)
    assert fit_embedder(fims[1], base, parts, 3, rate=3e-3, accumulate=2) == pytest.approx(whole)
    assert next(parts, None) is None
    one, other = (fim.controlnet_cond_embedding.state_dict() for fim in fims)
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-5)
