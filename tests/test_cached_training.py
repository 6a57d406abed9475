"""Training on a cache: the same run as on the scenes, or a refusal before anything is done."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from families import FAMILIES, family_base
from tiny import tiny_base, tiny_config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from training import assert_same_training_state, refused

from anyscene.config import Config
from anyscene.counted_step import fake_step
from anyscene.data.datamodule import SceneDataModule
from anyscene.data.sample import ShardManifest
from anyscene.module import SceneModule
from data_prep.cache import Settings, prepare_cache

if TYPE_CHECKING:
    from training import Run, Workspace

BATCH = 4  # of `training.SHORT_RUN`
JUDGE = Path(__file__).resolve().parents[1] / "anyscene" / "assets" / "demo_judge"


@pytest.fixture(scope="module")
def caches(
    tiny_base_folder: Path, demo_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with the training scenes cached as `fp32` and as `fp16`."""
    folder = tmp_path_factory.mktemp("caches")
    for dtype in ("fp32", "fp16"):
        settings = Settings(str(tiny_base_folder), dtype=dtype, device="cpu", batch_size=BATCH)
        prepare_cache(str(demo_shards / "train"), folder / dtype, settings)
    return folder


def test_a_run_on_a_float32_cache_is_the_run_on_the_scenes(
    whole: "tuple[Run, list[list[str]]]", workspace: "Workspace", caches: Path
) -> None:
    """Bit for bit, as the first stage sees batches of one size in both."""
    run = workspace.train("cached", workspace.judge, f"data.train={caches / 'fp32'}")
    assert_same_training_state(run.state(6), whole[0].state(6))
    for name in ("train/loss", "val/loss", "val/psnr_in_mask"):
        assert run.figures(name) == whole[0].figures(name)


def first_step(config: Config, shards: Path) -> dict[str, Any]:
    """What the first training step on `shards` sees, and its losses."""
    config.data.train = str(shards)
    module = SceneModule(config)
    host = next(iter(SceneDataModule(config.data).train_dataloader()))
    device = module.on_after_batch_transfer(module.on_before_batch_transfer(host, 0), 0)
    with torch.no_grad():
        latents = module.scene_latents(device, 0)
        losses = module.sample_losses(device, 0)
    return {"latents": latents, "losses": losses, **device}


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.mask_jitter=2", "data.canvas_colour=0.3"],
        ["fim.hint=latent"],
        ["train.trainable=unet", "train.injection=none"],
    ],
)
def test_a_step_on_a_cache_is_the_step_on_the_scenes(
    overrides: list[str], caches: Path, tiny_base_folder: Path, demo_shards: Path, tmp_path: Path
) -> None:
    options = [f"data.batch_size={BATCH}", *overrides]
    config = tiny_config(tiny_base_folder, demo_shards, tmp_path, *options)
    online = first_step(config, demo_shards / "train")
    exact = first_step(config, caches / "fp32")
    for name in ("hint", "mask", "latents", "losses"):
        assert torch.equal(exact[name], online[name]), name
    assert (exact["key"], exact["prompt"]) == (online["key"], online["prompt"])
    rounded = first_step(config, caches / "fp16")
    assert torch.equal(rounded["hint"], online["hint"])
    torch.testing.assert_close(rounded["latents"], online["latents"], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(rounded["losses"], online["losses"], atol=0, rtol=1e-3)
    assert not torch.equal(rounded["latents"], online["latents"])


def test_a_cache_that_cannot_be_trained_on_is_refused_before_anything_is_written(
    workspace: "Workspace", caches: Path, demo_shards: Path, tmp_path: Path, capsys: Any
) -> None:
    cache = caches / "fp32"
    other = tiny_base(tmp_path / "other", seed=1)
    mixed = f"data.mix={{{demo_shards / 'train'}: 0.5}}"
    stated = ShardManifest.read(cache).base["encoder_sha256"][:16]
    for overrides, parts in (
        (
            [f"base.path={other}"],
            [f"sha256 is {stated}...", f"base.path='{other}' has", "cache again"],
        ),
        ([f"data.val={cache}"], [f"data.val='{cache}' is a cache", "validation needs"]),
        (["data.flip=0.5"], ["data.flip=0.5", "use data.flip=0"]),
        ([mixed], ["data.mix", "holds scenes, but", "mix shards of one kind"]),
    ):
        command = workspace.command("refused", f"data.train={cache}", *overrides)
        line = refused(command, capsys)
        assert all(part in line for part in parts), line
        assert not workspace.run("refused").folder.exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_on_a_cache_of_each_family(family: str, demo_shards: Path, tmp_path: Path) -> None:
    """Bit for bit, though the attention of their first stages leaves moments channels last."""
    base = family_base(tmp_path / "base", family)
    settings = Settings(str(base), dtype="fp32", device="cpu", batch_size=BATCH)
    prepare_cache(str(demo_shards / "train"), tmp_path / "cache", settings)
    config = tiny_config(base, demo_shards, tmp_path, f"data.batch_size={BATCH}")
    online = first_step(config, demo_shards / "train")
    cached = first_step(config, tmp_path / "cache")
    for name in ("hint", "mask", "latents", "losses"):
        assert torch.equal(online[name], cached[name])
    online_shape, online_flop = counted_latents(config, demo_shards / "train")
    assert online_flop > 0
    assert counted_latents(config, tmp_path / "cache") == (online_shape, 0)


def counted_latents(config: Config, shards: Path) -> tuple[torch.Size, int]:
    """Shape of the latents of a counted step on `shards`, and operations that they cost."""
    config.data.train = str(shards)
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        latents = fake_step(config, None, BATCH).latents()
    return latents.shape, counter.get_total_flops()


def test_a_run_on_scenes_does_not_go_on_with_a_cache(
    whole: "tuple[Run, list[list[str]]]", workspace: "Workspace", caches: Path, capsys: Any
) -> None:
    workspace.killed_copy(whole[0], "switched", 3)
    line = refused(workspace.command("switched", f"data.train={caches / 'fp32'}"), capsys)
    assert "sha256 of data.train's manifest is" in line


def test_evaluation_of_a_cache_is_refused(
    tiny_export: Path, caches: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "evaluation.json"
    shards = caches / "fp16"
    command = ["evaluate", str(tiny_export), f"--shards={shards}", f"--judge={JUDGE}"]
    line = refused([*command, f"--out={out}", "--device=cpu"], capsys)
    assert f"'{shards}' is a cache and has no scenes; give the shards that it was made from" in line
    assert not out.exists()
