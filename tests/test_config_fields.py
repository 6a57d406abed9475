"""The shipped configurations, and that every field is documented and its range checked."""

import ast
import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from anyscene import config as config_module
from anyscene import config_checks, config_method, config_run
from anyscene.config import Config
from anyscene.config_checks import check_config
from anyscene.config_io import read_config

REPOSITORY = Path(__file__).resolve().parents[1]
SHIPPED = sorted((REPOSITORY / "configs/train").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_shipped_configs_load(path):
    config = read_config(path)
    check_config(config)  # the folders that it names are made by other commands
    assert config.name == path.stem
    assert 0 < config.train.warmup_steps < config.train.steps


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_recipes_of_real_bases_are_marked_expected(family):
    """No real base was trained; the README says so on its first screen."""
    path = REPOSITORY / f"configs/train/{family}.yaml"
    config = read_config(path)
    assert 64 <= config.data.batch_size <= 256
    assert config.train.learning_rate == 1e-5
    header = path.read_text().split("name:")[0]
    for said in ("EXPECTED, not run", "GPU hours", f"{config.train.steps:,}", "Look for:"):
        assert said in " ".join(header.replace("#", " ").split()), said
    assert "layout control (sample.layout) is off: its strengths are unmeasured" in path.read_text()
    first_screen = (REPOSITORY / "README.md").read_text()[:2500]
    assert "No real Stable Diffusion base was trained here" in first_screen


def test_configs_are_shipped():
    assert len(SHIPPED) >= 2
    for path in SHIPPED:
        assert yaml.safe_load(path.read_text())["name"]


@pytest.mark.parametrize("module", [config_module, config_method, config_run])
def test_every_field_has_a_docstring(module):
    tree = ast.parse(inspect.getsource(module))
    missing = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        assert ast.get_docstring(node), node.name
        hints = get_type_hints(getattr(module, node.name))
        for item, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(item, ast.AnnAssign) and not is_dataclass(hints[item.target.id]):
                documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                missing += [] if documented else [f"{node.name}.{item.target.id}"]
    assert missing == []


def test_every_number_is_checked_for_its_range():
    free = {"train.seed", "sample.seed", "debug.overfit", "train.keep_checkpoints"}
    known = {
        *config_checks.POSITIVE,
        *config_checks.NOT_NEGATIVE,
        *config_checks.AT_MOST,
        *config_checks.BELOW_ONE,
        *free,
    }
    numbers = {
        f"{group.name}.{field.name}"
        for group in fields(Config)
        if is_dataclass(group.type)
        for field in fields(group.type)
        if field.type in (int, float, int | None, float | None)
    }
    assert numbers == known
