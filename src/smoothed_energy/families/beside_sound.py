"""Families of denoisers that predict a video and its sound, of which the video is guided."""

from __future__ import annotations

__all__ = ["BesideSound"]

from typing import Any

from torch import Tensor
from typing_extensions import override

from ..intercept.module_call import Rows
from .transformer import Transformer


class BesideSound(Transformer):
    """The sound's prediction comes second, and stays as it is: at the next step it hears of it."""

    @override
    def with_prediction(self, output: Any, prediction: Tensor) -> Any:
        """The sound's prediction as it is, repeated if the video's is.

        If rows are left out, they are the last.
        """
        given, rows = self.prediction_of(output), len(prediction)
        sounds = output[1:] if isinstance(output, tuple) else (output.audio_sample,)
        times = max(1, rows // len(given))
        sounds = tuple(
            sound.repeat(times, *[1] * (sound.ndim - 1))[:rows]
            if isinstance(sound, Tensor)
            else sound
            for sound in sounds
        )
        if isinstance(output, tuple):
            return (prediction, *sounds)
        return type(output)(sample=prediction, audio_sample=sounds[0])

    @override
    def without_rows(self, output: Any, rows: Rows) -> Any:
        """What the denoiser returned, without some rows of the sound's prediction, too."""
        left = self.with_prediction(output, rows.left_out(self.prediction_of(output)))
        given = output[1:] if isinstance(output, tuple) else (output.audio_sample,)
        sounds = [rows.left_out(one) if isinstance(one, Tensor) else one for one in given]
        if isinstance(output, tuple):
            return (left[0], *sounds)
        return type(output)(sample=left.sample, audio_sample=sounds[0])
