"""Guidance without training, as nodes of ComfyUI."""

from .extension import comfy_entrypoint

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

#: Where ComfyUI finds the help of the nodes: `docs` in here, a page for each.
WEB_DIRECTORY = "./web"
