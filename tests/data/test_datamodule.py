"""The loaders as a trainer uses them: worker processes, ranks, resume, validation, damage."""

import logging
import multiprocessing
import os
from dataclasses import fields
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from shard_files import write_shards

from anyscene.config import DataConfig
from anyscene.data.datamodule import SceneDataModule
from anyscene.data.loader import DamageTally
from anyscene.data.sample import HostBatch
from anyscene.errors import ConfigError, DamageError, InputError

SIZES = [(16, 16)] * 3 + [(16, 24)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """30 samples of 16x16 and 13 of 16x24: 10 global batches of 4 an epoch."""
    path = tmp_path_factory.mktemp("shards")
    write_shards(path, [9, 11, 10, 13], SIZES)
    return str(path)


def module_of(folder: str, rank: int = 0, ranks: int = 1, **options: Any) -> SceneDataModule:
    """A data module of one of several simulated ranks; `options` may hold fields of DataConfig."""
    known = {field.name for field in fields(DataConfig)}
    data = {name: options.pop(name) for name in list(options) if name in known}
    config = DataConfig(train=folder, **{"val": folder, "batch_size": 4, "workers": 0, **data})
    module = SceneDataModule(config, seed=7, **options)
    module.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)  # type: ignore[assignment]
    return module


def train_batches(folder: str, steps: int, ranks: int, **options: Any) -> list[list[HostBatch]]:
    """The micro-batches of each global batch, in the order of the ranks."""
    count = steps * options.get("accumulate", 1)
    loaders = [
        module_of(folder, rank, ranks, **options).train_dataloader() for rank in range(ranks)
    ]
    streams = [list(islice(loader, count)) for loader in loaders]
    size = count // steps
    return [
        [batch for stream in streams for batch in stream[step * size : (step + 1) * size]]
        for step in range(steps)
    ]


def flat(batches: list[list[HostBatch]], name: str) -> list[list[Any]]:
    """One field of each global batch's samples."""
    return [[value for micro in step for value in micro[name]] for step in batches]


@pytest.fixture(scope="module")
def uninterrupted(folder: str) -> list[list[HostBatch]]:
    """More than two epochs on one rank without workers."""
    return train_batches(folder, 24, 1)


@pytest.fixture(scope="module")
def mix(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """A second data set: one lane of four in the first bucket, none in the other."""
    path = tmp_path_factory.mktemp("mixed")
    write_shards(path, [7, 6], prefix="m", indexed=True)
    return {str(path): 0.25}


@pytest.fixture(scope="module")
def uninterrupted_mix(folder: str, mix: dict[str, float]) -> list[list[HostBatch]]:
    """More than an epoch of the mix on one rank without workers."""
    return train_batches(folder, 24, 1, mix=mix)


RANKS_AND_WORKERS = pytest.mark.parametrize(
    ("ranks", "workers"), [(1, 0), (1, 2), (2, 1), (2, 2), (4, 1)]
)


@RANKS_AND_WORKERS
def test_resume_on_any_ranks_and_workers(
    ranks: int, workers: int, folder: str, uninterrupted: list[list[HostBatch]]
) -> None:
    resumed = train_batches(folder, 13, ranks, workers=workers, start_step=11)
    for name in ("key", "counter", "prompt"):
        assert flat(resumed, name) == flat(uninterrupted[11:], name)
    assert all(len(micro["key"]) == 4 // ranks for step in resumed for micro in step)


@RANKS_AND_WORKERS
def test_resume_of_a_mix_on_any_ranks_and_workers(
    ranks: int,
    workers: int,
    folder: str,
    mix: dict[str, float],
    uninterrupted_mix: list[list[HostBatch]],
) -> None:
    resumed = train_batches(folder, 7, ranks, workers=workers, start_step=9, mix=mix)
    for name in ("key", "counter", "prompt"):
        assert flat(resumed, name) == flat(uninterrupted_mix[9:16], name)


def test_an_epoch_loses_and_repeats_nothing(
    uninterrupted: list[list[HostBatch]], uninterrupted_mix: list[list[HostBatch]]
) -> None:
    """Of 30 + 13 samples, tails of 2 + 1 are left out; in the mix, with 3 lanes of our own, of 1.
    A pass of the second data set is 13 batches of the first bucket long."""
    for epoch in (uninterrupted[:10], uninterrupted[10:20]):
        keys = [key for batch in flat(epoch, "key") for key in batch]
        assert len(set(keys)) == len(keys) == 40
    keys = [key for batch in flat(uninterrupted_mix, "key") for key in batch]
    ours = [key for key in keys[: 13 * 4] if key.startswith("s")]
    assert len(set(ours)) == len(ours) == 30 + 12
    others = [key for key in keys if key.startswith("m")]
    assert len(set(others[:13])) == 13 < len(others)


@pytest.mark.parametrize("mixed", [False, True])
def test_accumulation_keeps_the_global_batch(
    mixed: bool,
    folder: str,
    mix: dict[str, float],
    uninterrupted: list[list[HostBatch]],
    uninterrupted_mix: list[list[HostBatch]],
) -> None:
    options = {"mix": mix} if mixed else {}
    split = train_batches(folder, 13, 2, workers=1, start_step=11, accumulate=2, **options)
    expected = uninterrupted_mix if mixed else uninterrupted
    assert flat(split, "key") == flat(expected[11:], "key")
    assert all(len(micro["key"]) == 1 for step in split for micro in step)


def test_workers_give_the_same_pixels(folder: str) -> None:
    alone, shared = (train_batches(folder, 4, 1, workers=workers) for workers in (0, 2))
    for one, other in zip(alone, shared, strict=True):
        for name in ("scene_uint8", "mask_uint8", "elements_uint8"):
            assert torch.equal(one[0][name], other[0][name])


@pytest.mark.parametrize(
    ("ranks", "workers", "samples"),
    [(1, 0, 43), (2, 0, 43), (3, 0, 43), (1, 2, 43), (2, 1, 43), (3, 2, 43), (3, 0, 7), (3, 1, 1)],
)
def test_validation_reads_each_sample_once(
    ranks: int, workers: int, samples: int, folder: str
) -> None:
    keys = []
    for rank in range(ranks):
        loader = module_of(
            folder, rank, ranks, workers=workers, val_samples=samples, val_batch_size=4
        ).val_dataloader()
        first = [batch["key"] for batch in loader]
        assert [batch["key"] for batch in loader] == first
        assert [key for batch in first for key in batch] == sorted(k for b in first for k in b)
        keys += [key for batch in first for key in batch]
    assert sorted(keys) == [f"s{number:06d}" for number in range(samples)]


def test_validation_is_optional(folder: str) -> None:
    assert module_of(folder, val=None).val_dataloader() == []


def test_overfit(folder: str) -> None:
    batches = train_batches(folder, 5, 1, overfit=1)
    assert flat(batches, "key") == [["s000000"] * 4] * 5


def test_mistakes_fail_before_training(folder: str) -> None:
    with pytest.raises(ConfigError, match=r"data.batch_size=4 must be a multiple of 3 .* 3 or 6"):
        module_of(folder, 0, 3).train_dataloader()
    with pytest.raises(InputError, match=r"use data.batch_size=30 or less"):
        module_of(folder, batch_size=31).train_dataloader()
    with pytest.raises(InputError, match="no shards in"):
        module_of(folder + "/nowhere").train_dataloader()


def test_small_bucket_and_tail_are_reported(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    module_of(folder, batch_size=14).train_dataloader()
    assert "43 samples, 2 batches of 14 an epoch, 15 samples left out of each" in caplog.text
    assert "bucket 16x24 has 13 samples, too few for data.batch_size=14: never" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_too_much_damage_stops_the_run(
    workers: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shards(
        tmp_path, [40], change=lambda key, m: m | {"mask.png": b""} if key[-1] in "37" else m
    )
    loader = module_of(str(tmp_path), workers=workers, val=None).train_dataloader()
    keys = []
    with pytest.raises(DamageError) as caught:
        keys += [key for batch in loader for key in batch["key"]]
    assert str(caught.value).startswith("11 of ")
    assert "data.max_bad_share=0.01" in str(caught.value)
    assert "shard-000.tar, s0000" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [record.args[0] for record in caplog.records if record.args] == [1, 2, 4, 8]
    assert not any(key[-1] in "37" for key in keys)


def test_little_damage_does_not_stop_a_run() -> None:
    tally = DamageTally(max_bad_share=0.01)
    for _ in range(500):
        tally.add(198, ["a", "b"])
    assert (tally.damaged, tally.read) == (1000, 100_000)
    with pytest.raises(DamageError):
        DamageTally(max_bad_share=0).add(16, ["a"])


def test_error_of_a_worker_is_one_line(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [8])
    os.unlink(tmp_path / manifest.shards[0].name)
    loader = module_of(str(tmp_path), workers=1).train_dataloader()
    message = r"^shard-000.tar of .* cannot be read after 3 tries: [^\n]+$"
    with pytest.raises(InputError, match=message) as caught:
        next(iter(loader))
    assert caught.traceback  # although it is kept, the workers have ended
    assert not multiprocessing.active_children()


class Recorder(LightningModule):
    """Notes what a Lightning trainer feeds it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained: list[str] = []
        self.validated: list[str] = []

    def training_step(self, batch: HostBatch) -> torch.Tensor:
        self.trained += batch["key"]
        return self.weight * batch["scene_uint8"].float().mean()

    def validation_step(self, batch: HostBatch) -> None:
        self.validated += batch["key"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*srun",
    "ignore:.*treespec, LeafSpec:FutureWarning",
)
def test_lightning_trainer(folder: str, uninterrupted: list[list[HostBatch]]) -> None:
    """Twelve steps, more than an epoch of the stream, validation after every five."""
    module = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=12,
        accumulate_grad_batches=2,
        val_check_interval=10,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = module_of(folder, accumulate=2, workers=1, val_samples=20)
    trainer.fit(module, datamodule=data)
    assert module.trained == [key for keys in flat(uninterrupted, "key")[:12] for key in keys]
    assert module.validated == 2 * [f"s{number:06d}" for number in range(20)]
