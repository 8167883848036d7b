"""A module's own forward pre-hooks, in calls that are made below them."""

from __future__ import annotations

__all__ = ["show_to_pre_hooks"]

from torch import nn

from .module_call import ModuleCall


def show_to_pre_hooks(module: nn.Module, call: ModuleCall) -> None:
    """Show a call of other rows, or other latents, to the forward pre-hooks of a module.

    The call is made of what they returned for the whole batch: what they would change is changed in
    it, so what they return now is ignored. But what they note (ToMe: the size of the latents) must
    be of this call.
    """
    # What Module.compile() made of the module runs the hooks itself.
    if not module._forward_pre_hooks or vars(module).get("_compiled_call_impl") is not None:
        return
    for key, hook in list(module._forward_pre_hooks.items()):
        if key in module._forward_pre_hooks_with_kwargs:
            hook(module, call.args, call.kwargs)
        else:
            hook(module, call.args)
