"""Ultralytics, tamed: offline, silent, writing only where it is told, and stoppable at any moment.

Everything that names ultralytics or torch for training and export is here.
"""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection_assets.domain.problems import InputError
from detection_assets.programs.job import cores

OPSET = 17
TOLD = os.environ.get("OMP_NUM_THREADS", "")  # before ultralytics is imported, which sets it

DEFAULTS: dict[str, Any] = {
    "model": "yolo11n.yaml", "imgsz": 320, "epochs": 25, "batch": 8, "nbs": 8, "optimizer": "AdamW", "lr0": 0.002,
    "patience": 50, "seed": 0,
}  # fmt: skip
"""Tuned on small sets from scratch: by default ultralytics gathers gradients over 64 images, which starves them."""

_RECIPE: dict[str, Any] = {
    "warmup_epochs": 1, "workers": 0, "cache": "ram", "amp": False, "plots": False, "deterministic": True,
    "verbose": False, "exist_ok": True,
}  # fmt: skip

EXTRA = frozenset([
    "amp", "bgr", "box", "cache", "channels_last", "close_mosaic", "cls", "cls_pw", "cos_lr", "copy_paste",
    "copy_paste_mode", "cutmix", "degrees", "deterministic", "dfl", "fliplr", "flipud", "fraction", "freeze", "hsv_h",
    "hsv_s", "hsv_v", "lrf", "max_det", "mixup", "momentum", "mosaic", "multi_scale", "perspective", "rect", "scale",
    "shear", "time", "translate", "warmup_bias_lr", "warmup_epochs", "warmup_momentum", "weight_decay", "workers",
])  # fmt: skip
"""Settings of ultralytics that `training.extra` may hold. Left out is what names files, devices or other tasks."""


@dataclass(frozen=True)
class Validation:
    """How good the best weights are on the validation images, as ultralytics counts.

    Attributes:
        metrics: `precision`, `recall`, `map50`, `map50_95`.
        per_class: `ap50`, `ap50_95` by class that has boxes there.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Hooks:
    """What is called while a training goes on.

    Attributes:
        epoch: After each epoch, with its number from 1, how many there are, and losses and metrics.
        saved: When the weights of an epoch are on disk, with the folder of the run.
        batch: After each batch, with its number from 1, how many an epoch has, the epoch and the epochs.
    """

    epoch: Callable[[int, int, dict[str, float]], None]
    saved: Callable[[Path], None]
    batch: Callable[[int, int, int, int], None]


def _quiet_caching() -> None:
    """Of the trainer's progress bars, the one over the images that it caches shows itself unasked."""
    from ultralytics.data import base
    from ultralytics.utils.tqdm import TQDM

    class Hidden(TQDM):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    base.__dict__["TQDM"] = Hidden


def prepare(config: Path) -> None:
    """Imports ultralytics so that it loads weights safely, stays off the network and reports to nobody.

    Args:
        config: Folder for its settings; made if missing.

    Raises:
        RuntimeError: It was imported before, in a process that did not ask for safe loading.
    """
    config.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        ULTRALYTICS_SAFE_LOAD="true",
        YOLO_CONFIG_DIR=str(config),
        YOLO_OFFLINE="true",
        YOLO_AUTOINSTALL="false",
        YOLO_VERBOSE="false",
        MPLBACKEND="Agg",
    )
    os.environ.pop("ULTRALYTICS_API_KEY", None)
    from ultralytics.utils import LOGGER, SAFE_LOAD, SETTINGS

    if not SAFE_LOAD:
        raise RuntimeError("ultralytics was imported before ULTRALYTICS_SAFE_LOAD was set; start a fresh process")
    off = ("clearml", "comet", "dvc", "hub", "mlflow", "neptune", "raytune", "sync", "tensorboard", "wandb")
    SETTINGS.update({key: False for key in off if key in SETTINGS})
    LOGGER.setLevel("WARNING")
    _quiet_caching()


def settings(training: Mapping[str, Any], base: Path | None = None) -> dict[str, Any]:
    """Checks the training parameters and turns them into ultralytics' own.

    Args:
        training: `model, imgsz, epochs, batch, nbs, optimizer, lr0, patience, seed, extra`, each with a default.
        base: Folder to look for base weights in, besides the working directory.

    Returns:
        Settings for the trainer, without data, device and folders.

    Raises:
        InputError: A parameter is unknown or has an impossible value, or the base weights are not here.
    """
    from ultralytics.cfg import get_cfg
    from ultralytics.utils import DEFAULT_CFG_DICT

    training = {key: value for key, value in training.items() if key != "hardware"}  # where it runs is not our business
    extra = dict(training.pop("extra", None) or {})
    for key in training:
        if key not in DEFAULTS:
            raise InputError(f"training.{key}: unknown; {_nearest(key, DEFAULTS)}, or put it under training.extra")
    for key in extra:
        if key in DEFAULTS:
            raise InputError(f"training.extra.{key}: set training.{key} instead")
        if key not in EXTRA or key not in DEFAULT_CFG_DICT:
            known = "not a setting" if key not in DEFAULT_CFG_DICT else "a setting that the platform makes itself"
            raise InputError(f"training.extra.{key}: {known}; {_nearest(key, EXTRA)}")
    chosen = {**DEFAULTS, **training, **_RECIPE, **extra}
    for key in (*DEFAULTS, *extra):
        try:
            get_cfg(overrides={key: chosen[key]})
        except (TypeError, ValueError, SyntaxError) as error:
            place = f"training.extra.{key}" if key in extra else f"training.{key}"
            raise InputError(f"{place}: {str(error).strip().splitlines()[0]}") from error
    model = str(chosen["model"])
    chosen["model"] = _base_weights(model, base)
    chosen["pretrained"] = not model.endswith((".yaml", ".yml"))
    return chosen


def _nearest(key: str, known: Any) -> str:
    near = difflib.get_close_matches(key, sorted(known), 1)
    return f"did you mean {near[0]}?" if near else "there are " + ", ".join(sorted(known))


def _base_weights(model: str, base: Path | None) -> str:
    from ultralytics.nn.tasks import yaml_model_load

    if model.endswith((".yaml", ".yml")):
        try:
            yaml_model_load(model)
        except (FileNotFoundError, OSError) as error:
            raise InputError(f"training.model: ultralytics knows no network {model}; try yolo11n.yaml") from error
        return model
    if not model.endswith(".pt"):
        raise InputError(f"training.model: {model} is neither a network (yolo11n.yaml) nor weights (yolo11n.pt)")
    for folder in (base, Path()):
        if folder is not None and (folder / model).is_file():
            return str((folder / model).resolve())
    raise InputError(
        f"training.model: the weights {model} are not on this machine and are not downloaded in a run; put the file "
        f"at {(base or Path()).resolve() / model}, or set model: {Path(model).stem}.yaml to train from scratch"
    )


def use_all_cores(_: Any = None) -> None:
    """Ultralytics leaves one core idle each time it picks a device. `OMP_NUM_THREADS` has the last word."""
    import torch

    told = int(TOLD) if TOLD.isdecimal() else 0
    torch.set_num_threads(told or cores())


def epoch_of(checkpoint: Path) -> int | None:
    """The epoch, from 0, after which a checkpoint was written; None if it cannot be read or is no checkpoint."""
    from ultralytics.nn.tasks import load_checkpoint

    try:
        epoch = load_checkpoint(checkpoint)[1].get("epoch")
    except Exception:  # torn files fail in many ways
        return None
    return epoch if isinstance(epoch, int) and epoch >= 0 else None


def fit(
    chosen: Mapping[str, Any], *, data: Path, run: Path, device: str, resume: Path | None, hooks: Hooks
) -> Validation:
    """Trains in this process, and validates the best weights once at the end.

    Args:
        chosen: From `settings`.
        data: The dataset YAML.
        run: Folder that gets `weights/best.pt`, `weights/last.pt` and `results.csv`.
        device: `cpu`, a GPU's number, or nothing for a GPU if there is one.
        resume: A `last.pt` to go on from.
        hooks: Called while it trains.

    Returns:
        The figures of the best weights.

    Raises:
        RuntimeError: Training failed.
    """
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.utils.torch_utils import strip_optimizer

    validated: list[Validation] = []

    class Run(DetectionTrainer):
        def final_eval(self) -> None:
            strip_optimizer(self.best)
            validated.append(validate(self.validator, self.best))

    trainer = Run(overrides=overrides(chosen, data=data, run=run, device=device, resume=resume))
    use_cores_with(trainer)
    follow(trainer, hooks)
    trainer.train()
    if not validated:
        raise RuntimeError("ultralytics ended its training without weights")
    return validated[0]


def overrides(
    chosen: Mapping[str, Any], *, data: Path, run: Path, device: str, resume: Path | None = None
) -> dict[str, Any]:
    """What a trainer or a validator of ultralytics is made with; arguments as for `fit`."""
    made = {**chosen, "data": str(data), "save_dir": str(run), "device": device}
    return made if resume is None else {**made, "resume": str(resume)}


def use_cores_with(trainer: Any) -> None:
    """Gives a trainer all cores again, each time that ultralytics has taken one from it."""
    trainer.add_callback("on_train_start", use_all_cores)
    trainer.add_callback("on_val_start", use_all_cores)


def follow(trainer: Any, hooks: Hooks) -> None:
    """Has a trainer tell how far it is."""
    seen = {"batch": 0}

    def next_epoch(_: Any) -> None:
        seen["batch"] = 0

    def batch_done(trainer: Any) -> None:
        seen["batch"] += 1
        hooks.batch(seen["batch"], len(trainer.train_loader), trainer.epoch + 1, trainer.epochs)

    def epoch_done(trainer: Any) -> None:
        figures = {**trainer.label_loss_items(trainer.tloss), **trainer.metrics, **trainer.lr}
        hooks.epoch(trainer.epoch + 1, trainer.epochs, {key: float(value) for key, value in figures.items()})

    trainer.add_callback("on_train_epoch_start", next_epoch)
    trainer.add_callback("on_train_batch_end", batch_done)
    trainer.add_callback("on_fit_epoch_end", epoch_done)
    trainer.add_callback("on_model_save", lambda trainer: hooks.saved(Path(trainer.save_dir)))


def validate_best(chosen: Mapping[str, Any], *, data: Path, run: Path, device: str) -> Validation:
    """Scores the `weights/best.pt` of a training that has ended; arguments as for `fit`.

    Raises:
        RuntimeError: There are no such weights.
    """
    from ultralytics.cfg import get_cfg
    from ultralytics.models.yolo.detect import DetectionValidator
    from ultralytics.utils.torch_utils import strip_optimizer

    best = run / "weights" / "best.pt"
    if not best.exists():
        raise RuntimeError("ultralytics ended its training without weights")
    strip_optimizer(best)
    made = {**overrides(chosen, data=data, run=run, device=device), "mode": "val", "rect": True}
    return validate(DetectionValidator(save_dir=run, args=get_cfg(overrides=made)), best)


def validate(validator: Any, weights: Path) -> Validation:
    """Scores weights with a validator of ultralytics."""
    validator.args.plots = False
    validator(model=str(weights))
    box, names = validator.metrics.box, validator.metrics.names
    figures = {"precision": box.mp, "recall": box.mr, "map50": box.map50, "map50_95": box.map}
    per_class = {
        str(names[int(k)]): {"ap50": float(box.ap50[i]), "ap50_95": float(box.ap[i])}
        for i, k in enumerate(box.ap_class_index)
    }
    return Validation({key: float(value) for key, value in figures.items()}, per_class)


def export(weights: Path, imgsz: int) -> Path:
    """Exports weights to ONNX beside them: static shape, batch 1, float32, with names, size and stride as metadata.

    Args:
        weights: A `.pt` file.
        imgsz: Side of the input, pixels.

    Returns:
        The `.onnx` file. The same weights give the same bytes.
    """
    import onnx
    from ultralytics import YOLO

    path = Path(
        YOLO(weights).export(
            format="onnx", imgsz=imgsz, opset=OPSET, simplify=True, dynamic=False, batch=1, device="cpu", verbose=False
        )
    )
    use_all_cores()
    model = onnx.load(path)
    # The time of the export, and the folder of the training's data, would give equal weights unequal digests.
    kept = [item for item in model.metadata_props if item.key not in ("date", "description")]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, path)
    return path


class Patience:
    """Lets something through once every few seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def over(self) -> bool:
        """Whether it is time again."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
