"""The fields of frozen dataclasses, converted once, when an instance is made."""

from __future__ import annotations

__all__ = ["set_field"]


def set_field(instance: object, name: str, value: object) -> None:
    """Set a field of a frozen dataclass, for its `__post_init__` or `__init__` alone.

    One line tells a conversion: `set_field(self, "sigma", check_number("sigma", self.sigma))`.

    Args:
        instance: The instance that is being made.
        name: The field's name.
        value: What the field holds from now on.

    Raises:
        AttributeError: If the class has no such field.
    """
    if name not in getattr(type(instance), "__dataclass_fields__", ()):
        raise AttributeError(f"{type(instance).__name__} has no field {name!r}")
    object.__setattr__(instance, name, value)
