"""What a training step costs, counted without weights, data or a GPU.

The step's networks are run on fake tensors, which have shapes and no values. Operations are counted
as `torch.utils.flop_counter` has them; memory as the bytes of all storages that live at one time,
which is what an allocator is asked for, without its fragments and CUDA's context (about 1 GB).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from torch._subclasses.fake_tensor import FakeTensorMode

from anyscene.config import Config, Strategy
from anyscene.counted_memory import LiveBytes
from anyscene.counted_step import Step, fake_step
from anyscene.data.sources import read_manifest
from anyscene.precision import COMPUTED_IN
from anyscene.sharded_cost import frozen_bytes, gathered_bytes, saved_bytes

GIB = 2**30
H100_FLOP_PER_SECOND = 989e12
"""Of dense bf16 matrix products, from NVIDIA's data sheet."""
DENSE_16_BIT = (
    ("H200", 989e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("L40S", 362e12),
    ("L40", 181e12),
)
"""As above, by part of a device's name; the first that fits. Lightning's table has these devices
not at all, with sparsity, or as others."""
GOOD_UTILISATION = 0.3


@dataclass(frozen=True)
class StepCost:
    """One optimizer step of one process: operations, and bytes."""

    micro_batch: int
    size: tuple[int, int]  # height and width of the images in pixels
    flop_per_image: float  # of UNet and FIM, forward and backward
    frozen: int
    trained: int
    gradients: int
    optimizer: int
    average: int
    peak: int  # all of these and the activations, at the worst moment of the step

    def lines(self) -> list[str]:
        """The cost in words."""
        height, width = self.size
        memory = ("frozen", "trained", "gradients", "optimizer", "average", "peak")
        return [
            f"{self.flop_per_image / 1e12:.2f} TFLOP an image of {height}x{width} (UNet and FIM)",
            f"GiB of memory a process at a micro-batch of {self.micro_batch}:",
            "  " + ", ".join(f"{name} {getattr(self, name) / GIB:.1f}" for name in memory),
        ]


def count_step(config: Config, size: tuple[int, int] | None = None) -> StepCost:
    """The cost of a step of the run that `config` describes, at images of `size` pixels.

    By default the base's own size. Reads the base's configurations, not its weights; and whether
    `data.train` has cached latents, if it is a folder that is here.
    Raises as `load_base`, `build_schedule` and `build_fim`.
    """
    train = config.train
    samples = config.data.batch_size // (train.devices * train.nodes * train.accumulate)
    with FakeTensorMode(allow_non_fake_inputs=True):
        step = fake_step(config, size, max(1, samples))
        memory = LiveBytes()
        frozen, trained = memory.add_all(step.frozen), memory.add_all(step.trained)
        with memory:
            step.settle()
            settled = memory.now
            memory.peak = 0
            step.run()
        flop = step.flop()
    average = trained if train.ema_decay > 0 and not train.ema_on_cpu else 0
    cost = StepCost(
        micro_batch=step.samples,
        size=step.size,
        flop_per_image=flop / step.samples,
        frozen=frozen,
        trained=trained,
        gradients=trained,
        optimizer=settled - frozen - 2 * trained,
        average=average,
        peak=memory.peak + average,
    )
    if train.strategy is Strategy.fsdp2:
        return sharded_cost(cost, step, train.devices * train.nodes)
    return cost


def sharded_cost(cost: StepCost, step: Step, ranks: int) -> StepCost:
    """The cost for each of `ranks` that share the weights of UNet and FIM, and all that is trained.

    Operations stay; the peak has what a rank gathers at one time.
    """
    shares = {name: getattr(cost, name) for name in ("trained", "gradients", "optimizer")}
    shares |= {"average": cost.average, "frozen": frozen_bytes(step.networks)}
    saved = {name: saved_bytes(held, ranks) for name, held in shares.items()}
    saved["peak"] = sum(saved.values()) - gathered_bytes(step.networks, step.dtype)
    return replace(cost, **{name: getattr(cost, name) - less for name, less in saved.items()})


def images_at_peak(config: Config) -> float | None:
    """Images of `data.train` a second at the peak rate of all devices, as their data sheet has it.

    None on CPUs and on devices whose data sheet is not known.
    """
    if not torch.cuda.is_available():
        return None
    rate = peak_rate(COMPUTED_IN[config.train.precision])
    if rate is None:
        return None
    flop = mean_flop(config, read_manifest(config.data.train).buckets)
    return rate * config.train.devices * config.train.nodes / flop


def peak_rate(dtype: torch.dtype) -> float | None:
    """Operations a second of the GPU's dense matrix products, by its data sheet, if known."""
    if dtype in (torch.bfloat16, torch.float16):
        device = torch.cuda.get_device_name()
        for name, rate in DENSE_16_BIT:
            if name in device:
                return rate
    return get_available_flops(torch.device("cuda"), dtype)


def mean_flop(config: Config, buckets: Mapping[str, int]) -> float:
    """Operations for an image, given a data set's numbers of images by size ("HxW").

    The commonest size is counted, the others by their area.
    """
    sizes = {tuple(map(int, name.split("x"))): number for name, number in buckets.items()}
    height, width = max(sizes, key=lambda size: sizes[size])
    area = sum(h * w * number for (h, w), number in sizes.items()) / sum(sizes.values())
    return count_flop(config, (height, width)) * area / (height * width)


def count_flop(config: Config, size: tuple[int, int]) -> float:
    """Operations of UNet and FIM for an image of `size` pixels, forward and backward."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return fake_step(config, size, 1).flop()


def plan_lines(config: Config, cost: StepCost) -> list[str]:
    """How long the run takes where 30 % of the devices' peak rate is reached, a good figure."""
    train = config.train
    devices = train.devices * train.nodes
    rate, name = H100_FLOP_PER_SECOND, "an H100"
    if torch.cuda.is_available():
        found = peak_rate(torch.bfloat16)
        rate, name = (found, "this device") if found else (rate, name)
    flop = cost.flop_per_image * train.steps * config.data.batch_size
    hours = flop / (GOOD_UTILISATION * rate * devices) / 3600
    return [
        f"{train.steps} steps of {config.data.batch_size} images on {devices} devices: "
        f"{hours:.1f} hours at 30 % of {name}'s {rate / 1e12:.0f} TFLOP/s (bf16), "
        "without the first stage, text and validation"
    ]
