"""Where a command computes."""

import torch

from anyscene.errors import InputError


def choose_device(name: str) -> str:
    """`cpu` or `cuda` for `auto`, `cpu` or `cuda`. Raises `InputError` where there is no such."""
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise InputError("--device cuda: there is no GPU that torch can use here; use --device cpu")
    return ("cuda" if has_cuda else "cpu") if name == "auto" else name
