"""Choosing the device by name."""

import torch

from diffpolicy.training.errors import DeviceError


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" is the first CUDA device where there is one, else the CPU.

    Raises `DeviceError` for an unknown name or a device this machine or this build of torch does not have.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise DeviceError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        cause = (
            "this torch is a CPU build" if torch.version.cuda is None else "no usable GPU or driver was found"
        )
        raise DeviceError(f"device {name!r} was asked for but {cause}; use device=cpu or device=auto")
    count = torch.cuda.device_count()
    index = device.index or 0
    if index >= count:
        raise DeviceError(f"device {name!r} does not exist; this machine has cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", index)
