"""The family of Cosmos 3, a language model whose last tokens are of a video, sound and actions."""

from __future__ import annotations

__all__ = ["Cosmos3"]

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from ..denoisers.attention_layer import SelfAttentionLayer
from ..denoisers.cfg_batch import BatchLayout
from ..denoisers.image_tokens import GridError, ImageTokens
from ..intercept.module_call import ModuleCall
from .base import Arguments, Setting, Step
from .transformer import Transformer
from .true_cfg import two_calls

_BOTH = ("und_seq", "gen_seq")


class Cosmos3(Transformer):
    """The text sees what precedes it; the tokens of video, sound and actions see everything.

    A call is of one sample, whose tokens have no axis for rows, `(T, C)`. The video is guided; what
    is predicted of sound and actions stays as it is, and hears of the video at the next step.
    """

    name: ClassVar[str] = "Cosmos 3"
    denoisers: ClassVar[tuple[str, ...]] = ("Cosmos3OmniTransformer",)
    sample: ClassVar[str] = "vision_tokens"
    time: ClassVar[str] = "vision_timesteps"
    tells_timesteps: ClassVar[bool] = False
    rows_first: ClassVar[bool] = False
    has_rows: ClassVar[bool] = False
    stacks: ClassVar[Mapping[str, str]] = {"b": "layers"}
    attention: ClassVar[tuple[str, ...]] = ("self_attn",)
    returns: ClassVar[Mapping[str, tuple[str, ...]]] = {"b": _BOTH}
    tied_to_size: ClassVar[tuple[str, ...]] = ("position_ids",)
    why_no_text: ClassVar[str] = "it takes one prompt in a call, as the numbers of its words"

    @override
    def patch(self, denoiser: nn.Module) -> tuple[int, ...]:
        config: Any = denoiser.config
        return (1, config.latent_patch_size, config.latent_patch_size)

    @override
    def grid(self, denoiser: nn.Module, argument: Arguments) -> tuple[int, ...]:
        """What is no whole patch is padded."""
        return tuple(argument("vision_token_shapes")[0])

    @override
    def tokens(
        self, denoiser: nn.Module, argument: Arguments, layer: str, count: int
    ) -> ImageTokens:
        """Those of sound and actions follow."""
        found = ImageTokens(argument.once(self.grid, denoiser))
        expected = argument("sequence_length") - argument("und_len")
        if count != expected:
            raise GridError(
                f"{layer} attends with {count} tokens, and {expected} are of the video, sound and "
                "actions; expected a denoiser whose tokens nothing merges or drops"
            )
        return found

    @override
    def latents(self, argument: Arguments) -> Any:
        return _only(argument(self.sample))

    @override
    def with_latents(self, call: ModuleCall, latents: Tensor) -> ModuleCall:
        return call.replace(self.sample, [latents])

    @override
    def prediction_of(self, output: Any) -> Tensor:
        prediction: Tensor = _only(output[0] if isinstance(output, tuple) else output.sample)
        return prediction

    @override
    def with_prediction(self, output: Any, prediction: Tensor) -> Any:
        return super().with_prediction(output, [prediction])  # type: ignore[arg-type]

    @override
    def outputs(
        self, denoiser: nn.Module, layer: SelfAttentionLayer, module: nn.Module
    ) -> tuple[str, ...]:
        return _BOTH if module is layer.module else super().outputs(denoiser, layer, module)

    @override
    def feed_forward(self, block: nn.Module) -> nn.Module | None:
        return block.get_submodule("mlp_moe_gen")

    @override
    def layout(self, denoiser: nn.Module, setting: Setting, step: Step) -> BatchLayout:
        """Two calls.

        Raises:
            RuntimeError: If the whole video is given, and only actions are predicted.
        """
        action = setting("arguments", {}).get("action")
        if getattr(action, "mode", None) == "inverse_dynamics":
            raise RuntimeError(
                "with mode='inverse_dynamics' the whole video is given, and only the video is "
                "guided; expected another mode, or no action"
            )
        return two_calls(setting)


def _only(videos: Any) -> Any:
    """The one video of a call.

    Raises:
        GridError: If there are several, whose tokens follow each other.
    """
    if len(videos) != 1:
        raise GridError(f"a call has {len(videos)} videos in one sequence; expected one")
    return videos[0]
