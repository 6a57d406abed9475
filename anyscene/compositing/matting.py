"""Background removal: photos of elements without alpha become cut-outs.

By rembg (extra `matting`), or by any function of an RGB image that returns it as RGBA.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anyscene.errors import InputError, nearest

Matting = Callable[[Image.Image], Image.Image]
"""An RGB image to RGBA of the same size, alpha 255 on the element."""

LICENCES = {
    "isnet-general-use": "Apache-2.0",
    "u2net": "Apache-2.0",
    "u2netp": "Apache-2.0",
    "silueta": "Apache-2.0",
    "birefnet-general": "MIT",
    "birefnet-general-lite": "MIT",
    "bria-rmbg": "CC BY-NC 4.0, not for commercial use",
}
"""Models of rembg whose licences are known here; its documentation names the others'."""

LOCAL_KINDS = {"u2net": "u2net_custom", "dis": "dis_custom"}
"""Architectures of a local ONNX file: U2-Net's preprocessing, or that of IS-Net (DIS)."""

LEAST_ALPHA = 128  # that a cut-out must reach somewhere
VISIBLE_ALPHA = 16  # from which a pixel belongs to the element when it is cropped


def load_matting(name: str) -> Matting:
    """rembg's background removal with one of its models, or a local ONNX file.

    Args:
        name: such as `isnet-general-use`, which rembg downloads on first use, or `FILE.onnx` or
            `u2net:FILE.onnx` or `dis:FILE.onnx`.

    Raises:
        InputError: rembg is not installed, or the model cannot be had.
    """
    try:
        from rembg import remove
        from rembg.sessions import sessions_names
    except ImportError:
        raise InputError(
            "background removal needs rembg: pip install 'anyscene[matting]', or give elements "
            "with an alpha channel"
        ) from None
    session = _local_session(name) if name.endswith(".onnx") else _named_session(name)
    if session is None:
        raise InputError(f"--matting {name!r} is no model of rembg{nearest(name, sessions_names)}")

    def matting(image: Image.Image) -> Image.Image:
        alpha: Any = remove(image.convert("RGB"), session=session, only_mask=True)
        cut = image.convert("RGB")  # rembg's own cut-out darkens colours by their alpha
        cut.putalpha(alpha.convert("L"))
        return cut

    return matting


def _named_session(name: str) -> Any:
    """rembg's session of a model of its own; None for another name."""
    from rembg import new_session
    from rembg.sessions import sessions_names

    if name not in sessions_names or name in LOCAL_KINDS.values():
        return None
    licence = LICENCES.get(name, "see rembg's documentation")
    print(f"background removal: rembg's {name} (licence of its weights: {licence})")
    try:
        return new_session(name)
    except Exception as error:  # of the network, of pooch, of onnxruntime: any that it meets
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"--matting {name}: rembg could not load it ({reason}); it downloads models on first "
            "use, so get the ONNX file where there is a network and give --matting u2net:FILE.onnx"
        ) from None


def _local_session(name: str) -> Any:
    """A session of a local file, which rembg itself takes from its own folder alone."""
    import onnxruntime
    from rembg.sessions import sessions_class

    kind, _, path = name.rpartition(":")
    if kind not in ("", *LOCAL_KINDS):
        raise InputError(f"--matting {name!r}: {kind!r} must be one of {', '.join(LOCAL_KINDS)}")
    if not Path(path).is_file():
        raise InputError(f"--matting {name}: no file {path}")
    wanted = LOCAL_KINDS[kind or "u2net"]
    parent: Any = next(one for one in sessions_class if one.name() == wanted)
    found = classmethod(lambda _cls, *_args, **_kwargs: path)
    local = type("LocalSession", (parent,), {"download_models": found})
    try:
        return local(wanted, onnxruntime.SessionOptions(), model_path=path)
    except Exception as error:  # onnxruntime raises classes of its own
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"--matting {name} could not be loaded ({reason})") from None


def cut_out(image: Image.Image, matting: Matting, name: str) -> Image.Image:
    """The element of a photo, RGBA, cropped to what is visible of it.

    Raises `InputError`, with the photo's `name`, where nothing or another size is returned.
    """
    cut = matting(image.convert("RGB"))
    if cut.mode != "RGBA" or cut.size != image.size:
        raise InputError(f"background removal of {name} returned {cut.mode} of {cut.size}")
    alpha = np.array(cut.getchannel("A"))
    if alpha.max() < LEAST_ALPHA:
        raise InputError(f"background removal found no element in {name}: cut it out by hand")
    return cut.crop(Image.fromarray(alpha >= VISIBLE_ALPHA).getbbox())
