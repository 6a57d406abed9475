"""Keeps what libraries tell their developers away from a user's terminal."""

import logging
import os
import warnings

LOGGERS = {
    "lightning.pytorch.utilities.rank_zero": logging.WARNING,  # devices found, how a fit stopped
    "lightning.fabric.utilities.rank_zero": logging.WARNING,
    "lightning.fabric.utilities.distributed": logging.WARNING,  # a line a rank
    "anyscene.pipeline_inputs": logging.ERROR,  # ends of prompts; `generate` tells them beforehand
    "bitsandbytes.backends.cpu.ops": logging.ERROR,  # a kernel that it would like to download
}
"""From which level they are heard."""

HARMLESS_WARNINGS = (
    ".*treespec, LeafSpec",  # lightning with torch 2.13
    ".*does not have many workers",
    ".*srun",  # where Slurm's client is installed
    "Found .* in eval mode",  # the frozen base is meant to be
    "The `local_dir_use_symlinks` argument",  # diffusers with huggingface_hub 1.x
    "You have overridden `on_.*_batch_transfer`",  # the module's is meant
    "Detected call of `lr_scheduler.step",  # where fp16's first step is left out
)


def quiet_libraries() -> None:
    """Silence by name what is known to be harmless; call it before heavy imports.

    Other warnings of libraries stay, as do the bars of downloads.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # damaged images are told by us, once
    for name, level in LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger("transformers.utils.import_utils").addFilter(_not_about_torchvision)
    for message in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=message)

    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def _not_about_torchvision(record: logging.LogRecord) -> bool:
    return "requires torchvision" not in record.getMessage()
