"""Configuration: what is merged, what is refused, and that every mistake is told in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from anyscene import config_checks
from anyscene.config import Blend, Config, Trainable
from anyscene.config_checks import check_config
from anyscene.config_io import load_config, read_config, save_config
from anyscene.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "numpy", "lightning", "diffusers", "transformers", "webdataset", "wandb")

# Each mistake on the command line, and what the one line must name.
MISTAKES = {
    "mistyped key": (["train.learning_rat=1"], ["'train.learning_rat'", "'learning_rate'"]),
    "wrong type": (["train.steps=many"], ["train.steps", "'many'", "int", "command line"]),
    "bad choice": (["sample.blend=smooth"], ["sample.blend", "'smooth'", "laplacian, poisson"]),
    "missing value": ([], ["train.steps has no value", "train.steps=..."]),
    "no equals sign": (["train.steps"], ["'train.steps' has no '='", "train.steps=VALUE"]),
    "list of wrong length": (
        ["train.steps=3", "train.betas=[0.9]"],
        ["train.betas=[0.9]", "1 values", "needs 2"],
    ),
    "missing file": (["train.steps=3", "data.train=shrads"], ["data.train='shrads'", "folder"]),
    "cannot go together": (
        ["train.steps=3", "data.batch_size=16", "train.accumulate=3"],
        ["data.batch_size=16", "train.accumulate", "= 3", "use 15 or 18"],
    ),
    "missing config file": (None, ["no config file", "demo.yml", "did you mean", "demo.yaml"]),
}
RUN_ALL = """
import contextlib, io, json, sys
from anyscene.cli import main
results = {}
for name, arguments in json.loads(sys.argv[1]).items():
    errors, output = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        code = main(arguments)
    results[name] = [code, errors.getvalue(), output.getvalue()]
heavy = sorted(name for name in sys.argv[2:] if name in sys.modules)
print(json.dumps([results, heavy]))
"""


@pytest.fixture(scope="module")
def yaml_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that lacks nothing but `train.steps`."""
    folder = tmp_path_factory.mktemp("config")
    for name in ("base", "shards"):
        (folder / name).mkdir()
    path = folder / "demo.yaml"
    path.write_text(f"name: x\nbase: {{path: {folder}/base}}\ndata: {{train: {folder}/shards}}\n")
    return path


@pytest.fixture(scope="module")
def outcomes(yaml_file: Path) -> tuple[dict[str, list], list[str]]:
    """Exit code, stderr and stdout of each mistake in a fresh process, and what it imported."""
    commands = {
        name: ["train", str(yaml_file if words is not None else yaml_file.with_suffix(".yml"))]
        + (words or [])
        for name, (words, _) in MISTAKES.items()
    }
    command = [sys.executable, "-c", RUN_ALL, json.dumps(commands), *HEAVY]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_give_one_line_and_exit_2(name, outcomes):
    code, errors, output = outcomes[0][name]
    assert (code, output) == (2, "")
    assert errors.startswith("anyscene: ")
    assert errors.count("\n") == 1
    assert errors.endswith("\n")
    for part in MISTAKES[name][1]:
        assert part in errors


def test_mistakes_are_told_before_heavy_imports(outcomes):
    assert outcomes[1] == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("train: 5", r"^train in .* is a group of keys \(steps, "),
        ("base: {pth: x}", r"^unknown key 'base.pth' in .*demo.yaml; did you mean 'path'\?$"),
        ("trian: {steps: 1}", r"^unknown key 'trian' .* 'train'\?$"),
        ("learning_rate: 1", r"^unknown key 'learning_rate' .* 'train.learning_rate'\?$"),
        ("- a", r"must hold `key: value` lines"),
        ("a: [", r"is not YAML: "),
        ("train: {steps: 1.5}", r"^train.steps in .*expected int"),
        ("train: {compile: perhaps}", r"^train.compile in .*'perhaps'.*expected bool"),
        ("train: {betas: 0.9}", r"^train.betas in "),
        ("train: {steps: null}", r"^train.steps in .*expected int"),
    ],
)
def test_mistakes_in_the_file_name_the_file(text, line, tmp_path):
    path = tmp_path / "demo.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=line) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "instead"),
    [
        ("train.precision=fp16", "bf16"),
        ("train.ema_on_cpu=true", "false"),
        ("train.lora_rank=4", "train.strategy=ddp"),
        ("train.compile=true", "false"),
        ("train.channels_last=true", "false"),
        ("debug.overfit=4", "train.strategy=ddp"),
        ("train.devices=1", "more, or train.strategy=ddp"),
        ("train.optimizer=adamw8bit", "adamw"),
    ],
)
def test_what_sharded_weights_cannot_go_with(override, instead, yaml_file):
    options = ("train.steps=1", "train.strategy=fsdp2", "train.devices=2", override)
    config = read_config(yaml_file, options)
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    what = override.replace("devices", "devices x train.nodes")
    assert f"train.strategy=fsdp2 cannot go with {what} (" in str(caught.value)
    assert str(caught.value).endswith(f"; use {instead}")
    check_config(read_config(yaml_file, (*options[:1], "train.devices=2", override)))


def test_new_words_are_not_trained_with_shared_weights(yaml_file):
    options = ["train.steps=1", "train.devices=2", "train.injection=none"]
    options += ["train.trainable=cross_attention_kv", "train.modifier_tokens={<new1>: ktn}"]
    check_config(read_config(yaml_file, options))
    with pytest.raises(ConfigError, match=r"fsdp2 cannot go with train.trainable=cross_attention"):
        check_config(read_config(yaml_file, [*options, "train.strategy=fsdp2"]))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("name=../other", "name='../other' must name a folder within runs_dir='runs'"),
        ("name=.", "name='.' must name a folder within runs_dir='runs'"),
        ("train.learning_rate=0", "train.learning_rate=0.0 must be greater than 0"),
        ("train.learning_rate=nan", "train.learning_rate=nan must be a finite number"),
        ("sample.guidance_scale=nan", "sample.guidance_scale=nan must be a finite number"),
        ("train.weight_decay=inf", "train.weight_decay=inf must be a finite number"),
        ("train.threads=0", "train.threads=0 must be greater than 0"),
        ("data.workers=-1", "data.workers=-1 must not be negative"),
        ("loss.rest=-1", "loss.rest=-1.0 must not be negative"),
        ("train.prompt_dropout=1.5", "must be between 0 and 1"),
        ("data.mask_jitter=2.5", "data.mask_jitter=2.5 must be between 0 and 2"),
        ("data.canvas_colour=0.6", "data.canvas_colour=0.6 must be between 0 and 0.5"),
        ("data.cache_gb=0", "data.cache_gb=0.0 must be greater than 0"),
        ("data.mix={nowhere: 0.5}", "data.mix='nowhere' is not a folder"),
        ("data.mix={a: 0}", "data.mix: the weight 0.0 of 'a' must be positive"),
        ("data.mix={a: much}", "data.mix.a in the command line: "),
        ("data.mix=other", "data.mix in the command line: "),
        ("data.val='pipe:cat x'", "data.val='pipe:cat x' has no {name}"),
        ("data.train=htps://x", "data.train='htps://x' cannot be read here: Protocol not known"),
        ("loss.prior_weight=1", "needs the prior's images in data.mix"),
        ("loss.prior_weight=-1", "loss.prior_weight=-1.0 must not be negative"),
        ("train.modifier_tokens={<new1>: ktn}", "train.trainable=fim trains no words"),
        ("train.trainable=cross_attention_kv", "use train.injection=none"),
        ("train.ema_decay=1", "must be at least 0 and less than 1"),
        ("train.betas=[0.9,1]", "needs 2, each at least 0 and less than 1"),
        ("train.keep_checkpoints=1", "must be at least 2"),
        ("debug.overfit=2", "must be 0, 1 or 4"),
        ("train.injection=none", "nothing to train; use train.trainable=unet"),
        ("train.devices=3", "use 15 or 18"),
        ("loss={inside: 0, boundary: 0, rest: 0}", "nothing would be learnt"),
        ("base.path=a/b/c", "neither a folder here nor a hub id"),
        ("train.resume=nowhere.ckpt", "neither auto, never nor a checkpoint file"),
        ("metrics.judge=nowhere", "metrics.judge='nowhere' is not a folder"),
        ("log.logger=tensorboard", "needs the package tensorboard: pip install tensorboard"),
    ],
)
def test_values_that_cannot_work(override, line, yaml_file, monkeypatch):
    monkeypatch.setattr(config_checks, "find_spec", lambda _: None)
    with pytest.raises(ConfigError) as caught:
        load_config(yaml_file, ["train.steps=5", override])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fim_that_would_not_be_used_is_refused(yaml_file):
    options = ["train.steps=5", "train.trainable=unet", "train.injection=none", "fim.init=models/a"]
    with pytest.raises(ConfigError, match=r"^fim.init='models/a' has no effect with train.inject"):
        load_config(yaml_file, options)


def test_later_values_win(yaml_file):
    config = load_config(yaml_file, ["train.steps=5", "train.steps=6", "sample.blend=alpha"])
    assert (config.train.steps, config.sample.blend, config.train.seed) == (6, Blend.alpha, 0)
    assert load_config(yaml_file, ["train.steps=5", "base.path=org/name"]).base.path == "org/name"


TEXTS = [  # that YAML takes for numbers or truth values
    ("cluster.time", "24:00:00"),
    ("cluster.account", "0012"),
    ("cluster.partition", "1e3"),
    ("name", "on"),
    ("base.revision", "0012345"),
]


@pytest.mark.parametrize(("key", "text"), TEXTS)
def test_text_is_what_was_written(key, text, yaml_file, tmp_path):
    """A time limit of a day was one of 86400 minutes."""
    group, _, name = key.rpartition(".")
    file = tmp_path / "written.yaml"
    file.write_text(f"{group}: {{{name}: {text}}}" if group else f"{name}: {text}")
    needed = {"name": "x", "base.path": "a/b", "data.train": "c", "train.steps": "5"}
    others = [f"{name}={value}" for name, value in needed.items() if name != key]
    for config in (read_config(file, others), read_config(yaml_file, [*others, f"{key}={text}"])):
        assert getattr(getattr(config, group) if group else config, name) == text
        assert config.train.steps == 5


def test_a_text_of_none_stays_none(yaml_file):
    config = read_config(yaml_file, ["train.steps=5", "cluster.account=7", "cluster.account=null"])
    assert config.cluster.account is None


def test_saved_config_loads_to_the_same_object(tmp_path, yaml_file):
    overrides = [
        "train.steps=7",
        "train.trainable=unet",
        "train.injection=none",
        "train.betas=[0.5,0.25]",
        "fim.embedder_channels=[8,16]",
        "loss.gamma=1e-3",
        "name='a-b: c'",
        "data.train=https://host/set",
        "data.mix={'pipe:cat a/{name}': 0.5}",
    ]
    config = load_config(yaml_file, overrides)
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
    assert config.train.trainable is Trainable.unet
    assert type(config) is Config
