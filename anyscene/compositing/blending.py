"""Blending: the original detail of the foreground back into the generated scene, without seams.

All modes work on the original pixels, not on a VAE round trip, and feather the alpha inward only:
where alpha is 0 the generated scene stays as it is, bit for bit. `detail`, `laplacian` and
`poisson` compare the images in stops, the logarithm of linear light, because a change of light
multiplies: adding in sRGB crushes dark and washes out bright detail. They find what light the
generated element is in, so they need one in the place of the foreground. The formulas are our own
design after the cited sources; the AnyScene paper's blending formula is not public here.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

from anyscene.compositing.hint import erode, linear_to_srgb, srgb_to_linear
from anyscene.config import Blend
from anyscene.errors import InputError

OPAQUE = 0.95
"""Alpha from which a pixel counts as wholly foreground; mattes seldom reach 1 everywhere."""

LIGHT_FLOOR = 0.001
"""Linear light added to both sides of a ratio, so that black has one: a third of a grey level."""

LOW_PASS_SHARE = 1 / 32
"""Standard deviation of the widest low-pass filter, as a share of the short side."""

DECAY_SHARE = 1 / 4
"""Distance over which the membrane of `poisson` fades to 1/e, as a share of the short side."""

RIM_SHARE = 1 / 128
"""Standard deviation, at least a pixel, of the filter over the rim that `poisson` compares."""

MAX_LIGHT_STOPS = 2.0
"""Larger ratios are not taken for light but for a generated element of another shape or place."""

RESIDUAL_TOLERANCE = 1e-5
"""Largest residual of a solved membrane, in stops. Its values are then within 1e-3 stops, a
twentieth of a grey level, of a direct solution (measured at 420 x 512)."""

MAX_ITERATIONS = 500
"""Bound for the solver; 160 on the finest grid are usual at 512 pixels."""


def blend(
    generated: Tensor,
    foreground: Tensor,
    alpha: Tensor,
    mode: Blend,
    k: float = 1.0,
    feather: float = 1.5,
) -> Tensor:
    """The generated scene with the foreground blended in, B 3 H W in [0, 1], sRGB.

    `generated` and `foreground` (not premultiplied) are B 3 H W in [0, 1], `alpha` B 1 H W in
    [0, 1], all float32; colours under alpha 0 do not matter. `feather` is the width of
    the transition in pixels, `k` in [0, 1] the share of the foreground's own light in mode
    `detail`: 0 has the generated scene's low frequencies, 1 gives the foreground back, bit for bit,
    in `eroded_mask(alpha, ceil(feather))`. The other modes do not use `k`.
    Raises InputError for k or feather out of range, ValueError for other shapes.
    """
    _check(generated, foreground, alpha, k, feather)
    with torch.autocast(generated.device.type, enabled=False):  # that of a validation
        match mode:
            case Blend.none:
                return generated
            case Blend.alpha:
                inside = foreground
            case Blend.detail:
                inside = torch.lerp(relight(generated, foreground, alpha), foreground, k)
            case Blend.laplacian:
                inside = multiband(generated, foreground, alpha)
            case Blend.poisson:
                inside = heal(generated, foreground, alpha, feather)
        return torch.lerp(generated, inside, feathered(alpha, feather))


def eroded_mask(alpha: Tensor, radius: int) -> Tensor:
    """Pixels farther than `radius` from anything not OPAQUE: B 1 H W, bool.

    The image's own border erodes nothing.
    """
    return erode((alpha >= OPAQUE).float(), radius) > 0


def feathered(alpha: Tensor, feather: float) -> Tensor:
    """The foreground's weight, B 1 H W: alpha ramped up inward over `feather` pixels.

    The mean of alpha eroded by 0, 1, 2, ... pixels, the last with the fraction left: 0 where alpha
    is 0, exactly 1 in `eroded_mask(alpha, ceil(feather))`, and elsewhere never above alpha.
    """
    total, eroded = alpha, alpha
    for step in range(math.ceil(feather)):
        eroded = erode(eroded, 1)
        total = total + eroded * min(1.0, feather - step)
    core = eroded_mask(alpha, math.ceil(feather))
    return torch.where(core, torch.ones_like(alpha), total / (1 + feather))


def relight(generated: Tensor, foreground: Tensor, alpha: Tensor) -> Tensor:
    """The foreground's high frequencies on the generated low frequencies, B 3 H W in [0, 1].

    F low(G) / low(F) in linear light, low being a Gaussian of LOW_PASS_SHARE within the mask: the
    illumination is exchanged and the reflectance kept (the quotient image, Shashua & Riklin-Raviv
    2001, with the low frequencies taken for the light, Land & McCann 1971). The ratio is limited
    to MAX_LIGHT_STOPS.
    """
    sigma = LOW_PASS_SHARE * min(alpha.shape[-2:])
    return brighten(foreground, light_stops(generated, foreground, alpha, sigma))


def multiband(generated: Tensor, foreground: Tensor, alpha: Tensor) -> Tensor:
    """Each frequency band of the foreground faded in over its own wavelength, B 3 H W in [0, 1].

    After Burt & Adelson, "A multiresolution spline with application to image mosaics" (1983), with
    three changes: the bands are those of the light, in stops, and taken within the mask at full
    resolution; and each band's transition, as steep as theirs, lies inside the mask (the upper half
    of a transition twice as wide), so that the scene around it does not change.
    """
    weight = alpha
    light = light_stops(generated, foreground, alpha, sigma=0)
    taken_over = torch.zeros_like(foreground)
    for sigma in _octaves(LOW_PASS_SHARE * min(alpha.shape[-2:])):
        smoother = light_stops(generated, foreground, alpha, sigma)
        taken_over = taken_over + (1 - weight) * (light - smoother)
        light = smoother
        weight = (2 * gaussian(alpha, 2 * sigma, border="replicate") - 1).clamp(0, 1)
    return brighten(foreground, taken_over + (1 - weight) * light)


def heal(generated: Tensor, foreground: Tensor, alpha: Tensor, feather: float) -> Tensor:
    """The foreground's gradients with the generated light at its rim, B 3 H W in [0, 1].

    Perez, Gangnet & Blake, "Poisson image editing" (2003), section 2, in stops and written for the
    difference to the foreground, which is then a membrane spanned by the rim. The rim lies inside
    the mask: a cut-out has no pixels around it, and the generated element's rim, not the background
    behind it, says what light it is in.
    """
    short_side = min(alpha.shape[-2:])
    light = light_stops(generated, foreground, alpha, max(1.0, RIM_SHARE * short_side))
    inside = eroded_mask(alpha, max(1, math.ceil(feather)))
    return brighten(foreground, membrane(light, inside, alpha > 0, DECAY_SHARE * short_side))


def light_stops(generated: Tensor, foreground: Tensor, alpha: Tensor, sigma: float) -> Tensor:
    """How much lighter the generated scene is, in stops, B 3 H W; 0 where no mask is near.

    The ratio of Gaussian means of linear light within the mask, at most MAX_LIGHT_STOPS; at sigma 0
    the ratio of the pixels, without a limit. Means come before the ratio, because a generated
    element that lacks detail has the same mean light, but not the same mean of logarithms.
    """
    own, theirs = srgb_to_linear(foreground), srgb_to_linear(generated)
    if sigma > 0:
        own, theirs = masked_gaussian(own, alpha, sigma), masked_gaussian(theirs, alpha, sigma)
    stops = torch.log2((theirs + LIGHT_FLOOR) / (own + LIGHT_FLOOR))
    return stops.clamp(-MAX_LIGHT_STOPS, MAX_LIGHT_STOPS) if sigma > 0 else stops


def brighten(srgb: Tensor, stops: Tensor) -> Tensor:
    """sRGB values in [0, 1] with their linear light, above -LIGHT_FLOOR, times 2 ** stops."""
    linear = (srgb_to_linear(srgb) + LIGHT_FLOOR) * torch.exp2(stops) - LIGHT_FLOOR
    return linear_to_srgb(linear.clamp(0, 1)).clamp(0, 1)


def membrane(values: Tensor, inside: Tensor, known: Tensor, decay: float) -> Tensor:
    """`values` with the pixels `inside` replaced by the solution of laplace(d) = d / decay^2.

    The screened Poisson equation (Bhat et al., "Fourier analysis of the 2D screened Poisson
    equation for gradient domain problems", 2008) on the 5-point stencil, B C H W; the values next
    to `inside` are its boundary, the image's border is free (zero slope). Solved by conjugate
    gradients from the solution at half the resolution (cascadic multigrid, Bornemann & Deuflhard
    1996) until the residual is at most RESIDUAL_TOLERANCE.
    `inside` and `known` are B 1 H W, bool: what is sought, and where values mean something.
    """
    start = torch.zeros_like(values)
    size = values.shape[-2:]
    if min(size) > 16:
        boundary = (known & ~inside).to(values.dtype)
        share = avg_pool2d(boundary, 2, ceil_mode=True)
        coarse_values = avg_pool2d(values * boundary, 2, ceil_mode=True) / share.clamp(min=0.25)
        coarse_inside = avg_pool2d(inside.to(values.dtype), 2, ceil_mode=True) == 1
        coarse = membrane(coarse_values, coarse_inside, share > 0, decay / 2)
        start = interpolate(coarse, size=size, mode="bilinear")
    return _conjugate_gradients(torch.where(inside, start, values), inside, 1 / decay**2)


def masked_gaussian(image: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """The Gaussian-weighted mean over the mask alone, B C H W; 0 where no mask is near.

    Normalised convolution (Knutsson & Westin 1993): what is outside the mask does not leak in.
    `weight` is B 1 H W >= 0, `sigma` in pixels.
    """
    total = gaussian(weight, sigma)
    smooth = gaussian(torch.where(weight > 0, image, 0) * weight, sigma)
    return torch.where(total > 1e-6, smooth / total.clamp(min=1e-6), 0)


def gaussian(image: Tensor, sigma: float, border: str = "constant") -> Tensor:
    """B C H W blurred by a Gaussian of `sigma` pixels cut at 3 sigma; outside the image is 0.

    With border="replicate" the outside repeats the image's border.
    """
    radius = math.ceil(3 * sigma)
    steps = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    planes = pad(image, (radius,) * 4, mode=border).flatten(0, 1)[:, None]  # BC 1 H W
    rows = conv2d(conv2d(planes, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return rows.view_as(image)


def _octaves(largest: float) -> list[float]:
    """1, 2, 4, ... up to the largest, at least one."""
    return [2.0**power for power in range(max(1, int(math.log2(max(1, largest))) + 1))]


def _conjugate_gradients(start: Tensor, inside: Tensor, screen: float) -> Tensor:
    """The solution of laplace(d) = screen d on `inside`, d fixed elsewhere (Hestenes & Stiefel).

    Every plane is a system of its own and stops by itself, whatever its neighbours in the batch.
    """

    def operator(field: Tensor) -> Tensor:
        around = pad(field, (1, 1, 1, 1), mode="replicate")
        total = around[..., 1:-1, :-2] + around[..., 1:-1, 2:]
        total = total + around[..., :-2, 1:-1] + around[..., 2:, 1:-1]
        return torch.where(inside, (4 + screen) * field - total, 0)

    def inner(first: Tensor, second: Tensor) -> Tensor:
        return (first * second).sum(dim=(-2, -1), keepdim=True)  # B C 1 1

    solution = start
    residual = -operator(solution)
    direction = residual
    energy = inner(residual, residual)
    for iteration in range(MAX_ITERATIONS):
        running = residual.abs().amax(dim=(-2, -1), keepdim=True) > RESIDUAL_TOLERANCE
        if iteration % 8 == 0 and not running.any():
            break
        image = operator(direction)
        step = torch.where(running, energy / inner(direction, image), 0)
        solution = solution + step * direction
        residual = residual - step * image
        new_energy = inner(residual, residual)
        direction = residual + torch.where(running, new_energy / energy, 0) * direction
        energy = new_energy
    return solution


def _check(generated: Tensor, foreground: Tensor, alpha: Tensor, k: float, feather: float) -> None:
    batch, _, height, width = generated.shape
    if foreground.shape != generated.shape or alpha.shape != (batch, 1, height, width):
        raise ValueError(
            "generated and foreground must be B 3 H W and alpha B 1 H W, got "
            f"{tuple(generated.shape)}, {tuple(foreground.shape)}, {tuple(alpha.shape)}"
        )
    if not 0 <= k <= 1:
        raise InputError(f"blending k={k:g} must be between 0 (generated light) and 1 (own light)")
    if not 0 <= feather <= 64:
        raise InputError(f"blending feather={feather:g} must be between 0 and 64 pixels")
