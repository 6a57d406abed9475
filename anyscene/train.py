"""`anyscene train`: the order of a run, and nothing else."""

import inspect
import json
import os
import platform
import subprocess
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning import Callback, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from anyscene import __version__
from anyscene.callbacks.checkpoints import Checkpoints
from anyscene.callbacks.ema import MovingAverage
from anyscene.callbacks.metrics_csv import MetricsCsv, read_metrics
from anyscene.callbacks.scenes import ValidationScenes, load_judge
from anyscene.callbacks.throughput import StepProgress, Throughput
from anyscene.checkpoint import (
    AtomicCheckpointIO,
    check_checkpoint,
    checkpoints,
    last_good_checkpoint,
    read_checkpoint,
    step_of,
)
from anyscene.config import Config, Precision
from anyscene.config_io import save_config
from anyscene.data.cached import check_cached
from anyscene.data.datamodule import SceneDataModule
from anyscene.errors import ConfigError
from anyscene.files import write_json
from anyscene.models.injection import fit_embedder
from anyscene.module import SceneModule
from anyscene.tracking import build_loggers, finish_loggers

PRECISIONS: dict[Precision, Literal["32-true", "bf16-mixed"]] = {
    Precision.fp32: "32-true",
    Precision.bf16: "bf16-mixed",
}
VERSIONS_OF = ("torch", "lightning", "diffusers", "transformers", "webdataset")


def train(config: Config) -> Path:
    """Train, or go on training, as `config` says; returns the run folder."""
    check_devices(config)
    run = Path(config.runs_dir) / config.name
    checkpoint = find_checkpoint(config, run)
    start_step = 0 if checkpoint is None else step_of(checkpoint)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    torch.set_float32_matmul_precision("high")
    lightning.seed_everything(config.train.seed, verbose=False)

    module = SceneModule(config)
    check_cached(config, module.base_sha256)
    if checkpoint is not None:
        module.on_load_checkpoint(read_checkpoint(checkpoint))  # refuse before writing anything
    data = SceneDataModule(
        config.data,
        seed=config.train.seed,
        accumulate=config.train.accumulate,
        overfit=config.debug.overfit,
        start_step=start_step,
        val_batch_size=config.sample.micro_batch,
    )
    if checkpoint is None and module.injection is not None and config.fim.fit_embedder_steps:
        fit_hint_embedder(module, data)
    prepare_run_folder(run, config, module, start_step)
    csv = MetricsCsv(run / "metrics.csv")
    trainer = build_trainer(config, run, csv)
    csv.start_at(start_step)
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    validated = trainer.strategy.broadcast(is_validated(run, config.train.steps))  # ranks agree
    if config.data.val is not None and not validated:
        trainer.validate(module, data, verbose=False)
    finish_loggers(trainer.loggers)
    return run


def check_devices(config: Config) -> None:
    """Raises `ConfigError` where this machine has GPUs, but not as many as a node shall use."""
    found = torch.cuda.device_count()
    if 0 < found < config.train.devices:
        raise ConfigError(
            f"train.devices={config.train.devices}, but {found} GPUs can be seen here; use "
            f"train.devices={found} or less"
        )


def fit_hint_embedder(module: SceneModule, data: SceneDataModule) -> None:
    """Let the FIM's embedder learn the base's view of the foreground from the first batches.

    Every rank does the same, before the ranks are set up.
    """
    config = module.config
    assert module.injection is not None
    if torch.cuda.is_available():
        module.to(torch.device("cuda", local_rank()))
    hints = (module.on_after_batch_transfer(batch, 0)["hint"] for batch in data.train_dataloader())
    steps = config.fim.fit_embedder_steps
    share = fit_embedder(module.injection, module.base, hints, steps, rate=3e-3)
    if is_first_process():
        print(f"hint embedder: {steps} steps, {1 - share:.1%} of the variance explained")


def is_validated(run: Path, step: int) -> bool:
    """Whether the run has a validation at a step already."""
    return any(row[:2] == (step, "val/loss") for row in read_metrics(run / "metrics.csv"))


def build_trainer(config: Config, run: Path, csv: MetricsCsv) -> Trainer:
    """Lightning's trainer for this machine."""
    settings = config.train
    on_gpu = torch.cuda.is_available()
    single = settings.devices * settings.nodes == 1
    return Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy="auto" if single else build_ddp(),
        precision=PRECISIONS[settings.precision],
        max_steps=settings.steps,
        accumulate_grad_batches=settings.accumulate,
        val_check_interval=settings.validate_every * settings.accumulate,
        check_val_every_n_epoch=None,
        limit_val_batches=0 if config.data.val is None else 1.0,
        num_sanity_val_steps=0,
        log_every_n_steps=config.log.every,
        deterministic=settings.deterministic,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=[csv, *(build_loggers(config, run) if is_first_process() else [])],
        callbacks=build_callbacks(config, run),
        plugins=build_plugins(),
        default_root_dir=run,
    )


def build_plugins() -> list[Any]:
    """Our checkpoints; and under SLURM none of Lightning's own requeueing, which saves inside a
    signal handler and can hang there."""
    plugins: list[Any] = [AtomicCheckpointIO()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return plugins


def build_ddp() -> DDPStrategy:
    """Data parallel, without buffers synchronised in each forward pass: the ranks may differ by a
    validation batch, and then a forward pass must not be a collective."""
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False}  # named so since torch 2.13
    return DDPStrategy(timeout=timedelta(minutes=10), **options)


def build_callbacks(config: Config, run: Path) -> list[Callback]:
    """One job each; the average is first, so that the others see it updated."""
    callbacks: list[Callback] = []
    if config.train.ema_decay > 0:
        callbacks.append(MovingAverage(config.train.ema_decay))
    callbacks.append(Throughput(config.data.batch_size, config.log.every))
    if config.data.val is not None:
        judge = load_judge(config.metrics.judge)
        callbacks.append(ValidationScenes(run / "samples", config.sample, judge))
    callbacks.append(
        Checkpoints(
            run / "checkpoints", config.train.checkpoint_every, config.train.keep_checkpoints
        )
    )
    if config.log.progress_bar:
        callbacks.append(StepProgress())
    return callbacks


def find_checkpoint(config: Config, run: Path) -> Path | None:
    """Where to go on from; None to start anew.

    Raises:
        ConfigError: going on as `train.resume` says would overwrite or mix up a run.
        DamageError: the checkpoint that `train.resume` names is damaged.
    """
    resume = config.train.resume
    if resume == "auto":
        return last_good_checkpoint(run / "checkpoints")
    if resume == "never":
        if is_first_process() and (run / "run.json").exists():  # the others see what it writes
            raise ConfigError(
                f"train.resume=never, but {run} holds a run; set train.resume=auto to go on with "
                "it, or another name"
            )
        return None
    check_checkpoint(Path(resume))
    newest = next(iter(checkpoints(run / "checkpoints")), None)
    if newest is not None and newest.stem > f"step-{step_of(Path(resume)):08d}":
        raise ConfigError(
            f"train.resume={resume} is older than {newest.name}, which {run} already holds; "
            "remove the newer checkpoints or give the run another name"
        )
    return Path(resume)


def prepare_run_folder(run: Path, config: Config, module: SceneModule, start_step: int) -> None:
    """`config.yaml` and `run.json` of the run, made or extended by this start; rank zero writes."""
    if not is_first_process():
        return
    run.mkdir(parents=True, exist_ok=True)
    save_config(config, run / "config.yaml")
    path = run / "run.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"starts": []}
    identity = f"{config.name}-{os.urandom(4).hex()}"
    record.setdefault("run_id", identity)
    record.setdefault("wandb_id", identity)
    record["base"] = {
        "path": config.base.path,
        "revision": config.base.revision,
        "sha256": module.base_sha256,
    }
    record["git_commit"] = git_commit()
    versions = {name: version(name) for name in VERSIONS_OF}
    record["versions"] = {"anyscene": __version__, **versions}
    record["starts"].append(
        {
            "step": start_step,
            "host": platform.node(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "threads": torch.get_num_threads(),
            "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        }
    )
    write_json(path, record)


def is_first_process() -> bool:
    """Whether this process is rank zero, whoever started it; known before the ranks are set up."""
    names = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def local_rank() -> int:
    """Number of this process on its node, whoever started it."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


def git_commit() -> str | None:
    """The commit of the code, with `+dirty` for uncommitted changes; None outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
