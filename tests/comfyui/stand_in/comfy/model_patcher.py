"""What nodes hand on as MODEL."""

import copy


class ModelPatcher:
    def __init__(self, model, load_device=None, offload_device=None):
        self.model = model
        self.model_options = {"transformer_options": {}}
        self.wrappers = {}
        self.object_patches = {}

    def clone(self):
        other = ModelPatcher(self.model)
        other.model_options = copy.deepcopy(self.model_options)
        other.wrappers = {
            kind: {key: list(found) for key, found in of_kind.items()}
            for kind, of_kind in self.wrappers.items()
        }
        other.object_patches = dict(self.object_patches)
        return other

    def get_model_object(self, name):
        return self.object_patches.get(name, getattr(self.model, name))

    def set_model_sampler_calc_cond_batch_function(self, function):
        self.model_options["sampler_calc_cond_batch_function"] = function

    def set_model_sampler_cfg_function(self, function):
        self.model_options["sampler_cfg_function"] = function

    def set_model_sampler_post_cfg_function(self, function):
        before = self.model_options.get("sampler_post_cfg_function", [])
        self.model_options["sampler_post_cfg_function"] = [*before, function]

    def set_model_unet_function_wrapper(self, function):
        self.model_options["model_function_wrapper"] = function

    def set_model_attn1_replace(self, patch, block, number, transformer_index=None):
        key = (block, number) if transformer_index is None else (block, number, transformer_index)
        replace = self.model_options["transformer_options"].setdefault("patches_replace", {})
        replace.setdefault("attn1", {})[key] = patch

    def add_wrapper_with_key(self, kind, key, wrapper):
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)
