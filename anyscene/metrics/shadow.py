"""Does a scene's light agree with its elements? Correlation of darkening with the true shadow."""

import torch
from torch import Tensor

from anyscene.errors import InputError
from anyscene.metrics.fidelity import dilate, pixels_at
from anyscene.metrics.per_image import PerImageMetric
from anyscene.metrics.truth import Truth, decode_map

SURROUNDINGS = 5  # px at the reference side of 64: how far the ground beside a shadow counts
ELEMENT_MARGIN = 1  # px at the reference side: antialiased edges of elements count as elements
LEAST_CORE, LEAST_LIT = 6, 10  # px at the reference side that a measurable scene has at least
LUMA_FLOOR = 0.02  # darker is taken for this: the logarithm of black has no end


def darkening(image: Tensor) -> Tensor:
    """-log(luma) B 1 H W float64 of an image B 3 H W in [0, 1], luma by Rec. 601, at least 0.02.

    A shadow that takes the share f of the light adds -log(1 - f) to it, on any ground.
    """
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64, device=image.device)
    luma = torch.einsum("bchw,c->bhw", image.double(), weights)[:, None]
    return -luma.clamp(LUMA_FLOOR, 1).log()


def shadow_region(shadow: Tensor, alpha: Tensor) -> Tensor:
    """Bool B 1 H W: where darkening is compared; empty where a scene has no measurable shadow.

    The cast shadow and the ground within 5 px of it, without the elements and 1 px around them,
    in the rows that the shadow reaches (above and below is other ground, or none). A scene is
    measurable if 6 px of core shadow and 10 px without shadow are left; pixels as of a 64 px scene.
    shadow: B 1 H W, any scale. alpha: B 1 H W in [0, 1].
    """
    side = min(shadow.shape[-2:])
    elements = dilate(alpha > 0.02, pixels_at(side, ELEMENT_MARGIN))
    free = shadow * (alpha < 0.02)
    relative = free / free.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
    rows = (relative > 0.3).any(dim=3, keepdim=True)  # B 1 H 1
    reached = rows.cummax(dim=2).values & rows.flip(2).cummax(dim=2).values.flip(2)
    near = dilate(relative > 0.1, pixels_at(side, SURROUNDINGS))
    region = near & reached & ~elements
    scale = (side / 64) ** 2
    core = (region & (relative > 0.6)).sum(dim=(1, 2, 3)) >= LEAST_CORE * scale
    lit = (region & (relative < 0.04)).sum(dim=(1, 2, 3)) >= LEAST_LIT * scale
    return region & (core & lit)[:, None, None, None]


def masked_correlation(first: Tensor, second: Tensor, region: Tensor) -> Tensor:
    """Pearson's correlation of two maps B 1 H W within a bool region B 1 H W; B values float64.

    NaN for an empty region; 0 if one of the maps is constant in it.
    """
    weight = region.double()
    count = weight.sum(dim=(1, 2, 3), keepdim=True)

    def centred(values: Tensor) -> Tensor:
        mean = (values.double() * weight).sum(dim=(1, 2, 3), keepdim=True) / count
        return (values.double() - mean) * weight

    first, second = centred(first), centred(second)
    covariance = (first * second).sum(dim=(1, 2, 3))
    deviations = (first.square().sum(dim=(1, 2, 3)) * second.square().sum(dim=(1, 2, 3))).sqrt()
    correlation = covariance / deviations.clamp_min(1e-9)
    return torch.where(count.flatten() > 0, correlation, torch.nan)


def without_trend(values: Tensor, region: Tensor) -> Tensor:
    """A map B 1 H W less its smooth trend within a bool region B 1 H W; float64, 0 outside.

    The trend is the least-squares fit of 1, x, x^2 and y: ground is brighter on the side of a light
    (under it, if it stands above), and with the distance. It would pass for shadow or hide it.
    """
    height, width = values.shape[-2:]
    options = {"dtype": torch.float64, "device": values.device}
    y = torch.linspace(-1, 1, height, **options)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width, **options).expand(height, width)
    basis = torch.stack([torch.ones_like(x), x, x.square(), y]).flatten(1)  # 4 HW
    weighted = basis * region.flatten(1)[:, None]  # B 4 HW
    inverse = torch.linalg.pinv(weighted @ basis.T, hermitian=True)  # B 4 4
    factors = inverse @ (weighted @ values.double().flatten(1)[..., None])  # B 4 1
    trend = (basis.T @ factors).reshape(values.shape)
    return (values.double() - trend) * region


class ShadowCorrelation(PerImageMetric):
    """Pearson's correlation, per scene, between darkening -log(luma) and the true cast shadow.

    Both maps are taken less their smooth trend (`without_trend`; a partial correlation), within a
    region around shadows (`shadow_region`). `shadow_correlation`: the region of the true shadow.
    `shadow_factual` and `shadow_swapped`: the true shadow and the one of the mirrored light, both
    in the region of the two together, so that they can be compared; only for light from a side.
    `shadow_skipped`: the share of scenes with a truth whose shadow cannot be measured; they count
    in no mean.
    """

    names = ("shadow_correlation", "shadow_factual", "shadow_swapped", "shadow_skipped")

    def update(self, image: Tensor, alpha: Tensor, truths: list[Truth | None]) -> None:
        """image: B 3 H W in [0, 1]. alpha: B 1 H W. Scenes without truth count in nothing.

        Raises `InputError` if a shadow map has another size than the image.
        """
        blank = torch.zeros(image.shape[-2:])
        true = torch.stack([_map(truth, "shadow", blank) for truth in truths])
        swapped = torch.stack([_map(truth, "shadow_swapped", blank) for truth in truths])
        true, swapped = true[:, None].to(image.device), swapped[:, None].to(image.device)
        dark = darkening(image)
        region = shadow_region(true, alpha)
        from_side = (true != swapped).any(dim=3, keepdim=True).any(dim=2, keepdim=True)
        both = shadow_region(torch.maximum(true, swapped), alpha) & from_side
        both &= region.any(dim=3, keepdim=True).any(dim=2, keepdim=True)
        known = torch.tensor([truth is not None for truth in truths], device=image.device)
        skipped = torch.where(known, (~region.flatten(1).any(dim=1)).double(), torch.nan)
        self.keep(
            _correlation_without_trend(dark, true, region),
            _correlation_without_trend(dark, true, both),
            _correlation_without_trend(dark, swapped, both),
            skipped,
        )


def _correlation_without_trend(first: Tensor, second: Tensor, region: Tensor) -> Tensor:
    first, second = without_trend(first, region), without_trend(second, region)
    return masked_correlation(first, second, region)


def _map(truth: Truth | None, name: str, blank: Tensor) -> Tensor:
    """One shadow map H W of a scene, or `blank` for a scene without truth."""
    if truth is None:
        return blank
    values = decode_map(truth[name])
    if values.shape != blank.shape:
        raise InputError(
            f"the truth map {name!r} is {values.shape[0]}x{values.shape[1]} and its scene "
            f"{blank.shape[0]}x{blank.shape[1]}; prepare the data at the size it is used at"
        )
    return values
