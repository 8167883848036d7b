"""A stand-in for ComfyUI: the documented interfaces that guidance uses, written for the tests.

None of it is ComfyUI's code, and it does much less. With COMFYUI_PATH set, the tests run on a real
checkout in its place.
"""
