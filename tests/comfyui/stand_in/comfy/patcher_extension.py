"""Wrappers of calls, a list under each key."""


def wrappers_of(kind, options):
    return [one for found in options.get("wrappers", {}).get(kind, {}).values() for one in found]


class WrapperExecutor:
    """Calls the wrappers of a function one inside of the other, and the function in the end."""

    def __init__(self, original, class_obj, wrappers):
        self.original, self.class_obj, self.wrappers = original, class_obj, list(wrappers)

    def execute(self, *args, **kwargs):
        if not self.wrappers:
            return self.original(*args, **kwargs)
        inner = WrapperExecutor(self.original, self.class_obj, self.wrappers[1:])
        return self.wrappers[0](inner, *args, **kwargs)

    __call__ = execute


def copied(options):
    kept = dict(options)
    for key, value in kept.items():
        if isinstance(value, dict):
            kept[key] = copied(value)
        elif isinstance(value, list):
            kept[key] = list(value)
    return kept
