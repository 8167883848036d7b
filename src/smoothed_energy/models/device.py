"""Devices by name, if they are here."""

from __future__ import annotations

__all__ = ["check_device"]


def check_device(name: str, setting: str = "--device ") -> None:
    """Refuse a device that is not here, or can't compute.

    Args:
        name: The device, as torch names it.
        setting: How an error names the setting.

    Raises:
        ValueError: If it is one; the message names those that are.
    """
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            device = torch.device(name)
            if device.type == "cpu" and device.index:
                raise ValueError
            torch.zeros(1, device=device).tolist()  # on a device without memory there is no value
    except Exception as error:  # of many kinds: backends that are not built in, or not at all
        here = ["cpu"]
        here += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(
            f"{setting}{name} is not here; expected one of {', '.join(here)}"
        ) from error
