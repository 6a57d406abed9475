"""Loaders of training and validation batches for Lightning."""

from lightning import LightningDataModule
from webdataset.pipeline import DataPipeline

from anyscene.config import DataConfig
from anyscene.data.loader import StreamLoader
from anyscene.data.mixing import data_sets, make_order
from anyscene.data.notices import log_cache, log_indexes, log_order
from anyscene.data.shards import train_pipeline, validation_pipeline
from anyscene.data.sources import mix_shards, open_mix, open_shards, shard_cache
from anyscene.data.stream import Share


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

    def train_dataloader(self) -> StreamLoader:
        """This rank's micro-batches, `accumulate` of them a step. It has no length, on purpose."""
        data = self.data
        cache = shard_cache(data)
        train, mix = open_shards(data.train, cache), open_mix(data, cache)
        order = make_order(
            train, self.seed, data.batch_size, data.shuffle_window, self.overfit, mix
        )
        share = self._share()
        share.lanes(order.batch_size, 0)  # a batch size that does not divide fails here
        sources = [train, *(shards for shards, _ in mix)]
        log_order(order, data_sets(train, mix, self.overfit))
        log_indexes(sources)
        log_cache(order, sources, share, cache.limit_bytes)
        shards = mix_shards(sources) if mix else train
        return self._loader(train_pipeline(shards, order, share, self.start_step))

    def val_dataloader(self) -> StreamLoader | list:
        """This rank's share of the first `val_samples` samples, in order; [] without a folder."""
        if self.data.val is None:
            return []
        shards = open_shards(self.data.val, shard_cache(self.data))
        return self._loader(
            validation_pipeline(shards, self._share(), self.data.val_samples, self.val_batch_size)
        )

    def _share(self) -> Share:
        if self.trainer is None:
            return Share(accumulate=self.accumulate)
        return Share(self.trainer.global_rank, self.trainer.world_size, self.accumulate)

    def _loader(self, pipeline: DataPipeline) -> StreamLoader:
        return StreamLoader(pipeline, self.data.workers, self.data.max_bad_share)
