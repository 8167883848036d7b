"""Families of denoisers that predict a video and its sound, of which the video is guided."""

from __future__ import annotations

__all__ = ["BesideSound"]

from typing import Any

from torch import Tensor
from typing_extensions import override

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
