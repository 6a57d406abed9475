"""`anyscene train`: the order of a run, and nothing else."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Callback, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment

from anyscene.callbacks.checkpoints import Checkpoints
from anyscene.callbacks.ema import MovingAverage
from anyscene.callbacks.gradients import Gradients
from anyscene.callbacks.learnt_by_heart import LearntByHeart
from anyscene.callbacks.metrics_csv import MetricsCsv
from anyscene.callbacks.missed_validation import MissedValidation
from anyscene.callbacks.preemption import Preemption
from anyscene.callbacks.scenes import ValidationScenes, forget_samples, load_judge
from anyscene.callbacks.throughput import StepProgress, Throughput
from anyscene.callbacks.whole_networks import WholeNetworks
from anyscene.checkpoint import AtomicCheckpointIO, read_first_share, step_of
from anyscene.cluster.startup import check_start
from anyscene.config import Config, Strategy
from anyscene.config_run import Logger
from anyscene.cost import images_at_peak
from anyscene.data.cached import check_cached
from anyscene.data.datamodule import SceneDataModule
from anyscene.data.overlap import warn_of_overlap
from anyscene.data.sources import check_data_sizes
from anyscene.errors import ConfigError
from anyscene.files import told_as_mistake
from anyscene.metrics.build import build_metric_set
from anyscene.metrics_file import is_validated
from anyscene.models.injection import fit_embedder
from anyscene.models.trained import trained_parameters
from anyscene.module import SceneModule
from anyscene.out_of_memory import Held, out_of_memory
from anyscene.precision import precision_plugin
from anyscene.ranks import is_first_process, local_rank
from anyscene.run_folder import agreed, agreed_checkpoint, prepare_run_folder
from anyscene.strategies import build_strategy
from anyscene.tracking.loggers import build_loggers, followed


def train(config: Config) -> Path:
    """Train, or go on training, as `config` says; returns the run folder.

    Raises `RunStopped` where a signal, held back with `hold_signals`, asked for it.
    """
    check_devices(config)
    run = Path(config.runs_dir) / config.name
    check_start(config, run)
    with ExitStack() as stack:
        train_from(agreed_checkpoint(config, run, stack), config, run)
    return run


def train_from(checkpoint: Path | None, config: Config, run: Path) -> None:
    """Train from a checkpoint, or anew, in a run folder that this process has for itself."""
    start_step = 0 if checkpoint is None else step_of(checkpoint)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    torch.set_float32_matmul_precision("high")
    lightning.seed_everything(config.train.seed, verbose=False)

    module = SceneModule(config)
    check_cached(config, module.base_sha256, module.base.encoder_sha256())
    check_data_sizes(config.data, module.base.pixel_multiple())
    identity = None
    if checkpoint is not None:
        saved = read_first_share(checkpoint)
        module.on_load_checkpoint(saved)  # refuse before writing anything
        if checkpoint.parent == run / "checkpoints":
            identity = saved.get("identity")
    data = SceneDataModule(
        config.data,
        seed=config.train.seed,
        accumulate=config.train.accumulate,
        overfit=config.debug.overfit,
        start_step=start_step,
        val_batch_size=config.sample.micro_batch,
    )
    if checkpoint is None and module.injection is not None and config.fim.fit_embedder_steps:
        with told_of_memory(config, module):
            fit_hint_embedder(module, data)
    csv = MetricsCsv(run / "metrics.csv")
    with told_as_mistake(run):
        prepare_run_folder(run, config, module.base_sha256, start_step, identity)
        csv.start_at(start_step)
        if is_first_process():
            forget_samples(run / "samples", start_step)
    if is_first_process():
        warn_of_overlap(config)
    trainer = build_trainer(config, csv, run, start_step)
    with followed(trainer.loggers):
        with told_of_memory(config, module):
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        validated = is_validated(csv.path, trainer.global_step)  # perhaps more than train.steps
        validated = trainer.strategy.broadcast(validated)  # the ranks agree
        if config.data.val is not None and not validated:
            trainer.validate(module, data, verbose=False)


def held(module: SceneModule) -> Held:
    """What a step of the module needs memory for."""
    trained = sum(parameter.numel() for parameter in trained_parameters(module.trained))
    networks = [module.base, *([] if module.injection is None else [module.injection])]
    every = sum(parameter.numel() for network in networks for parameter in network.parameters())
    return Held(trained, every - trained, module.last_batch)


def check_devices(config: Config) -> None:
    """Raises `ConfigError` where this machine has GPUs, but not as many as a node shall use."""
    found = torch.cuda.device_count()
    if 0 < found < config.train.devices:
        raise ConfigError(
            f"train.devices={config.train.devices}, but {found} GPUs can be seen here; use "
            f"train.devices={found} or less"
        )


@contextmanager
def told_of_memory(config: Config, module: SceneModule) -> Iterator[None]:
    """Raises `RunFailedError` that says what would help where the device's memory is not enough."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise out_of_memory(config, held(module)) from error


def fit_hint_embedder(module: SceneModule, data: SceneDataModule) -> None:
    """Let the FIM's embedder learn the base's view of the foreground from the first batches.

    Every rank does the same, before the ranks are set up: a step has the samples of all ranks, in
    micro-batches of one rank's size. Only what takes part is on the device.
    """
    config, fim = module.config, module.injection
    assert fim is not None
    device = torch.device("cuda", local_rank()) if torch.cuda.is_available() else module.device
    parts: list[Any] = [module.base.vae, module.base.unet.conv_in, fim.controlnet_cond_embedding]
    for part in parts:
        part.to(device)
    ranks = config.train.devices * config.train.nodes
    hints = (
        module.on_after_batch_transfer(own, 0)["hint"].to(device)
        for batch in data.train_dataloader()
        for own in split_batch(batch, ranks)
    )
    steps = config.fim.fit_embedder_steps
    share = fit_embedder(fim, module.base, hints, steps, rate=3e-3, accumulate=ranks)
    if is_first_process():
        print(f"hint embedder: {steps} steps, {1 - share:.1%} of the variance explained")


def split_batch(batch: Any, parts: int) -> list[Any]:
    """A host batch in `parts` of equal size."""
    of_samples = {name: of for name, of in batch.items() if name not in ("replaced", "damage")}
    size = len(batch["key"]) // parts
    starts = range(0, parts * size, size)
    return [{name: of[i : i + size] for name, of in of_samples.items()} for i in starts]


def build_trainer(config: Config, csv: MetricsCsv, run: Path, start_step: int) -> Trainer:
    """Lightning's trainer for this machine, to go on from a step."""
    settings = config.train
    io = AtomicCheckpointIO(settings.keep_checkpoints)
    callbacks = build_callbacks(config, run, io, start_step)
    if agreed(lambda: is_validation_missed(config, csv.path, start_step)):
        callbacks.append(MissedValidation())
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    return Trainer(
        accelerator=device,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy=build_strategy(settings, rank_timeout(config)),
        max_steps=settings.steps,
        accumulate_grad_batches=settings.accumulate,
        val_check_interval=settings.validate_every * settings.accumulate,
        check_val_every_n_epoch=None,
        limit_val_batches=0 if config.data.val is None else 1.0,
        num_sanity_val_steps=0,
        log_every_n_steps=config.log.every,
        deterministic=settings.deterministic,
        benchmark=on_gpu and not settings.deterministic,  # of kernels, for the sizes that come
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        inference_mode=settings.strategy is Strategy.ddp,  # what is gathered in it is trained later
        logger=[csv, *(build_loggers(config, run, start_step) if is_first_process() else [])],
        callbacks=callbacks,
        plugins=[precision_plugin(settings.precision, device), *build_plugins(io)],
        default_root_dir=run,
    )


def is_validation_missed(config: Config, metrics: Path, step: int) -> bool:
    """Whether a validation was due at the step to go on from, but was not finished."""
    due = config.data.val is not None and step % config.train.validate_every == 0
    return due and 0 < step < config.train.steps and not is_validated(metrics, step)


def build_plugins(io: AtomicCheckpointIO) -> list[Any]:
    """Our checkpoints; and under SLURM none of Lightning's own requeueing, which saves inside a
    signal handler and can hang there."""
    plugins: list[Any] = [io]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return plugins


def build_callbacks(
    config: Config, run: Path, io: AtomicCheckpointIO, start_step: int
) -> list[Callback]:
    """One job each. Preemption is first, as it says; then the average, so that the others see it
    updated."""
    every = config.train.checkpoint_every
    saving = Checkpoints(run / "checkpoints", io, every, start_step)
    gradients = Gradients(config.train)
    callbacks: list[Callback] = [Preemption(saving, rank_timeout(config)), gradients]
    if config.train.ema_decay > 0:
        callbacks.append(MovingAverage(config.train.ema_decay, config.train.ema_on_cpu))
    if config.train.strategy is Strategy.fsdp2:
        callbacks.append(WholeNetworks())
    callbacks.append(
        Throughput(config.data.batch_size, config.log.every, gradients, images_at_peak(config))
    )
    if config.data.val is not None:
        metrics = build_metric_set(config.metrics, judge=load_judge(config.metrics.judge))
        tables = config.log.logger is Logger.wandb
        callbacks.append(ValidationScenes(run / "samples", config.sample, metrics, tables))
    callbacks.append(saving)
    if config.debug.overfit:
        folder = run / "samples"
        callbacks.append(LearntByHeart(folder, config.sample, config.debug.overfit))
    if config.log.progress_bar:
        callbacks.append(StepProgress())
    return callbacks


def rank_timeout(config: Config) -> timedelta:
    """How long ranks wait for each other."""
    return timedelta(minutes=config.cluster.timeout_minutes)
