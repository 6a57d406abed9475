"""What is trained of a base to learn a subject, and how: the papers' settings. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum

from anyscene.errors import InputError, nearest


class Kind(Enum):
    """What is trained of the base."""

    dreambooth = "dreambooth"
    custom_diffusion = "custom_diffusion"


@dataclass(frozen=True)
class Settings:
    """How a subject is learnt."""

    steps: int  # optimizer steps a subject
    learning_rate: float
    batch: int  # photos a step, and as many class images
    prior_images: int  # that the base makes of each class; 0: no prior preservation
    prior_weight: float = 1.0  # lambda of `LossConfig.prior_weight`
    seed: int = 0


DEFAULTS = {
    Kind.dreambooth: Settings(steps=1000, learning_rate=5e-6, batch=1, prior_images=1000),
    Kind.custom_diffusion: Settings(steps=250, learning_rate=8e-5, batch=8, prior_images=200),
}
"""The papers' own: Ruiz et al. 2023 (section 4 and supplement: about 1000 iterations, 5e-6 for
Stable Diffusion, lambda 1, about 1000 class images), Kumari et al. 2023 (section 4: 250 steps a
concept, batch 8, 8e-5, which is 1e-5 times the batch, 200 images)."""


def parse_settings(kind: Kind, changes: Sequence[str]) -> Settings:
    """The defaults with `KEY=VALUE` changes. Raises `InputError` for what cannot be used."""
    settings = DEFAULTS[kind]
    kinds = {field.name: field.type for field in fields(Settings)}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or key not in kinds:
            raise InputError(
                f"--fine-tune {change!r} must be KEY=VALUE, KEY one of {', '.join(kinds)}"
                f"{nearest(key, kinds)}"
            )
        try:
            value = float(text) if kinds[key] is float else int(text)
        except ValueError:
            wanted = "a number" if kinds[key] is float else "a whole number"
            raise InputError(f"--fine-tune {change!r}: {key} must be {wanted}") from None
        settings = replace(settings, **{key: value})
    for key in ("steps", "learning_rate", "batch"):
        if not 0 < getattr(settings, key) < float("inf"):
            raise InputError(f"--fine-tune {key}={getattr(settings, key)} must be greater than 0")
    for key in ("prior_images", "prior_weight", "seed"):
        if not 0 <= getattr(settings, key) < float("inf"):
            raise InputError(f"--fine-tune {key}={getattr(settings, key)} must not be negative")
    return settings
