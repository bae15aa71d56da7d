"""A video of one episode for people to look at: a GIF, which every browser plays and whose writer is installed anyway.

A picture is taken at every k-th step, with k such that an episode of full length has at most 250 of them, and they are
shown at 25 a second: ten seconds for a thousand steps, whatever a step of the task lasts. For the tasks of the
DeepMind Control Suite with a step of 10 ms this is the simulated time itself.
"""

from __future__ import annotations

import io
from math import ceil
from typing import TYPE_CHECKING

from rlscale.types import PICTURE, FilmedEnv

if TYPE_CHECKING:
    from PIL import Image

FRAMES = 250  # of an episode that lasts as long as the task allows
FRAME_MS = 40  # a GIF counts in 10 ms
COLOURS = 128  # of each picture: half the bytes of 256, and nobody sees the difference on a simulator's surfaces


class Film:
    """Pictures of one episode, about 80 kB each in memory and 10 to 20 kB in the file."""

    def __init__(self, episode_steps: int):
        self.every, self.steps = ceil(episode_steps / FRAMES), 0
        self.frames: list[Image.Image] = []

    def look(self, env: FilmedEnv) -> None:
        """To be called before each step of the episode; takes a picture where one is due."""
        from PIL import Image

        if self.steps % self.every == 0:
            picture = Image.fromarray(env.frame())
            picture.thumbnail(PICTURE[::-1])  # smaller if it is larger, in its own proportions
            # Without dithering: its noise is new in every picture, which flickers and cannot be compressed.
            self.frames.append(picture.quantize(COLOURS, dither=Image.Dither.NONE))
        self.steps += 1

    def gif(self) -> bytes:
        """The file's content; plays again and again. Raises ValueError if nothing was filmed."""
        if not self.frames:
            raise ValueError("nothing was filmed")
        file = io.BytesIO()
        first, *others = self.frames
        first.save(file, "GIF", save_all=True, append_images=others, duration=FRAME_MS, loop=0)
        return file.getvalue()
