"""Both guidances in the pipeline, and what the guidance of the foreground moves away from."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from sampling import PROMPTS, moved_fim, one_step, quiet

from anyscene.compositing.hint import make_hint
from anyscene.errors import InputError
from anyscene.export import export
from anyscene.layout_settings import LayoutControl
from anyscene.models.loading import load_base
from anyscene.pipeline import AnyScenePipeline


@pytest.fixture(scope="module")
def base(tiny_base_folder: Path):
    return load_base(str(tiny_base_folder))


@pytest.fixture(scope="module")
def fim(base):
    return moved_fim(base)


@pytest.fixture
def pipeline(base, fim) -> AnyScenePipeline:
    return quiet(AnyScenePipeline(**base.components(), controlnet=fim))


@pytest.mark.parametrize(
    ("s_foreground", "s_text", "passes", "fim_passes"),
    [(1.0, 1.0, 1, 1), (1.0, 4.0, 2, 2), (2.5, 4.0, 3, 2), (0.0, 1.0, 3, 2)],
)
def test_two_guidance_scales(s_foreground, s_text, passes, fim_passes, pipeline, monkeypatch):
    """e0 + s_fg [e(0,f) - e0] + s_text [e(t,f) - e(0,f)]: a DDIM step keeps such mixtures."""
    prompt = PROMPTS[0]
    plain = {"guidance_scale": 1.0}
    e0 = one_step(pipeline, "", foreground=False, height=64, width=64, **plain)
    foreground = one_step(pipeline, "", **plain)
    full = one_step(pipeline, prompt, **plain)
    counts = {"unet": 0, "controlnet": 0}
    for name in counts:
        module = getattr(pipeline, name)

        def count(sample, *rest, name=name, forward=module.forward, **options):
            counts[name] += len(sample)
            return forward(sample, *rest, **options)

        monkeypatch.setattr(module, "forward", count)
    scales = {"guidance_scale": s_text, "foreground_guidance_scale": s_foreground}
    mixed = one_step(pipeline, prompt, **scales)
    expected = e0 + s_foreground * (foreground - e0) + s_text * (full - foreground)
    torch.testing.assert_close(mixed, expected, atol=1e-4, rtol=1e-4)
    assert counts == {"unet": 3 * passes, "controlnet": 3 * fim_passes}  # of 3 steps


def test_guidance_away_from_the_empty_hint(base, fim, monkeypatch):
    """e0 is the FIM on the empty hint where it was trained on that, which is its own of no mask."""
    pipeline = quiet(AnyScenePipeline(**base.components(), controlnet=fim, empty_hint=True))
    prompt, plain = PROMPTS[0], {"guidance_scale": 1.0}
    foreground, full = (one_step(pipeline, text, **plain) for text in ("", prompt))
    gated = {"layout": LayoutControl(residual_gate=1), "foreground_guidance_scale": 2.0}
    with_layout = one_step(pipeline, prompt, **plain, **gated)
    guided = one_step(pipeline, prompt, guidance_scale=3.0, foreground_guidance_scale=2.5)
    gated_foreground = [
        one_step(pipeline, text, **plain, layout=gated["layout"]) for text in ("", prompt)
    ]
    with monkeypatch.context() as patch:
        empty = "anyscene.pipeline_inputs.make_hint"
        patch.setattr(empty, lambda rgb, alpha: make_hint(rgb, 0 * alpha))
        e0 = one_step(pipeline, "", **plain)
    assert not torch.allclose(e0, one_step(pipeline, "", foreground=False, height=64, width=64))
    expected = e0 + 2.5 * (foreground - e0) + 3.0 * (full - foreground)
    torch.testing.assert_close(guided, expected, atol=1e-4, rtol=1e-4)
    own, text = gated_foreground
    torch.testing.assert_close(  # layout control is for the passes with the foreground
        with_layout, e0 + 2.0 * (own - e0) + (text - own), atol=1e-4, rtol=1e-4
    )


def test_an_export_says_whether_the_fim_knows_the_empty_hint(tiny_run, tiny_export, tmp_path):
    folder = Path(shutil.copytree(tiny_export, tmp_path / "export"))
    record = json.loads((folder / "anyscene.json").read_text())
    for share in (0.2, 0):
        record["config"]["train"]["foreground_dropout"] = share
        (folder / "anyscene.json").write_text(json.dumps(record))
        assert AnyScenePipeline.from_pretrained(folder).config["empty_hint"] == (share > 0)
    pipeline = AnyScenePipeline.from_pretrained(folder, empty_hint=True)  # to compare the two
    pipeline.save_pretrained(tmp_path / "saved")
    assert AnyScenePipeline.from_pretrained(tmp_path / "saved").config["empty_hint"]
    alone = export(tiny_run, tmp_path / "alone", with_base=False)
    for told in (True, False):
        pipeline = AnyScenePipeline.from_pretrained(alone, empty_hint=told)
        assert pipeline.config["empty_hint"] == told
    other = DDPMScheduler.from_config(pipeline.scheduler.config)
    assert AnyScenePipeline.from_pretrained(alone, scheduler=other).scheduler is other


def test_an_export_on_the_hub_says_so_too(tiny_export, tmp_path):
    """From the hub's cache, as it is once it was fetched."""
    stored = tmp_path / "models--me--scenes"
    folder = Path(shutil.copytree(tiny_export, stored / "snapshots" / ("0" * 40)))
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("0" * 40)
    record = json.loads((folder / "anyscene.json").read_text())
    record["config"]["train"]["foreground_dropout"] = 0.2
    (folder / "anyscene.json").write_text(json.dumps(record))
    cached = {"cache_dir": tmp_path, "local_files_only": True}
    assert AnyScenePipeline.from_pretrained("me/scenes", **cached).config["empty_hint"]
    record["hint_version"] = 0
    (folder / "anyscene.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="me/scenes was trained on hints of version 0"):
        AnyScenePipeline.from_pretrained("me/scenes", **cached)
