"""Whole networks in validation, where ranks with sharded weights would wait for each other."""

from lightning import Callback, LightningModule, Trainer

from anyscene.models.sharding import gather_networks, release_networks


class WholeNetworks(Callback):
    """Gathers the weights for a validation and frees them after it.

    A forward pass of a sharded network is a collective, and ranks may differ in their number of
    validation batches. There are neither gradients nor activations then to need the memory.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        gather_networks([pl_module])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        release_networks([pl_module])
