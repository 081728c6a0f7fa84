"""The section `labeling` of a detector's file: which pictures annotators are asked about."""

from __future__ import annotations

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from detection_assets.detector_part import Fraction, Part, Positive
from detection_assets.detector_part import key as _key


class Reasons(Part):
    """How much of a batch is chosen for which reason. Together 1; one without pictures leaves its to the others."""

    unsure: Fraction = _key(
        0.4, "the share on which the model is unsure, or disagrees with its challenger or about the mirror image"
    )
    drifted: Fraction = _key(0.2, "the share of requests like those in which production differs from what taught it")
    rare: Fraction = _key(0.2, "the share with what may be of classes that have few labelled boxes")
    diverse: Fraction = _key(
        0.2, "the share that stands for the most of what is not labelled; all while no model serves"
    )

    @model_validator(mode="after")
    def _add_up(self) -> Reasons:
        total = self.unsure + self.drifted + self.rare + self.diverse
        if abs(total - 1) > 1e-6:
            text = "unsure, drifted, rare and diverse must add up to 1, got {total}"
            raise PydanticCustomError("sum", text, {"total": f"{total:g}"})
        return self


class Labeling(Part):
    """Which pictures annotators are asked about."""

    budget: Positive = _key(50, "the most pictures of a batch")
    reasons: Reasons = _key(Reasons(), "the shares of the reasons to choose a picture")
    near_duplicate: int | None = _key(
        6, "bits of 64 up to which pictures are alike, and one of them is enough; null: off", ge=0, le=32
    )
    most_per_video: float = _key(
        0.2, "the most of a batch that is from one video; more only if others have none left", gt=0, le=1
    )
    request_days: int = _key(7, "the days whose captured requests may be asked about; 0: no requests", ge=0)
    looked_at: Positive = _key(2000, "the most pictures that models look at for a batch, even over videos and time")
    proposals: bool = _key(True, "whether annotators get the boxes of the model in service to begin with")
    proposals_from: Fraction | None = _key(
        None, "the least confidence of such a box; null: as in answers of the endpoint", examples=[0.4]
    )
