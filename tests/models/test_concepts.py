"""Custom Diffusion's trained part: keys, values and new words change, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from families import family_base

from anyscene.config import BaseConfig, Config, DataConfig, Injection, Trainable, TrainConfig
from anyscene.config_method import LossConfig
from anyscene.config_run import LogConfig, Logger
from anyscene.errors import InputError
from anyscene.export import export
from anyscene.image_jobs import load_model
from anyscene.models.concepts import KEYS_AND_VALUES, TokenTable, add_words
from anyscene.models.loading import load_base
from anyscene.module import SceneModule
from anyscene.train import train


def concept_config(base: Path, shards: Path, runs: Path) -> Config:
    """Three steps on two samples of each of two data sets, with a word of its own."""
    return Config(
        name="concepts",
        runs_dir=str(runs),
        base=BaseConfig(path=str(base)),
        data=DataConfig(
            train=str(shards / "train"),
            mix={str(shards / "val"): 1.0},
            batch_size=4,
            workers=0,
            exposure_stops=0,
            tint=0,
        ),
        loss=LossConfig(prior_weight=1.0),
        train=TrainConfig(
            steps=3,
            trainable=Trainable.cross_attention_kv,
            modifier_tokens={"<new1>": "red mug"},
            injection=Injection.none,
            learning_rate=0.01,
            warmup_steps=0,
            ema_decay=0.5,
            threads=1,
        ),
        log=LogConfig(every=1, logger=Logger.none, progress_bar=False),
    )


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def base_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_base(tmp_path_factory.mktemp("concepts") / request.param, request.param)


def test_concepts_change_keys_values_and_new_words_alone(
    base_folder: Path, demo_shards: Path, tmp_path: Path
):
    config = concept_config(base_folder, demo_shards, tmp_path)
    before = load_base(str(base_folder)).state_dict()
    run = train(config)
    state = torch.load(run / "checkpoints" / "step-00000003.ckpt", weights_only=True)
    trained = {name.removeprefix("trained.") for name in state["state_dict"]}
    words = {name for name in trained if name.endswith("token_embedding.rows")}
    assert len(words) == (2 if "sdxl" in base_folder.name else 1)
    assert all(name.endswith(KEYS_AND_VALUES) for name in trained - words)
    assert trained - words == {f"{n}" for n in before if n.endswith(KEYS_AND_VALUES)}

    out = export(run, tmp_path / "export")  # which loads the checkpoint and merges the words
    after = load_base(str(out)).state_dict()
    assert after.keys() == before.keys()
    for name, value in before.items():
        if name.endswith(KEYS_AND_VALUES):
            assert not torch.equal(after[name], value), name
        elif name.endswith("token_embedding.weight"):
            assert torch.equal(after[name][: len(value)], value)
            assert len(after[name]) == len(value) + 1
            assert after[name][-1].abs().sum() > 0
        else:
            assert torch.equal(after[name], value), name

    model = load_model(str(out), "fp32", "cpu")
    options = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "pt"}
    named, plain = (
        torch.as_tensor(
            model.pipeline(
                f"photo of a {words} mug", generator=torch.Generator().manual_seed(0), **options
            ).images
        )
        for words in ("<new1>", "red")
    )
    assert not torch.equal(named, plain)


def test_gradient_of_a_new_word_reaches_no_other(base_folder: Path, demo_shards: Path, tmp_path):
    module = SceneModule(concept_config(base_folder, demo_shards, tmp_path))
    module.base.text(["photo of a <new1> mug", "photo of a mug"]).hidden.square().sum().backward()
    for _, encoder in module.base.text_parts():
        table = encoder.get_input_embeddings()
        assert isinstance(table, TokenTable)
        assert table.rows.grad is not None
        assert table.rows.grad.abs().sum() > 0
        assert table.words.weight.grad is None
    for name, parameter in module.base.named_parameters():
        assert parameter.requires_grad == name.endswith((*KEYS_AND_VALUES, ".rows")), name


@torch.no_grad()
def test_new_word_begins_as_its_word_and_other_prompts_stay_as_they_are(base_folder: Path):
    base = load_base(str(base_folder))
    prompts = ["a red mug on a meadow", "warm light", ""]
    before = base.text(prompts)
    add_words(base.text_parts(), {"<new1>": "red"})
    after = base.text(prompts)
    assert torch.equal(after.hidden, before.hidden)
    same = base.text(["a <new1> mug on a meadow"])
    assert len(base.tokenizer("red", add_special_tokens=False).input_ids) == 1
    assert torch.allclose(same.hidden, before.hidden[:1], atol=1e-6)
    if before.pooled is not None and same.pooled is not None and after.pooled is not None:
        assert torch.equal(after.pooled, before.pooled)
        # not where the highest number is, that of the new word
        assert torch.allclose(same.pooled, before.pooled[:1], atol=1e-6)


@torch.no_grad()
def test_new_word_begins_as_the_mean_of_the_tokens_of_its_word(base_folder: Path):
    base = load_base(str(base_folder))
    tokens = base.tokenizer("meadowmug", add_special_tokens=False).input_ids
    assert len(set(tokens)) > 1
    known = base.text_encoder.get_input_embeddings().weight[tokens].clone()
    add_words([(base.tokenizer, base.text_encoder)], {"<new1>": "meadowmug"})
    table: Any = base.text_encoder.get_input_embeddings()
    torch.testing.assert_close(table.rows[0], known.mean(0))


def test_word_that_is_known_is_refused(base_folder: Path):
    base = load_base(str(base_folder))
    known = next(word for word in base.tokenizer.get_vocab() if word.isascii())
    with pytest.raises(InputError, match=r"knows .* already"):
        add_words(base.text_parts(), {known: "red"})
