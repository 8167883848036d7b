"""Samplers without a model, which can be told to misbehave."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from smoothed_energy.sweeps import Sweep
from smoothed_energy.sweeps.sampler import ConfigurationError


@dataclass(frozen=True)
class FakeSource:
    """Draws noise that its settings, prompt and seed determine.

    `marks` is a folder in which a line is kept of each picture that was drawn and each worker.
    Seeds in `kills` end the worker by SIGKILL, seeds in `raises` raise; with `once` only the first
    time. `hopeless` is a configuration that is refused, `slow` the seconds that a picture takes.
    """

    marks: str
    kills: tuple[int, ...] = ()
    raises: tuple[int, ...] = ()
    hopeless: str = ""
    once: bool = False
    slow: float = 0.0
    opens: bool = True
    name: str = "fake"
    side: int = 8

    def open(self, worker):
        if not self.opens:
            raise ValueError("the model is not there")
        self.mark(f"worker-{os.getpid()}")
        return FakeSampler(self)

    def mark(self, name):
        (Path(self.marks) / name).touch()

    def first_time(self, name):
        try:
            (Path(self.marks) / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    @property
    def workers(self):
        return [int(path.name.split("-")[1]) for path in Path(self.marks).glob("worker-*")]

    @property
    def drawn(self):
        """How often each picture was drawn, by configuration, prompt and seed."""
        lines = []
        for path in Path(self.marks).glob("drawn-*"):
            lines += path.read_text().splitlines()
        return lines


class FakeSampler:
    def __init__(self, source):
        self.source = source

    def draw(self, configuration, pictures):
        source = self.source
        if configuration.label == source.hopeless:
            raise ConfigurationError(f"{configuration.label} doesn't fit")
        for _, seed in pictures:
            again = not source.once or source.first_time(f"trouble-{seed}")
            if seed in source.kills and again:
                os.kill(os.getpid(), signal.SIGKILL)
            if seed in source.raises and again:
                raise RuntimeError(f"no luck with seed {seed}")
        drawn = []
        for prompt, seed in pictures:
            time.sleep(source.slow)
            drawn.append(
                (picture(configuration.settings, prompt, seed, source.side), {"seed_mod": seed % 7})
            )
            with (Path(source.marks) / f"drawn-{os.getpid()}").open("a") as file:
                file.write(f"{configuration.label}|{prompt}|{seed}\n")
        return drawn


def picture(settings, prompt, seed, side=8):
    text = f"{settings}|{prompt}|{seed}"
    pixels = hashlib.shake_256(text.encode()).digest(side * side * 3)
    return Image.frombytes("RGB", (side, side), pixels)


def small_sweep(**changes):
    """Three configurations, two prompts, three seeds: 18 pictures."""
    given = {
        "name": "small",
        "prompts": ["", "a cat"],
        "seeds": "0-2",
        "base": {"guidance": "seg; layers=mid"},
        "axes": [{"guidance.scale": [1, 3]}],
        "list": [{"guidance": "none"}],
    }
    return Sweep(**(given | changes))
