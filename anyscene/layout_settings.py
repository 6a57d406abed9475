"""Strengths and spans of layout control: what a configuration, a command line and a manifest say.

No torch here. What the mechanisms do is in `models.layout_control` and `models.layout_attention`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from anyscene.errors import InputError, nearest

MECHANISMS = ("attention", "residual_gate", "known_latent")
STRONGEST = {"attention": 50.0, "residual_gate": 1.0, "known_latent": 1.0}
OFF = "off"


@dataclass
class LayoutControl:
    """Layout control while sampling; with all strengths 0, the default, exactly the plain model.

    A mechanism acts in the steps that lie wholly between `_start` and `_end`, shares of all steps.
    """

    attention: float = 0.0
    """How far background queries are kept off foreground keys in the UNet's self-attention:
    e^-attention of the weight is left. 0: off. [0, 50]."""
    attention_start: float = 0.0
    """Share of the steps after which it begins. [0, 1]."""
    attention_end: float = 0.4
    """Share of the steps after which it ends. [0, 1]."""
    residual_gate: float = 0.0
    """Share of the FIM's residuals that is taken away where no foreground is. 0: off. [0, 1]."""
    residual_gate_start: float = 0.0
    """Share of the steps after which it begins. [0, 1]."""
    residual_gate_end: float = 1.0
    """Share of the steps after which it ends. [0, 1]."""
    known_latent: float = 0.0
    """How far latents wholly inside the mask are drawn to the foreground's own, noised to the
    step. 1: replaced by them. 0: off. [0, 1]."""
    known_latent_start: float = 0.0
    """Share of the steps after which it begins. [0, 1]."""
    known_latent_end: float = 0.8
    """Share of the steps after which it ends; in the last steps the model may harmonise. [0, 1]."""

    def strength(self, mechanism: str) -> float:
        """Of one of MECHANISMS."""
        return getattr(self, mechanism)

    def span(self, mechanism: str) -> tuple[float, float]:
        """Shares of the steps between which one of MECHANISMS acts."""
        return getattr(self, f"{mechanism}_start"), getattr(self, f"{mechanism}_end")

    def active(self) -> list[str]:
        """Mechanisms whose strength is not 0."""
        return [name for name in MECHANISMS if self.strength(name) != 0]


def acts(span: tuple[float, float], step: int, steps: int) -> bool:
    """Whether step 0, 1, ... of `steps` lies in a span, as diffusers' control guidance has it."""
    return step / steps >= span[0] and (step + 1) / steps <= span[1]


def layout_mistake(layout: LayoutControl) -> tuple[str, str] | None:
    """The first value that is out of range: its name, and `=VALUE` with what it must be."""
    for name in MECHANISMS:
        strength, (start, end) = layout.strength(name), layout.span(name)
        if not 0 <= strength <= STRONGEST[name]:
            return name, f"={strength:g} must be between 0 (off) and {STRONGEST[name]:g}"
        for edge, value in (("start", start), ("end", end)):
            if not 0 <= value <= 1:
                return f"{name}_{edge}", f"={value:g} must be between 0 and 1, a share of the steps"
        if strength and start >= end:
            return f"{name}_end", f"={end:g} must be greater than {name}_start={start:g}"
    return None


def check_layout(layout: LayoutControl) -> None:
    """Raises `InputError` for the first value that is out of range."""
    mistake = layout_mistake(layout)
    if mistake is not None:
        raise InputError(f"layout: {''.join(mistake)}")


def parse_layout(words: Sequence[str], default: LayoutControl) -> LayoutControl:
    """`default` with NAME=VALUE changes, such as `attention=4`; the word `off` begins with none.

    Raises:
        InputError: another form, an unknown name or a value out of range.
    """
    names = [field.name for field in fields(LayoutControl)]
    layout = default
    for word in words:
        if word == OFF:
            layout = LayoutControl()
            continue
        name, equals, text = word.partition("=")
        if name not in names:
            raise InputError(f"--layout {word!r}: no such name{nearest(name, names)}")
        try:
            layout = replace(layout, **{name: float(text)})
        except ValueError:
            wanted = "must be NAME=NUMBER" if not equals else f"{text!r} is no number"
            raise InputError(f"--layout {word!r}: {wanted}, such as attention=4") from None
    check_layout(layout)
    return layout


def layout_record(layout: LayoutControl) -> dict[str, float] | None:
    """Strength and span of the mechanisms that act, for a manifest; None: none does."""
    record = {}
    for name in layout.active():
        start, end = layout.span(name)
        record |= {
            name: float(layout.strength(name)),
            f"{name}_start": float(start),
            f"{name}_end": float(end),
        }
    return record or None


def layout_of(record: Mapping[str, float] | None) -> LayoutControl:
    """The layout control that `layout_record` wrote. Raises `InputError` for another record."""
    if record is None:
        return LayoutControl()
    active = [name for name in MECHANISMS if name in record]
    keys = {f"{name}{end}" for name in active for end in ("", "_start", "_end")}
    if keys != set(record):
        raise InputError(f"layout {dict(record)} was written by another version of this software")
    return LayoutControl(**record)
