"""`anyscene generate` tells a mistake in one line, before torch is imported where it can."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from canvases import PROMPTS, SIZE
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

from anyscene.cli import main
from anyscene.errors import InputError
from anyscene.export import export
from anyscene.generate import generate
from anyscene.scene_list import GenerateSettings, Scene

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL"], "generate needs --out DIR"),
        (["--out", "OUT", "--prompt", "x"], "generate needs a MODEL"),
        (["no/model/here", "--prompt", "x"], "no model folder no/model/here"),
        (["."], "neither anyscene.json nor model_index.json"),
        (["MODEL"], "has no prompt"),
        (["MODEL", "--prompt", "x", "--canvas", "gone.png"], "no file gone.png"),
        (["MODEL", "--prompt", "x", "--element", "gone.png@1,1,1"], "no file gone.png"),
        (["MODEL", "--prompt", "x", "--canvas", "C", "--element", "C@1,1,1"], "give one of them"),
        (["MODEL", "--prompt", "x", "--scenes", "s.jsonl"], "--scenes cannot go with --prompt"),
        (["MODEL", "--scenes", "s.jsonl"], "no scene list s.jsonl"),
        (["MODEL", "--prompt", "x", "--steps", "0"], "--steps 0 must be greater than 0"),
        (["MODEL", "--prompt", "x", "--images", "-1"], "--images -1 must be greater than 0"),
        (["MODEL", "--prompt", "x", "--blend-k", "2"], "--blend-k 2 must be between 0 and 1"),
        (
            ["MODEL", "--prompt", "x", "--layout", "attention=-1"],
            "attention=-1 must be between 0 (off)",
        ),
        (["MODEL", "--prompt", "x", "--layout", "atention=1"], "did you mean 'attention'"),
        (
            ["MODEL", "--prompt", "x", "--guidance-scale", "nan"],
            "--guidance-scale nan must be a finite",
        ),
        (["MODEL", "--prompt", "x", "--seed", "-1"], "seed=-1 of scene text must be at least 0"),
        (["MODEL", "--prompt", "x", "--micro-batch", "0"], "--micro-batch 0 must be greater"),
        (["MODEL", "--prompt", "x", "--steps", "1001"], "num_inference_steps=1001 cannot be used:"),
        (["--again", "gone.jsonl"], "no manifest gone.jsonl"),
        (["--again", "x.jsonl", "--prompt", "x"], "--prompt cannot go with --again"),
        (
            ["--again", "x.jsonl", "--steps", "3"],
            "--steps cannot go with --again: the manifest says",
        ),
        (["MODEL", "--prompt", "x", "--canvas", "OPAQUE"], "has no alpha channel"),
        (["MODEL", "--prompt", "x", "--canvas", "TEXT"], "cannot be read as an image"),
        (["MODEL", "--prompt", "x", "--element", "C@1,1"], "must be FILE@X,Y,HEIGHT"),
        (["MODEL", "--prompt", "x", "--height", "60"], "must be multiples of 8"),
    ],
)
def test_mistakes_take_one_line(
    arguments: list[str],
    message: str,
    tiny_export: Path,
    canvas: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    opaque = tmp_path / "opaque.png"
    Image.new("RGB", (SIZE, SIZE)).save(opaque)
    names = {"MODEL": tiny_export, "C": canvas, "C@1,1,1": f"{canvas}@1,1,1", "OPAQUE": opaque}
    names |= {"C@1,1": f"{canvas}@1,1", "OUT": tmp_path / "out", "TEXT": tmp_path / "text.png"}
    names["TEXT"].write_text("no picture")
    line = [str(names.get(argument, argument)) for argument in arguments]
    if message != "generate needs --out DIR" and "--again" not in line:
        line += ["--out", str(tmp_path / "out")]
    assert main(["generate", *line]) == 2
    told = capsys.readouterr().err
    assert told.startswith("anyscene: ")
    assert message in told
    assert told.count("\n") == 1
    assert not list(tmp_path.rglob("manifest.jsonl"))


def test_mistakes_are_told_before_torch_is_imported(tmp_path: Path):
    code = (
        "import sys\nfrom anyscene.cli import main\n"
        "print(main(sys.argv[1:]), 'torch' in sys.modules)"
    )
    (tmp_path / "model_index.json").touch()
    model = ["generate", str(tmp_path), "--prompt", "x", "--out", str(tmp_path / "out")]
    for arguments in ([*model, "--steps", "0"], ["export", str(tmp_path), "--out", str(tmp_path)]):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
        assert done.stdout == "2 False\n"


def test_a_model_that_does_not_load(tiny_export: Path, tmp_path: Path):
    broken = Path(shutil.copytree(tiny_export, tmp_path / "broken"))
    (broken / "unet" / "config.json").unlink()
    with pytest.raises(InputError, match=r"^model='.*broken' is not .*, its unet cannot be loaded"):
        generate(str(broken), [Scene("text", PROMPTS)], GenerateSettings(), tmp_path / "out")


def test_a_model_whose_index_names_nothing(tiny_export: Path, tmp_path: Path):
    broken = Path(shutil.copytree(tiny_export, tmp_path / "broken"))
    (broken / "model_index.json").write_text("[]")
    with pytest.raises(InputError, match=r"^model='.*broken' .* model_index.json holds no names$"):
        generate(str(broken), [Scene("text", PROMPTS)], GenerateSettings(), tmp_path / "out")


@pytest.mark.parametrize(
    "part", ["unet", "vae", "controlnet", "text_encoder", "controlnet of a FIM alone"]
)
def test_a_model_that_lost_a_weight(part: str, tiny_run: Path, tmp_path: Path):
    """diffusers fills it with random numbers, or leaves it on the meta device."""
    name, alone = part.removesuffix(" of a FIM alone"), part.endswith("alone")
    model = export(tiny_run, tmp_path / "model", with_base=not alone)
    (file,) = (model / name).glob("*.safetensors")
    weights = load_file(file)
    lost = sorted(weights)[0]
    save_file({key: weights[key] for key in weights if key != lost}, file, {"format": "pt"})
    line = rf"^model='.*model': its {name} lacks 1 weights of \w+, such as \S+; [^\n]*$"
    with pytest.raises(InputError, match=line) as error:
        generate(str(model), [Scene("text", PROMPTS)], GenerateSettings(), tmp_path / "out")
    assert lost.split(".")[-2] in str(error.value)


def test_a_model_whose_parts_do_not_fit(tiny_export: Path, tmp_path: Path):
    """transformers makes an empty tokenizer of a missing one."""
    broken = Path(shutil.copytree(tiny_export, tmp_path / "broken"))
    shutil.rmtree(broken / "tokenizer")
    with pytest.raises(InputError, match=r"^model .*broken: its tokenizer has .* is missing or of"):
        generate(str(broken), [Scene("text", PROMPTS)], GenerateSettings(), tmp_path / "out")


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"time_cond_proj_dim": 8}, "its UNet has time_cond_proj_dim=8, a condition that"),
        ({"in_channels": 9}, r"takes 9 \(inpainting UNets"),
    ],
)
def test_a_model_that_takes_more_is_refused(setting, line, tiny_export: Path, tmp_path: Path):
    """One distilled as LCM would draw other images without its guidance scale."""
    broken = Path(shutil.copytree(tiny_export, tmp_path / "broken"))
    unet = UNet2DConditionModel.from_pretrained(broken / "unet")
    other: Any = UNet2DConditionModel.from_config({**unet.config, **setting})
    other.save_pretrained(broken / "unet")
    with pytest.raises(InputError, match=line):
        generate(str(broken), [Scene("text", PROMPTS)], GenerateSettings(), tmp_path / "out")
