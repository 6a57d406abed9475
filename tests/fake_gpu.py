"""A GPU that computes no values, where there is none: torch's fake tensors on `cuda:0`.

They know device, dtype and shape as those of a real GPU do, under autocast too, and refuse to mix
devices or to be read by the host. A build of torch without CUDA lacks only a guard, which is
compiled here. Once loaded it stays: `on_a_fake_gpu` does so in a process of its own.
"""

import ctypes
import multiprocessing
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda:0")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, NoOpDeviceGuardImpl<DeviceType::CUDA>)
}
"""


def compiled_guard(folder: Path) -> Path:
    """A library with what indexing and `to` ask of a device, doing nothing."""
    torch_folder = Path(torch.__file__).parent
    source, library = folder / "guard.cpp", folder / "guard.so"
    source.write_text(GUARD)
    options = ["-std=c++20", "-shared", "-fPIC", f"-I{torch_folder}/include"]
    linked = [f"-L{torch_folder}/lib", "-lc10"]
    subprocess.run(["g++", *options, source, "-o", library, *linked], check=True)
    return library


def on_a_fake_gpu(guard: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns in a fork of this process, where the guard is loaded."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_call, args=(sender, guard, function, arguments), daemon=True)
    child.start()
    sender.close()
    try:
        done, result = receiver.recv()
    finally:
        child.kill()
        child.join()
    assert done, result
    return result


def _call(sender: Connection, guard: Path, function: Callable, arguments: tuple) -> None:
    try:
        ctypes.CDLL(str(guard), ctypes.RTLD_GLOBAL)
        sender.send((True, function(*arguments)))
    except Exception:
        sender.send((False, traceback.format_exc()))


class Waits(TorchDispatchMode):
    """Notes where the host waits for the GPU: a copy between them that is not `non_blocking`."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in COPIES and not (kwargs or {}).get("non_blocking"):
            tensors = [own for own in tree_leaves((args, result)) if isinstance(own, Tensor)]
            if len({tensor.device.type for tensor in tensors}) > 1:
                ours = [f for f in traceback.extract_stack() if "/anyscene/" in f.filename]
                self.places.append(f"{Path(ours[-1].filename).name}: {ours[-1].line}")
        return result


@contextmanager
def fake_gpu() -> Iterator[FakeTensorMode]:
    """While it is open, `cuda:0` is there for fake tensors, and autocast believes in it."""
    with (
        patch("torch.cuda.is_available", return_value=True),
        patch("torch.cuda.is_bf16_supported", return_value=True),
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
    ):
        yield mode


def move(modules: list[nn.Module], mode: FakeTensorMode) -> None:
    """Weights and buffers to the fake GPU, in their dtype."""
    moved: dict[int, Tensor] = {}  # one that several modules share stays one

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in moved:
            moved[id(tensor)] = mode.from_tensor(tensor.detach()).to(GPU)
        return moved[id(tensor)]

    for module in (own for root in modules for own in root.modules()):
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(fake(weight), weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fake(buffer)
