"""Sample footage that we render ourselves, so that a demo has exact truth.

A small camera films small stages: shelves of a shop's fridge, an operating theatre's tray. Things are drawn as sprites,
stand or lie in a world of centimetres, and are seen through a pinhole camera that moves; light, noise and H.264 follow.
The annotations come out as annotators would hand them over, the truth as tables.
"""

from detection_assets.samples.sample import CLASSES, Clip, Sample, render

__all__ = ["CLASSES", "Clip", "Sample", "render"]
