"""Imports point one way: inference must not need the training stack, nor data preparation torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
TRAINING_STACK = ("lightning", "wandb", "webdataset", "omegaconf")
INFERENCE = (
    "models",
    "diffusion",
    "compositing",
    "metrics",
    "pipeline.py",
    "pipeline_checks.py",
    "pipeline_inputs.py",
    "pipeline_loop.py",
    "fim_folder.py",
    "sampler.py",
    "foregrounds.py",
    "generate.py",
    "remake.py",
)

# What a module may not pull in, whoever imports it.
LIGHT = {
    "anyscene.config": ("omegaconf", "torch", "numpy"),
    "anyscene.config_method": ("omegaconf", "torch", "numpy"),
    "anyscene.config_run": ("omegaconf", "torch", "numpy"),
    "anyscene.config_io": ("torch", "numpy"),
    "anyscene.config_checks": ("torch", "numpy", "omegaconf"),
    "anyscene.errors": ("torch", "numpy", "omegaconf"),
    "anyscene.cli": ("torch", "numpy", "omegaconf"),
    "anyscene.data.sample": ("torch", "numpy"),
    "anyscene.manifest": ("torch", "omegaconf"),
    "anyscene.scene_list": ("torch", "omegaconf"),
    "anyscene.benchmark.build": ("torch", "omegaconf"),
    "anyscene.benchmark.methods": ("torch", "omegaconf"),
    "anyscene.benchmark.options": ("torch", "omegaconf"),
    "anyscene.benchmark.runs": ("torch", "omegaconf"),
    "anyscene.study": ("torch", "omegaconf"),
    "anyscene.study.create": ("torch", "omegaconf"),
    "anyscene.study.demo": ("torch", "omegaconf"),
    "anyscene.study.power": ("torch", "omegaconf", "pandas"),
    "anyscene.study.report": ("torch", "omegaconf"),
    "anyscene.study.server": ("torch", "omegaconf"),
    "anyscene.report": ("torch", "lightning"),
    "anyscene.preemption": ("torch", "numpy", "omegaconf"),
    "anyscene.records": ("torch", "numpy", "omegaconf"),
    "anyscene.elastic": ("torch", "numpy"),
    "anyscene.cluster.submit": ("torch", "numpy"),
    "anyscene.cluster.status": ("torch", "numpy"),
    "anyscene.tracking.follow": ("torch", "numpy", "lightning"),
    "anyscene.tracking.mirror": ("torch", "lightning", "omegaconf"),
    "data_prep.coco": ("torch", "lightning", "omegaconf"),
    "data_prep.demo_scenes": ("torch", "lightning", "omegaconf"),
    "data_prep.folder": ("torch", "lightning", "omegaconf"),
    "data_prep.inspect": ("torch", "lightning", "omegaconf"),
    "data_prep.verify": ("torch", "lightning", "omegaconf"),
}

# From the top of the design's chain to its bottom; the longest prefix counts. An import goes down,
# or stays on its level.
LEVELS = {
    "anyscene.cli": 6,
    "anyscene.commands": 6,
    "anyscene.train": 4,
    "anyscene.generate": 4,
    "anyscene.remake": 4,
    "anyscene.foregrounds": 3,
    "anyscene.image_jobs": 3,
    "anyscene.export": 4,
    "anyscene.cost": 4,
    "anyscene.report": 4,
    "anyscene.report_plots": 4,
    "anyscene.report_quantities": 4,
    "anyscene.cluster": 4,
    "anyscene.run_folder": 3,
    "anyscene.held_out": 3,
    "anyscene.benchmark": 5,
    "anyscene.demo": 5,
    "anyscene.evaluate": 4,
    "anyscene.study": 4,
    "data_prep": 4,
    "anyscene.tracking": 3,
    "anyscene.callbacks": 3,
    "anyscene.data": 3,
    "anyscene.module": 2,
    "anyscene.pipeline": 2,
    "anyscene.pipeline_checks": 2,
    "anyscene.pipeline_inputs": 2,
    "anyscene.pipeline_loop": 2,
    "anyscene.fim_folder": 2,
    "anyscene.sampler": 2,
    "anyscene.metrics": 2,
    "anyscene.visual": 2,
    "anyscene.checkpoint": 1,
    "anyscene.convert_checkpoint": 1,
    "anyscene.models": 1,
    "anyscene.devices": 1,
    "anyscene.diffusion": 1,
    "anyscene.compositing": 1,
    "anyscene.data.augmentation": 1,
    "anyscene.data.damage": 1,
    "anyscene.data.index": 1,
    "anyscene.data.manifest_check": 0,
    "anyscene.data.random": 0,
    "anyscene.data.sample": 1,
    "anyscene.data.shard_cache": 1,
    "anyscene.data.sources": 1,
    "anyscene.data.stream": 1,
    "anyscene.data.transforms": 1,
    "anyscene.manifest": 1,
    "anyscene.optimizer": 1,
    "anyscene.out_of_memory": 1,
    "anyscene.precision": 1,
    "anyscene.export_record": 1,
    "anyscene.model_card": 1,
    "anyscene.resume": 1,
    "anyscene.scene_list": 1,
    "anyscene.sharded_checkpoint": 1,
    "anyscene.sharded_cost": 4,
    "anyscene.snapshot": 0,
    "anyscene.counted_memory": 0,
    "anyscene.counted_step": 4,
    "anyscene.strategies": 3,
    "anyscene.data.fetching": 0,
    "anyscene.data.png": 0,
    "anyscene.elastic": 1,
    "anyscene.files": 0,
    "anyscene.locks": 0,
    "anyscene.new_folder": 0,
    "anyscene.metrics_file": 0,
    "anyscene.preemption": 0,
    "anyscene.ranks": 0,
    "anyscene.records": 0,
    "anyscene.quiet": 0,
    "anyscene.config_io": 0,
    "anyscene.config_method": 0,
    "anyscene.config_run": 0,
    "anyscene.config_checks": 0,
    "anyscene.layout_settings": 0,
    "anyscene.sharding_settings": 0,
    "anyscene.config": 0,
    "anyscene.errors": 0,
    "anyscene.__init__": 0,
    "anyscene.__version__": 0,
}


def modules_in(*places: str) -> list[str]:
    """Dotted names of the modules in folders and files of the package."""
    files = [
        file
        for place in places
        for path in [REPOSITORY / "anyscene" / place]
        for file in (path.rglob("*.py") if path.is_dir() else [path])
    ]
    return sorted(".".join(file.relative_to(REPOSITORY).with_suffix("").parts) for file in files)


def pulled_in(modules: list[str], forbidden: tuple[str, ...]) -> list[str]:
    """Which forbidden modules a fresh process has after importing some: the import that first
    brought each, and it."""
    code = (
        "import importlib, sys\n"
        "modules, forbidden = (set(text.split()) for text in sys.argv[1:])\n"
        "for name in sorted(modules):\n"
        "    importlib.import_module(name)\n"
        "    found = forbidden & sys.modules.keys()\n"
        "    for other in found: print(f'{name} -> {other}')\n"
        "    forbidden -= found\n"
    )
    command = [sys.executable, "-c", code, " ".join(modules), " ".join(forbidden)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    return done.stdout.splitlines()


def test_inference_does_not_pull_in_the_training_stack():
    modules = modules_in(*INFERENCE)
    assert len(modules) > 20
    assert pulled_in(modules, TRAINING_STACK) == []


@pytest.mark.parametrize("forbidden", sorted(set(LIGHT.values())), ids="-".join)
def test_light_modules_stay_light(forbidden):
    assert pulled_in([name for name in LIGHT if LIGHT[name] == forbidden], forbidden) == []


def level(module: str) -> int:
    known = [name for name in LEVELS if f"{module}.".startswith(f"{name}.")]
    assert known, f"give {module} its place in LEVELS"
    return LEVELS[max(known, key=len)]


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a file imports, also inside functions; not those for types only."""
    tree = ast.parse(path.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith(("anyscene.", "data_prep."))}


def test_imports_point_one_way():
    upward = []
    for folder in ("anyscene", "data_prep"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
            upward += [
                f"{module} -> {name}" for name in imports_of(path) if level(name) > level(module)
            ]
    assert upward == []


def test_only_one_file_knows_omegaconf():
    files = [
        path.name
        for folder in ("anyscene", "data_prep")
        for path in (REPOSITORY / folder).rglob("*.py")
        if "omegaconf" in path.read_text()
    ]
    assert files == ["config_io.py"]
