"""Labelling in Azure ML: a batch as data assets that a labelling project is made of, and what that project exports.

Azure ML lets nobody but a person at the studio make a labelling project, give it people, or export what they have done.
So a batch is laid out in the lake as the studio takes it, with what is to be clicked written beside it, and an export
is looked for where the studio or a person has put it.
"""

import hashlib
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from detection_assets.domain import file_names, layout
from detection_assets.domain.formats import azureml, coco
from detection_assets.domain.labels import Batch
from detection_assets.domain.layout import Stored
from resources import microsoft, temporary
from resources.findings import Finding
from resources.labeling.base import Finished, Handed, Labeling, LabelingError, proposed
from resources.storage import Storage

TOOL = "azure_ml"
PICTURES, PRELABELS, EXPORT, README = "pictures", "prelabels", "export", "README.txt"
"""What there is of a batch in the lake: its pictures by their names, boxes to begin with as Azure ML's lines and as
COCO, where an export may be put by hand, and what to do."""
COCO = "proposals.json"
READ = (".json", ".jsonl")
MOST = 200
"""Exports in the studio's own folder that are looked into, the newest."""
OF_AZURE = "AmlDatastore://"
"""How addresses begin in a COCO file of Azure ML's, whose boxes are shares of the picture."""
_OURS = re.compile(rf"/(lb-[0-9a-f]+)/{TOOL}/{PICTURES}/".encode())
_KNOWN: dict[tuple[str, str, str], frozenset[str]] = {}
STEPS = """\
{count} pictures to label: {classes}

1. Open https://ml.azure.com, the workspace {workspace}, Data Labeling, Add project.
   Project name: {name}-{batch} (a name can never be used again). Media type: Image. Labeling task type: Object
   Identification (Bounding Box).
2. Data: the data asset {table}, version {batch}. Data column mapping: image_url is the image, label is the category;
   import options: use the labels that are there as pre-labels. Without boxes to begin with, take {folder} instead.
3. Label classes, spelled exactly so: {classes}
4. Add the people who label (role AzureML Labeler), and start the project.
5. Whenever some are done: Export, COCO file. {where}
   What is exported counts as finished; export again to bring in more, or corrections. Two exports of a day are two.
"""
BY_HAND = "Put the file into {place}"
BY_ITSELF = "It is found where the studio puts it, below {place}, or in {hand}"


class AzureLabeling(Labeling):
    """Data labelling of an Azure ML workspace.

    Attributes:
        subscription: Id of the subscription.
        group: Name of the resource group.
        workspace: Name of the workspace.
        datastore: The workspace's name for the container that the lake is in.
        exports: Where the studio puts exports, `az://<container>/Labeling/export`, in the lake's storage account; "" to
            have them put into the lake by hand.
    """

    subscription: str
    group: str
    workspace: str
    datastore: str
    exports: str = ""

    @property
    def tool(self) -> str:
        """Azure ML."""
        return TOOL

    @property
    def ml(self) -> microsoft.Workspace:
        """The workspace."""
        return microsoft.Workspace(self.subscription, self.group, self.workspace)

    # Handing over ----------------------------------------------------------------------------------------------------

    def hand_over(self, batch: Batch, pictures: Mapping[str, str]) -> Handed:
        """Lays the batch out in the lake and enters it as data assets; both are there already the second time."""
        below, named = layout.label_work(batch.id, TOOL), f"{self.detector}-to-label"
        there = {posixpath.basename(item.key) for item in self.storage.list(f"{below}/{PICTURES}")}
        with temporary.folder() as scratch:
            folder = Path(scratch) / PICTURES
            folder.mkdir()
            self.storage.download({key: folder / name for name, key in pictures.items() if name not in there})
            self.storage.upload(folder, f"{below}/{PICTURES}")
            self._describe(batch, Path(scratch) / "batch", below, named)
        folder_of = f"{self.ml.place(self.datastore, self.storage.uri_of(below))}/"
        about = {"description": f"{self.detector}, pictures of {batch.id} to be labelled", "tags": {"batch": batch.id}}
        kinds: dict[str, dict[str, Any]] = {
            f"{named}-pictures": {"dataType": "uri_folder", "dataUri": f"{folder_of}{PICTURES}/"},
            named: {
                "dataType": "mltable",
                "dataUri": f"{folder_of}{PRELABELS}/",
                "referencedUris": [f"{folder_of}{PICTURES}/"],
            },
        }
        with self._asking(batch.id):
            for name, kind in kinds.items():
                place = self.ml.enter(name, batch.id, {**kind, **about})
                if _tail(place) != _tail(kind["dataUri"]):
                    why = f"the data asset {name}:{batch.id} is that of another lake ({place})"
                    raise LabelingError(f"{batch.id}: {why}; archive it, or use another workspace")
        link = self.ml.page_of(f"data/{named}/{batch.id}")
        return Handed(batch.id, TOOL, f"{named}:{batch.id}", link, len(batch.frames))

    def _describe(self, batch: Batch, folder: Path, below: str, named: str) -> None:
        boxes, names = proposed(batch), [str(name) for name in batch.frames["name"]]
        base = self.ml.place(self.datastore, self.storage.uri_of(f"{below}/{PICTURES}"))
        azureml.save(boxes, batch.classes, folder / PRELABELS, urls={name: f"{base}/{name}" for name in names})
        coco.save(boxes, batch.classes, folder / COCO)
        hand = self.storage.uri_of(f"{below}/{EXPORT}/")
        where = BY_ITSELF.format(place=self.exports, hand=hand) if self.exports else BY_HAND.format(place=hand)
        steps = STEPS.format(
            count=len(names),
            classes=", ".join(batch.classes),
            workspace=self.workspace,
            name=self.detector,
            batch=batch.id,
            table=named,
            folder=f"{named}-pictures",
            where=where,
        )
        (folder / README).write_text(steps, encoding="utf-8")
        self.storage.upload(folder, below)

    # Bringing in -----------------------------------------------------------------------------------------------------

    def finished(self, batch: Batch, place: str, folder: Path) -> Finished:
        """What exports name; of two that name a picture the later counts."""
        self._there(batch.id)
        files: list[tuple[float, Path]] = []
        for number, (store, listed) in enumerate(self._exported(batch.id)):
            for item in listed:
                path = folder / str(number) / item.key
                store.download({item.key: path})
                _in_pixels(path)
                files.append((item.written, path))
        return Finished([path for _, path in sorted(files)])

    def stamp(self, batch: str, place: str) -> str:
        """What exports there are."""
        self._there(batch)
        seen = [(item.key, item.tag, item.size) for _, listed in self._exported(batch) for item in listed]
        return hashlib.sha256(repr(sorted(seen)).encode()).hexdigest()[:16]

    def _exported(self, batch: str) -> Iterator[tuple[Storage, Sequence[Stored]]]:
        """The files that may be exports of a batch, and the store that they are in."""
        with self._asking(batch):
            by_hand = self.storage.list(f"{layout.label_work(batch, TOOL)}/{EXPORT}")
            yield self.storage, [item for item in by_hand if _is_export(item.key)]
            if self.exports:
                store = self._studio()
                listed = sorted(
                    (item for item in store.list("") if _is_export(item.key)), key=lambda item: item.written
                )
                yield store, [item for item in listed[-MOST:] if batch in _about(store, item)]

    def _studio(self) -> Storage:
        root, _, prefix = self.exports.rstrip("/").rpartition("/")
        return Storage(root=root, prefix=prefix)

    def _there(self, batch: str) -> None:
        key = f"{layout.label_work(batch, TOOL)}/{README}"
        if not self.storage.exists(key):
            give_up = f"detection collect {self.detector} --close {batch}"
            raise LabelingError(
                f"{batch}: {self.storage.uri_of(key)} is gone, and its pictures with it; hand it over again, or give "
                f"the batch up: {give_up}"
            )

    # Asking ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def _asking(self, batch: str) -> Iterator[None]:
        from azure.ai.ml.exceptions import MlException
        from azure.core.exceptions import AzureError

        try:
            yield
        except (AzureError, MlException) as error:
            raise LabelingError(f"{batch}: Azure ML refuses it: {microsoft.refusal(error)}") from error
        except OSError as error:
            raise LabelingError(f"{batch}: exports cannot be read: {error}") from error

    def check(self) -> Iterator[Finding]:
        """Looks whether exports can be read where the studio puts them."""
        what = "exports of labelling"
        if not self.exports:
            yield Finding(what, "good", f"put by hand below {self.storage.uri_of(layout.label_work('<batch>', TOOL))}")
            return
        try:
            count = sum(1 for _ in self._studio().list(""))
        except Exception as error:  # the store's library has errors of its own
            told = str(error).strip().splitlines()[0][:200]
            yield Finding(what, "bad", self.exports, f"correct DETECTION_AZURE_LABELING_EXPORTS, or its rights: {told}")
            return
        yield Finding(what, "good", f"{self.exports}: {count} files")


def _about(store: Storage, export: Stored) -> frozenset[str]:
    """The batches whose pictures an export names; each is read once in a process."""
    known = store.uri, export.key, export.tag
    if known not in _KNOWN:
        found = _OURS.findall(store.get(export.key))
        _KNOWN[known] = frozenset(batch.decode() for batch in found)
        while len(_KNOWN) > 10 * MOST:
            del _KNOWN[next(iter(_KNOWN))]
    return _KNOWN[known]


def _is_export(key: str) -> bool:
    return file_names.suffix(key) in READ or posixpath.basename(key) == azureml.TABLE


def _tail(place: str) -> str:
    """A place without what comes before the datastore, which is said in more than one way."""
    return place.partition("datastores/")[2].strip("/").casefold()


def _in_pixels(path: Path) -> None:
    """Makes pixels of the boxes of Azure ML's COCO, which are shares of the picture; any other file stays as it is."""
    if path.suffix.lower() != ".json":
        return
    try:
        told: Any = orjson.loads(path.read_bytes())
        images = {image["id"]: image for image in told["images"]}
        if not images or not all(str(image.get("coco_url", "")).startswith(OF_AZURE) for image in images.values()):
            return
        boxes = [(images[one["image_id"]], one) for one in told["annotations"] if one.get("bbox")]
        if any(side > 1 for _, one in boxes for side in one["bbox"]):
            return
        for image, one in boxes:
            width, height = float(image["width"]), float(image["height"])
            one["bbox"] = [side * of for side, of in zip(one["bbox"], (width, height, width, height), strict=True)]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return  # whoever reads it says what is wrong
    path.write_bytes(orjson.dumps(told))
