"""COCO-style scores of a detector: average precision by class, box size, group and video, with intervals.

Matching and averaging are hotcoco's, which agrees with pycocotools to the last decimal. Here live the tables around
it; the intervals come from `bootstrap`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain import bootstrap
from detection_assets.domain.bootstrap import RECALLS, Difference, Floats, Ints, Matches, interval, row_means

SIZES: dict[str, tuple[float, float]] = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
"""COCO's box sizes, as areas in square pixels of the original frame, both ends included."""

BACKGROUND = "background"
"""Row of the confusion matrix for boxes found where there is nothing; column for boxes that were missed."""

_EVERY_AREA = (0.0, 1e10)


class Scores:
    """One detector's predictions against the truth on one set of frames.

    Boxes are `x1 y1 x2 y2` in pixels of the frame, x2 and y2 exclusive.
    """

    def __init__(
        self,
        truth: pd.DataFrame,
        predictions: pd.DataFrame,
        images: pd.DataFrame,
        classes: Sequence[str],
        max_det: int = 100,
    ) -> None:
        """Matches predictions with truth.

        Args:
            truth: `frame, class, x1, y1, x2, y2`, a row a box. Rows without a class (an empty frame) are left out.
            predictions: `frame, class, confidence, x1, y1, x2, y2`, a row a box.
            images: `frame, video, group, width, height`: every frame that was scored, with or without boxes.
            classes: Names of all classes.
            max_det: Most confident boxes of a class that count in a frame. COCO takes 100.

        Raises:
            ValueError: A box is of an unknown frame or class, or a frame is listed twice.
        """
        from hotcoco import COCO

        self.images = images.reset_index(drop=True)
        self.classes = list(classes)
        self.max_det = max_det
        frames = pd.Index(self.images["frame"])
        if not frames.is_unique:
            raise ValueError(f"frame {frames[frames.duplicated()][0]} is listed twice in images")
        truth = truth.loc[truth["class"].notna()]
        self.predictions = predictions.reset_index(drop=True)
        self._truth_image, self._truth_label = self._codes(truth, frames, "truth")
        self._image, self._label = self._codes(self.predictions, frames, "predictions")
        self._confidence = self.predictions["confidence"].to_numpy(np.float64)
        boxes = _xywh(truth)
        self._truth_area = boxes[:, 2] * boxes[:, 3]
        sizes = zip(self.images["width"].tolist(), self.images["height"].tolist(), strict=True)
        self._truth = COCO.from_arrays(
            [{"id": i, "width": int(w), "height": int(h)} for i, (w, h) in enumerate(sizes, 1)],
            [{"id": k, "name": name} for k, name in enumerate(self.classes, 1)],
            self._truth_image + 1,
            self._truth_label + 1,
            boxes,
        )
        found = np.column_stack([self._image + 1, _xywh(self.predictions), self._confidence, self._label + 1])
        self._found = self._truth.load_res(found)

    def _codes(self, boxes: pd.DataFrame, frames: pd.Index, what: str) -> tuple[Ints, Ints]:
        found: list[Ints] = []
        for column, known in (("frame", frames), ("class", pd.Index(self.classes))):
            codes = known.get_indexer(pd.Index(boxes[column])).astype(np.int64)
            if (codes < 0).any():
                raise ValueError(f"{what}: unknown {column} {boxes[column].iloc[int((codes < 0).argmax())]!r}")
            found.append(codes)
        return found[0], found[1]

    @cached_property
    def _standard(self) -> Any:
        """The evaluation of all frames with COCO's own ten thresholds and four areas."""
        evaluator = self._evaluator()
        evaluator.evaluate()
        evaluator.accumulate()
        return evaluator

    def _evaluator(self) -> Any:
        from hotcoco import COCOeval

        evaluator = COCOeval(self._truth, self._found, "bbox")
        evaluator.params.max_dets = [self.max_det]
        return evaluator

    def _narrow(self, area: tuple[float, float], images: Ints | None = None, thresholds: list[float] | None = None):
        evaluator = self._evaluator()
        evaluator.params.area_rng = [list(area)]
        evaluator.params.area_rng_lbl = ["all"]
        if images is not None:
            evaluator.params.img_ids = (images + 1).tolist()
        if thresholds:
            evaluator.params.iou_thrs = thresholds
        evaluator.evaluate()
        evaluator.accumulate()
        return evaluator

    def overall(self) -> dict[str, float]:
        """AP over all classes.

        Returns:
            `ap50`, `ap50_95` and `recall` (at IoU 0.50, over all predictions), NaN where there is no truth at all.
        """
        ap50, ap, recall = _averages(self._standard.eval, 0)
        return {"ap50": _mean(ap50), "ap50_95": _mean(ap), "recall": _mean(recall)}

    def table(self, resamples: int = 0, seed: int = 0) -> pd.DataFrame:
        """The evaluation table, without its column `model`.

        Overall, by class, and by box size, group and video, of which size and group also by class. `recall` is COCO's
        at IoU 0.50: the share of truth boxes that any prediction found. A mean is over the classes that have truth; a
        class, size, group or video without truth is NaN, not 0. Videos have no interval: the frames of one clip are
        too much alike to be drawn one by one.

        Args:
            resamples: Bootstrap samples for the 95 % interval of `ap50`; 0 leaves it NaN.
            seed: Seed of the bootstrap.

        Returns:
            `slice_kind` (all, class, size, group, video), `slice` (its name; "all" for all), `class` ("" for all),
            `ap50, ap50_95, recall, n_images, n_boxes, low, high`.
        """
        everything = np.arange(len(self.images))
        rows: list[dict[str, Any]] = []
        areas = [("all", "all", _EVERY_AREA), *(("size", name, area) for name, area in SIZES.items())]
        for at, (kind, name, area) in enumerate(areas):
            samples = self.resampled(resamples, seed, area=area) if resamples else None
            rows += self._rows(kind, name, _averages(self._standard.eval, at), area, everything, samples)
        for kind in ("group", "video"):
            for name, index in sorted(self.images.groupby(kind).indices.items()):
                inside = np.asarray(index, np.int64)
                figures = _averages(self._narrow(_EVERY_AREA, inside).eval, 0)
                samples = self.resampled(resamples, seed, inside) if resamples and kind == "group" else None
                part = self._rows(kind, str(name), figures, _EVERY_AREA, inside, samples)
                rows += part if kind == "group" else part[:1]
        return pd.DataFrame(rows)

    def _rows(
        self,
        kind: str,
        name: str,
        figures: tuple[Floats, Floats, Floats],
        area: tuple[float, float],
        images: Ints,
        samples: Floats | None,
    ) -> list[dict[str, Any]]:
        inside = np.isin(self._truth_image, images) & (self._truth_area >= area[0]) & (self._truth_area <= area[1])
        boxes = np.bincount(self._truth_label[inside], minlength=len(self.classes))
        rows: list[dict[str, Any]] = []
        for k, label in [(-1, ""), *enumerate(self.classes)]:
            ap50, ap, recall = (_mean(figure) if k < 0 else float(figure[k]) for figure in figures)
            low, high = interval(None if samples is None else row_means(samples) if k < 0 else samples[:, k])
            by_class = kind == "all" and k >= 0
            rows.append({
                "slice_kind": "class" if by_class else kind, "slice": label if by_class else name, "class": label,
                "ap50": ap50, "ap50_95": ap, "recall": recall, "n_images": len(images),
                "n_boxes": int(boxes.sum() if k < 0 else boxes[k]), "low": low, "high": high,
            })  # fmt: skip
        return rows

    def _matches(self, area: tuple[float, float]) -> Matches:
        """Which predictions are right at IoU 0.50; those that COCO leaves out for their size or number are left out."""
        status = self._narrow(area, thresholds=[0.5]).image_diagnostics(iou_thr=0.5)["dt_status"]
        ids = np.fromiter(status.keys(), np.int64, len(status)) - 1
        right = np.fromiter((value == "tp" for value in status.values()), bool, len(status))
        # Ties keep frame order and then row order, as in COCO.
        order = np.lexsort((ids, self._image[ids], -self._confidence[ids]))
        ids, right = ids[order], right[order]
        counted = (self._truth_area >= area[0]) & (self._truth_area <= area[1])
        truth = np.zeros((len(self.images), len(self.classes)), np.int64)
        np.add.at(truth, (self._truth_image[counted], self._truth_label[counted]), 1)
        return Matches(ids, self._image[ids], self._label[ids], right, truth)

    @cached_property
    def _all_matches(self) -> Matches:
        return self._matches(_EVERY_AREA)

    def units(self, images: Ints | None = None) -> tuple[str, Ints]:
        """What a bootstrap draws: groups if there are two or more, otherwise videos, otherwise single frames.

        Frames of one video resemble each other; drawing them one by one would make intervals look far too good.

        Args:
            images: Rows of `images` to look at; all if None.

        Returns:
            `group`, `video` or `image`, and each frame's unit as a number from 0.
        """
        return bootstrap.units(self.images if images is None else self.images.iloc[images])

    def resampled(
        self, resamples: int, seed: int, images: Ints | None = None, area: tuple[float, float] = _EVERY_AREA
    ) -> Floats:
        """AP50 of each class in bootstrap samples of groups, videos or frames (see `units`).

        The same seed over the same frames draws the same samples, so that two detectors can be compared pair by pair.

        Args:
            resamples: Number of samples.
            seed: Seed of the draws.
            images: Rows of `images` to draw from; all if None.
            area: Range of truth box areas, square pixels.

        Returns:
            Array of shape (resamples, classes); NaN where a sample has no truth of a class.
        """
        matches = self._all_matches if area == _EVERY_AREA else self._matches(area)
        chosen = np.arange(len(self.images)) if images is None else images
        _, unit_of = self.units(images)
        return bootstrap.resampled(matches, chosen, unit_of, resamples, seed)

    def confusion(self, confidence: float, iou: float = 0.5) -> pd.DataFrame:
        """Which class is taken for which.

        Args:
            confidence: Least confidence of a prediction that counts.
            iou: Least overlap of a match, whatever the two classes.

        Returns:
            Counts; index is the true class, columns the predicted one, both with `background` last.
        """
        labels = [*self.classes, BACKGROUND]
        everyone = len(self.predictions) + 1
        matrix = self._evaluator().confusion_matrix(iou_thr=iou, max_det=everyone, min_score=confidence)
        return pd.DataFrame(np.asarray(matrix["matrix"], np.int64), index=pd.Index(labels), columns=pd.Index(labels))

    def curves(self) -> pd.DataFrame:
        """Precision over recall at IoU 0.50, for each class that has truth.

        Returns:
            `class, recall, precision, confidence`, 101 points a class; confidence is the threshold that gets there, 0
            beyond the recall that is ever reached.
        """
        result = self._standard.eval
        parts: list[pd.DataFrame] = []
        for k, name in enumerate(self.classes):
            precision = np.asarray(result["precision"])[0, :, k, 0, -1]
            if (precision < 0).any():
                continue
            confidence = np.asarray(result["scores"])[0, :, k, 0, -1]
            parts.append(
                pd.DataFrame({"class": name, "recall": RECALLS, "precision": precision, "confidence": confidence})
            )
        empty = pd.DataFrame({"class": [], "recall": [], "precision": [], "confidence": []})
        return pd.concat(parts, ignore_index=True) if parts else empty

    def pairs(self, iou: float = 0.5) -> Ints:
        """Which truth box each prediction found, the more confident first and each box once, class by class.

        Args:
            iou: Least overlap.

        Returns:
            For each row of `predictions` the truth box's row among those that have a class, from 0; -1 if none.
        """
        found = self._narrow(_EVERY_AREA, thresholds=[iou]).image_diagnostics(iou_thr=iou)["dt_match"]
        partner = np.full(len(self.predictions), -1, np.int64)
        partner[np.fromiter(found.keys(), np.int64, len(found)) - 1] = np.fromiter(found.values(), np.int64) - 1
        return partner


def difference(first: Scores, second: Scores, resamples: int, seed: int = 0) -> Difference:
    """AP50 of one detector minus that of another, with its paired 95 % bootstrap interval.

    Args:
        first: The challenger.
        second: The champion, scored on the same frames.
        resamples: Bootstrap samples; 0 leaves the interval NaN.
        seed: Seed of the draws.

    Raises:
        ValueError: The two were scored on different frames.
    """
    if not first.images["frame"].equals(second.images["frame"]):
        raise ValueError("two detectors can only be compared on the same frames in the same order")
    unit, codes = first.units()
    low, high = float("nan"), float("nan")
    if resamples and len(codes):
        mine, theirs = (row_means(scores.resampled(resamples, seed)) for scores in (first, second))
        low, high = interval(mine - theirs)
    value = first.overall()["ap50"] - second.overall()["ap50"]
    return Difference(value, low, high, unit, len(np.unique(codes)))


def json_safe(value: Any) -> Any:
    """Figures as JSON takes them: it has no NaN, so what could not be measured becomes null."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _xywh(boxes: pd.DataFrame) -> Floats:
    corners = boxes[["x1", "y1", "x2", "y2"]].to_numpy(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _averages(result: Any, area: int) -> tuple[Floats, Floats, Floats]:
    """AP50, AP50-95 and recall at IoU 0.50 of each class; NaN where COCO says -1, "no truth"."""
    precision = np.asarray(result["precision"])[:, :, :, area, -1]
    recall = np.asarray(result["recall"])[0, :, area, -1]
    missing = recall < 0
    figures = precision[0].mean(0), precision.mean((0, 1)), recall
    return tuple(np.where(missing, np.nan, figure) for figure in figures)  # pyright: ignore[reportReturnType]


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
