"""Loaders of training and validation batches for Lightning."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import cv2
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset
from webdataset.pipeline import DataPipeline

from anyscene.config import DataConfig
from anyscene.data.sample import HostBatch, ShardManifest
from anyscene.data.shards import train_pipeline, validation_pipeline
from anyscene.data.stream import Share, make_order
from anyscene.data.transforms import StreamItem
from anyscene.errors import DamageError

log = logging.getLogger(__name__)

FEWEST_SAMPLES = 1000
"""`max_bad_share` counts against at least so many samples, so that a few early ones do not stop a
run whose share is within it."""


class SceneDataModule(LightningDataModule):
    """Training batches without end from `start_step` on, and validation samples once each.

    Args:
        data: folders, batch size, workers, shuffling, limit of damage.
        seed: of the order and of the captions.
        accumulate: micro-batches an optimizer step.
        overfit: train on the first n samples only; 0: on all.
        start_step: the optimizer step that the next batch is for; a resuming trainer sets it
            before the loaders are made.
        val_batch_size: samples of a validation batch on a device.
    """

    def __init__(
        self,
        data: DataConfig,
        *,
        seed: int = 0,
        accumulate: int = 1,
        overfit: int = 0,
        start_step: int = 0,
        val_batch_size: int = 8,
    ):
        super().__init__()
        self.data = data
        self.seed = seed
        self.accumulate = accumulate
        self.overfit = overfit
        self.start_step = start_step
        self.val_batch_size = val_batch_size

    def train_dataloader(self) -> "StreamLoader":
        """This rank's micro-batches, `accumulate` of them a step. It has no length, on purpose."""
        manifest = ShardManifest.read(self.data.train)
        order = make_order(
            manifest, self.seed, self.data.batch_size, self.data.shuffle_window, self.overfit
        )
        share = self._share()
        share.lanes(order.batch_size, 0)  # a batch size that does not divide fails here
        log.info(
            "%s: %d samples, %d batches of %d an epoch, %d samples left out of each",
            self.data.train,
            sum(bucket.samples for bucket in order.buckets),
            order.batches_per_epoch,
            order.batch_size,
            order.dropped,
        )
        for bucket in order.buckets:
            if bucket.samples < order.batch_size:
                log.warning(
                    "%s: bucket %s has %d samples, less than data.batch_size=%d: never trained on",
                    self.data.train,
                    bucket.name,
                    bucket.samples,
                    order.batch_size,
                )
        return self._loader(train_pipeline(manifest, order, share, self.start_step))

    def val_dataloader(self) -> "StreamLoader | list":
        """This rank's share of the first `val_samples` samples, in order; [] without a folder."""
        if self.data.val is None:
            return []
        manifest = ShardManifest.read(self.data.val)
        return self._loader(
            validation_pipeline(manifest, self._share(), self.data.val_samples, self.val_batch_size)
        )

    def _share(self) -> Share:
        if self.trainer is None:
            return Share(accumulate=self.accumulate)
        return Share(self.trainer.global_rank, self.trainer.world_size, self.accumulate)

    def _loader(self, pipeline: DataPipeline) -> "StreamLoader":
        return StreamLoader(pipeline, self.data.workers, self.data.max_bad_share)


class StreamLoader(DataLoader):
    """A `DataLoader` that counts damage over its workers and raises their errors as one line.

    Worker processes are started as the platform does by default: they use numpy and OpenCV with
    one thread each and no torch kernels, which is safe after a fork.
    """

    def __init__(self, pipeline: DataPipeline, workers: int, max_bad_share: float):
        super().__init__(
            cast(IterableDataset[StreamItem], pipeline),
            batch_size=None,
            num_workers=workers,
            collate_fn=_unchanged,
            worker_init_fn=_start_worker,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
        self.max_bad_share = max_bad_share

    def __iter__(self) -> Iterator[HostBatch]:  # type: ignore[override]
        """The batches. Raises the workers' errors, and `DamageError` above `max_bad_share`."""
        tally = DamageTally(self.max_bad_share)
        for item in super().__iter__():
            if isinstance(item, Exception):
                raise item
            if isinstance(item, list):
                tally.add(0, item)
            else:
                tally.add(len(item["key"]), item["damage"])
                yield item


@dataclass
class DamageTally:
    """Counts, logs and limits the damaged samples of a loader."""

    max_bad_share: float
    read: int = 0
    damaged: int = 0

    def add(self, whole: int, damage: list[str]) -> None:
        """Count a batch. Raises `DamageError` once too large a share is damaged."""
        self.read += whole + len(damage)
        for line in damage:
            self.damaged += 1
            if self.damaged & (self.damaged - 1) == 0:  # 1, 2, 4, 8, ...
                log.warning(
                    "damaged sample, number %d of %d read: %s", self.damaged, self.read, line
                )
            if self.damaged > self.max_bad_share * max(self.read, FEWEST_SAMPLES):
                raise DamageError(
                    f"{self.damaged} of {self.read} samples read are damaged, more than "
                    f"data.max_bad_share={self.max_bad_share} allows; the last one: {line}; check "
                    "the shards with `anyscene prepare verify`"
                )


def _unchanged(batch: Any) -> Any:
    """No conversion: the pipeline makes whole batches. A named function, so that it pickles."""
    return batch


def _start_worker(_: int) -> None:
    """One thread a worker: several would compete for the cores."""
    cv2.setNumThreads(0)
