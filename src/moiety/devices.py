"""Checks the device that a user names, before anything is loaded onto it."""

from __future__ import annotations


def device_named(name: str | None) -> str:
    """The name of a device that this machine has and that this build of PyTorch can use.

    Args:
        name: ``cpu``, ``cuda`` or ``cuda:1``; None: a GPU where there is one, else the CPU.

    Raises:
        ValueError: there is no such device. The text names the devices that can be used.

    Example:
        >>> device_named("cpu")
        'cpu'
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.device(name).type != "meta":
            torch.empty(1, device=name)
            return name
        reason = "it holds no numbers"
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:  # each backend raises its own
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    known = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    raise ValueError(f"device {name[:40]!r} cannot be used here ({reason}); this machine has {', '.join(known)}")
