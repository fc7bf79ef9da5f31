# SPDX-License-Identifier: Apache-2.0
"""A pretended device that has no float64, as Apple's GPUs (mps) have none; its tensors are on the CPU.

Inside `NarrowDevice()` tensors can be made on `DEVICE` and moved there. Operations run on the CPU, and what
such a device cannot do raises an error: float64, tensors of two devices in one operation, NumPy without a
copy. Which operations Apple's or Intel's GPUs implement is not known here.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("mps", 0)
CPU = torch.device("cpu")
MOVES = ("aten._to_copy.default", "aten.copy_.default")
INDEXED = (
    "aten.index.Tensor",
    "aten.index_put_.default",
    "aten.index_put.default",
)  # indices may be elsewhere


class NarrowTensor(torch.Tensor):
    """A tensor on `DEVICE`. For torch's own code in C++ it is on the meta device, as those of FakeTensor."""

    @staticmethod
    def __new__(cls, here):
        if here.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"Cannot convert to {here.dtype}: {DEVICE} has no float64")
        return torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), dtype=here.dtype, device="meta"
        )

    def __init__(self, here):
        self.here = here

    device = property(lambda self: DEVICE)
    is_meta = property(lambda self: False)

    def __repr__(self):
        return f"NarrowTensor({self.here})"

    def tolist(self):
        return self.here.tolist()

    def numpy(self, **options):
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy; use Tensor.cpu()")

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def run(function, args, kwargs):
    name, device = str(function), kwargs.get("device")
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    is_narrow = any(isinstance(tensor, NarrowTensor) for tensor in given)
    if is_narrow and name not in (*MOVES, *INDEXED):
        if any(tensor.ndim for tensor in given if not isinstance(tensor, NarrowTensor)):
            raise RuntimeError(f"{name}: all tensors must be on one device, found {DEVICE} and cpu")
    if device is not None:
        is_narrow = torch.device(device).type in (DEVICE.type, "meta")
        kwargs = {**kwargs, "device": CPU}
    plain = tree_map(lambda x: x.here if isinstance(x, NarrowTensor) else x, (args, kwargs))
    result = function(*plain[0], **plain[1])
    if function._schema.is_mutable:  # in place
        return kwargs.get("out", args[0])
    return tree_map(lambda x: NarrowTensor(x) if is_narrow and isinstance(x, torch.Tensor) else x, result)


class NarrowDevice(TorchDispatchMode):
    """A context in which tensors can be made on `DEVICE` and moved there."""

    def __enter__(self):
        self.constructor = FromNumbers()
        self.constructor.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.constructor.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


class FromNumbers(TorchFunctionMode):
    """`torch.tensor` of numbers makes its result before anything is dispatched."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.tensor and torch.device(kwargs.get("device") or CPU).type == DEVICE.type:
            return function(*args, **{**kwargs, "device": CPU}).to(DEVICE)
        return function(*args, **kwargs)
