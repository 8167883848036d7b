"""Stand-ins for caches that other packages put into denoisers, and for patches that keep nothing.

They have the structure of what people use: forward functions of instances or of classes, replaced.
"""

from contextlib import contextmanager


class DeepCacheLike:
    """`forward` of the inner blocks, replaced: outputs are stored, and given back in between.

    The structure of DeepCache's DeepCacheSDHelper: the step is read off the scheduler in the
    denoiser's own forward function, all states are in this object, and pipeline and functions too.
    """

    def __init__(self, pipe, interval=2):
        self.pipe, self.interval = pipe, interval
        self.function_dict, self.cached_output = {}, {}
        self.cur_timestep, self.start_timestep = 0, None

    def enable(self):
        unet = self.pipe.unet
        self._wrap_unet(unet)
        for path, blocks in (("down", unet.down_blocks), ("up", unet.up_blocks)):
            for i, block in enumerate(blocks):
                for kind in ("attentions", "resnets"):
                    for j, module in enumerate(getattr(block, kind, ())):
                        self._wrap(module, (path, kind, i, j), skips=(i, j) > (0, 0))
                self._wrap(block, (path, "block", i, 0), skips=False)
        self._wrap(unet.mid_block, ("mid", "mid_block", 0, 0), skips=True)

    def disable(self):
        for module, forward in self.function_dict.values():
            module.forward = forward
        self.function_dict, self.cached_output = {}, {}

    def _wrap_unet(self, unet):
        forward = unet.forward
        self.function_dict["unet"] = unet, forward

        def wrapped_forward(*args, **kwargs):
            timesteps = list(self.pipe.scheduler.timesteps)
            self.cur_timestep = timesteps.index(args[1].item())
            if self.start_timestep is None:
                self.start_timestep = self.cur_timestep
            return forward(*args, **kwargs)

        unet.forward = wrapped_forward

    def _wrap(self, module, key, skips):
        forward = module.forward
        self.function_dict[key] = module, forward

        def wrapped_forward(*args, **kwargs):
            passed = self.cur_timestep - self.start_timestep
            if skips and passed % self.interval:
                return self.cached_output[key]
            result = self.cached_output[key] = forward(*args, **kwargs)
            return result

        module.forward = wrapped_forward


@contextmanager
def deep_cache(pipe, interval=2):
    helper = DeepCacheLike(pipe, interval)
    helper.enable()
    try:
        yield helper
    finally:
        helper.disable()


@contextmanager
def tea_cache_of_class(denoiser):
    """The class's forward function, replaced: the first and the last input of blocks are kept.

    The structure of TeaCache's scripts: state is in attributes of the denoiser, and the residual of
    the blocks is added again while what enters them changes little.
    """
    cls = type(denoiser)
    forward = cls.forward
    blocks = type(denoiser.transformer_blocks[0])
    block_forward = blocks.forward

    def teacache_forward(self, hidden_states, *args, **kwargs):
        self.cnt += 1
        return forward(self, hidden_states, *args, **kwargs)

    def block_of(self, hidden_states, encoder_hidden_states, *args, **kwargs):
        if self is not denoiser.transformer_blocks[-1]:
            return block_forward(self, hidden_states, encoder_hidden_states, *args, **kwargs)
        if denoiser.cnt % 2 == 0:
            text, image = denoiser.previous_residual
            return encoder_hidden_states + text, hidden_states + image
        text, image = block_forward(self, hidden_states, encoder_hidden_states, *args, **kwargs)
        denoiser.previous_residual = text - encoder_hidden_states, image - hidden_states
        return text, image

    denoiser.cnt = 0
    cls.forward, blocks.forward = teacache_forward, block_of
    try:
        yield
    finally:
        cls.forward, blocks.forward = forward, block_forward
        vars(denoiser).pop("cnt")
        vars(denoiser).pop("previous_residual", None)


@contextmanager
def replaced(module, forward):
    """`forward(original, *args, **kwargs)` in place of a module's own forward function."""
    original = module.forward
    before = vars(module).get("forward")
    module.forward = lambda *args, **kwargs: forward(original, *args, **kwargs)
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
