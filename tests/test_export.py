"""What an export holds, of which checkpoint, and what is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import SIZE, copy_of, files, foreground, loaded_base_sha256
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from tiny import tiny_base, tiny_config
from training import refused

from anyscene.checkpoint import checkpoints, read_checkpoint, write_share
from anyscene.cli import main
from anyscene.config_io import read_config, save_config
from anyscene.data.sample import MANIFEST_NAME
from anyscene.errors import DamageError, InputError
from anyscene.export import export, load_trained
from anyscene.files import sha256_of
from anyscene.train import train

FIM_WEIGHTS = "controlnet/diffusion_pytorch_model.safetensors"


def test_half_rounds_all_but_the_text_encoder(tiny_run: Path, tiny_export: Path, tmp_path: Path):
    (tmp_path / ".out.123.part" / "unet").mkdir(parents=True)  # of an export that was killed
    folder = export(tiny_run, tmp_path / "out", half=True)
    assert list(tmp_path.iterdir()) == [folder]
    for name in ("unet", "vae", "controlnet", "text_encoder"):
        (path,) = (folder / name).glob("*.safetensors")
        dtypes = {value.dtype for value in load_file(path).values() if value.is_floating_point()}
        assert dtypes == {torch.float32 if name == "text_encoder" else torch.float16}
    record, plain = (json.loads((f / "anyscene.json").read_text()) for f in (folder, tiny_export))
    assert record["base"]["sha256"] != plain["base"]["sha256"]
    assert record["base"]["sha256"] == loaded_base_sha256(folder)
    assert plain["base"]["sha256"] == loaded_base_sha256(tiny_export)


def test_weights_that_do_not_fit_half_are_refused(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def load_with_a_large_weight(*arguments: Any) -> Any:
        trained = load_trained(*arguments)
        trained.module.base.vae.decoder.conv_in.weight[0, 0, 0, 0] = 1e6
        return trained

    monkeypatch.setattr("anyscene.export.load_trained", load_with_a_large_weight)
    with pytest.raises(InputError, match="the first stage do not fit float16"):
        export(tiny_run, tmp_path / "out", half=True)


@pytest.mark.parametrize("fails", ["save_file", "write_json"])
def test_a_full_disk_is_told_in_one_line(
    fails: str, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    """Of weights by an error of safetensors' own."""
    reason = "No space left on device (os error 28)"
    error = SafetensorError(f"I/O error: {reason}") if fails == "save_file" else OSError(28, reason)

    def fail(*_: Any, **__: Any) -> None:
        raise error

    place = (
        "diffusers.models.modeling_utils.safetensors.torch"
        if fails == "save_file"
        else "anyscene.export"
    )
    monkeypatch.setattr(f"{place}.{fails}", fail)
    line = refused(["export", str(tiny_run), "--no-base", "--out", str(tmp_path / "out")], capsys)
    assert line.startswith(f"anyscene: {tmp_path / 'out'}: ")
    assert reason in line
    assert list(tmp_path.iterdir()) == []


def test_moving_average_of_the_newest_checkpoint_is_taken(tiny_run: Path, tiny_export: Path):
    state = read_checkpoint(checkpoints(tiny_run / "checkpoints")[0])
    (path,) = (tiny_export / "controlnet").glob("*.safetensors")
    exported = load_file(path)
    average = state["callbacks"]["MovingAverage"]
    moved = 0
    for name, value in exported.items():
        assert torch.equal(value, average[f"module.{name}"])
        moved += not torch.equal(value, state["state_dict"][f"trained.{name}"])
    assert moved > len(exported) / 2


def test_without_moving_average_the_weights_themselves_are_taken(
    tiny_base_folder: Path, demo_shards: Path, tmp_path: Path
):
    config = tiny_config(
        tiny_base_folder, demo_shards, tmp_path, "train.ema_decay=0", "train.steps=1"
    )
    run = train(config)
    folder = export(run, tmp_path / "out")
    state = read_checkpoint(checkpoints(run / "checkpoints")[0])["state_dict"]
    (path,) = (folder / "controlnet").glob("*.safetensors")
    assert all(torch.equal(v, state[f"trained.{k}"]) for k, v in load_file(path).items())


def test_record_and_card(tiny_run: Path, demo_shards: Path, tmp_path: Path):
    run = copy_of(tiny_run, tmp_path)
    for step, value in ((1, 1.0), (3, 17.25), (9, 99.0)):  # 9 is later than what is exported
        folder = run / "samples" / f"step-{step:08d}"
        folder.mkdir(exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps({"psnr_in_mask": value}))
    out = export(run, tmp_path / "out")
    record = json.loads((out / "anyscene.json").read_text())
    assert record["figures"] == {"psnr_in_mask": 17.25}
    assert (record["figures_step"], record["step"]) == (3, 3)
    assert (record["hint"], record["hint_version"], record["version"]) == ("pixel", 1, 1)
    assert (record["vae_factor"], record["image_size"]) == (4, SIZE)
    assert record["prediction_type"] == "v_prediction"
    assert record["data_manifest_sha256"] == sha256_of(demo_shards / "train" / MANIFEST_NAME)
    assert record["config"]["sample"]["blend"] == "detail"
    assert set(record["base"]) == {"path", "revision", "first_stage", "sha256", "licence"}
    index = json.loads((out / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionControlNetPipeline"
    assert index["safety_checker"] == [None, None]
    assert index["requires_safety_checker"] is False
    card = (out / "README.md").read_text()
    for stated in (
        "17.25",
        record["base"]["sha256"],
        record["data_manifest_sha256"],
        "five channel",
        'blend="detail", blend_k=0.25',
        "birefnet-general MIT, bria-rmbg CC BY-NC 4.0",
    ):
        assert stated in card
    assert not any(b"_name_or_path" in data for data in files(out).values())


@pytest.mark.parametrize("with_base", [True, False])
def test_the_card_s_code_runs(
    tiny_run: Path, tmp_path: Path, with_base: bool, monkeypatch: pytest.MonkeyPatch
):
    out = export(tiny_run, tmp_path / "out", with_base=with_base)
    rgb, alpha = foreground()
    pixels = (torch.cat([rgb, alpha], 1)[0].permute(1, 2, 0) * 255).byte().numpy()
    Image.fromarray(pixels).save(tmp_path / "canvas.png")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for code in blocks:
        (tmp_path / "scene.png").unlink(missing_ok=True)
        exec(code.replace("FOLDER", "out"), {})
        with Image.open("scene.png") as scene:
            assert scene.size == (SIZE, SIZE)


def test_licence_of_the_base_is_carried_over(
    tiny_run: Path, tiny_base_folder: Path, tmp_path: Path
):
    base = Path(shutil.copytree(tiny_base_folder, tmp_path / "base"))
    (base / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n# A base\n")
    run = copy_of(tiny_run, tmp_path)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(tiny_base_folder), str(base)))
    out = export(run, tmp_path / "out", with_base=False)
    assert json.loads((out / "anyscene.json").read_text())["base"] == {
        "path": "../base",
        "revision": None,
        "first_stage": None,
        "sha256": loaded_base_sha256(base),
        "licence": "creativeml-openrail-m",
    }
    assert "license: creativeml-openrail-m" in (out / "README.md").read_text()


def test_deterministic(tiny_run: Path, tmp_path: Path):
    first, second = (export(tiny_run, tmp_path / name) for name in ("one", "two"))
    assert files(first) == files(second)


def test_damaged_checkpoint_falls_back_unless_it_was_named(tiny_run: Path, tmp_path: Path):
    run = copy_of(tiny_run, tmp_path)
    newest = checkpoints(run / "checkpoints")[0]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    out = export(run, tmp_path / "out")
    assert json.loads((out / "anyscene.json").read_text())["step"] == 2
    with pytest.raises(DamageError, match="sha256"):
        export(run, tmp_path / "other", checkpoint=newest)
    first = checkpoints(run / "checkpoints")[-1]
    out = export(run, tmp_path / "first", checkpoint=first)
    assert json.loads((out / "anyscene.json").read_text())["step"] == 1


def test_a_checkpoint_in_shares_can_be_named(tiny_run: Path, tmp_path: Path, capsys):
    first = checkpoints(tiny_run / "checkpoints")[-1]
    shares = tmp_path / first.name
    write_share(read_checkpoint(first), shares, rank=0, ranks=1)
    for checkpoint, name in ((first, "one"), (shares, "other")):
        arguments = [str(tiny_run), "--out", str(tmp_path / name), "--checkpoint", str(checkpoint)]
        assert main(["export", *arguments]) == 0
    one, other = (load_file(tmp_path / name / FIM_WEIGHTS) for name in ("one", "other"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert main(["export", *arguments[:3], "--checkpoint", str(tmp_path / "none.ckpt")]) == 2
    assert capsys.readouterr().err == f"anyscene: no checkpoint {tmp_path / 'none.ckpt'}\n"


def test_another_base_in_the_place_of_the_run_s(tiny_run: Path, tmp_path: Path):
    run = copy_of(tiny_run, tmp_path)
    other = tiny_base(tmp_path / "base", seed=1)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub(r"(?m)^  path: .*$", f"  path: {other}", text))
    with pytest.raises(InputError, match="restore the base"):
        export(run, tmp_path / "out")


def test_what_is_in_the_way(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("dear")
    with pytest.raises(InputError, match="something else"):
        export(tiny_run, out, overwrite=True)
    (out / "mine.txt").unlink()
    export(tiny_run, out, with_base=False)
    before = files(out)
    with pytest.raises(InputError, match="--overwrite"):
        export(tiny_run, out)
    with monkeypatch.context() as patch:
        patch.setattr("anyscene.export.model_card", fail)
        with pytest.raises(RuntimeError, match="power"):
            export(tiny_run, out, overwrite=True)
    assert files(out) == before
    export(tiny_run, out, overwrite=True)
    assert (out / "model_index.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_base_is_no_export_that_may_be_replaced(
    tiny_run: Path, tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    base = Path(shutil.copytree(tiny_base_folder, tmp_path / "base"))
    with pytest.raises(InputError, match="holds something else"):
        export(tiny_run, base, overwrite=True)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError, match=r"--out \. is no folder's name"):
        export(tiny_run, Path("."))


def test_a_checkpoint_of_a_run_of_the_same_networks_is_refused(tiny_run: Path, tmp_path: Path):
    """Its weights would go out under the other run's configuration and figures."""
    run = copy_of(tiny_run, tmp_path)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"run_id": "other-1234"}))
    newest = checkpoints(tiny_run / "checkpoints")[0]
    with pytest.raises(InputError, match=f"is of the run {record['run_id']}, not of other-1234"):
        export(run, tmp_path / "out", checkpoint=newest)
    (run / "run.json").unlink()
    assert load_trained(run, newest).step == 3


def fail(*_args: Any, **_options: Any) -> str:
    raise RuntimeError("power cut")


def test_a_configuration_that_was_changed_takes_one_line(tiny_run: Path, tmp_path: Path, capsys):
    run = copy_of(tiny_run, tmp_path)
    config = read_config(run / "config.yaml", ["fim.embedder_channels=[8,8,8]"])
    save_config(config, run / "config.yaml")
    line = refused(["export", str(run), "--out", str(tmp_path / "out")], capsys)
    (checkpoint, *_) = checkpoints(run / "checkpoints")
    assert f"{checkpoint} holds other weights than {run}/config.yaml trains" in line
    assert not (tmp_path / "out").exists()


def test_no_run_no_checkpoint(tiny_run: Path, tmp_path: Path):
    with pytest.raises(InputError, match="no run folder"):
        export(tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match=r"no checkpoint .*other\.ckpt"):
        export(tiny_run, tmp_path / "out", checkpoint=tmp_path / "other.ckpt")
    run = copy_of(tiny_run, tmp_path)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match="no checkpoint yet"):
        export(run, tmp_path / "out")
