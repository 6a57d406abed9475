"""The base of metrics that keep one value an image: means, bootstrap intervals, paired tests."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class GatheredMetric(Metric):
    """A metric that a rank without any image can take part in: its list states are flat.

    torchmetrics gathers an empty list as floats of `Metric.dtype`, which any `.to(device)` sets
    back to float32, and gloo then aborts the process.
    """

    full_state_update = False
    row_dtype: torch.dtype = torch.float64  # of the list states

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As torchmetrics', with empty lists of the right type."""
        for name, default in self._defaults.items():
            if isinstance(default, list) and not len(getattr(self, name)):
                setattr(self, name, [torch.empty(0, dtype=self.row_dtype, device=self.device)])
        super().sync(*args, **kwargs)


class PerImageMetric(GatheredMetric):
    """Keeps named values of every image in float64; an image without a value counts as NaN.

    Means over the kept values do not depend on batch size or on the split over ranks.
    """

    names: tuple[str, ...]  # the values of an image, in the order that `keep` takes them
    values: list[Tensor] | Tensor  # a tensor while it is gathered

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def keep(self, *columns: Tensor) -> None:
        """Add a batch: one tensor of B values for each of `names`."""
        if len(columns) != len(self.names):
            raise ValueError(f"{len(columns)} columns of values for the names {self.names}")
        table = torch.stack([column.to(self.device, torch.float64) for column in columns], dim=1)
        assert isinstance(self.values, list)
        self.values.append(table.flatten())

    def _table(self) -> Tensor:
        if isinstance(self.values, list) and not self.values:
            return torch.empty(0, len(self.names), dtype=torch.float64)
        return dim_zero_cat(self.values).reshape(-1, len(self.names))

    def compute(self) -> dict[str, Tensor]:
        """The mean of each value over the images that have it; without any such image, NaN."""
        return dict(zip(self.names, self._table().nanmean(dim=0), strict=True))

    def per_image(self) -> dict[str, Tensor]:
        """The values of all images of all ranks (N each), rank by rank. A collective."""
        with self.sync_context():
            table = self._table().clone()
        return dict(zip(self.names, table.T, strict=True))
