"""A registered model's bill of materials: CycloneDX 1.6 as JSON, with what went into it, by digest and licence.

The same facts give the same document, its serial number included: there is no clock and no chance in it.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from detection_assets.domain.model_card import TRAINED_UNDER, Model

SPEC = "1.6"
SPDX = {
    "agpl-3.0": "AGPL-3.0-only",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd license": None,
    "mit license": "MIT",
    "mit": "MIT",
    "bsd": None,
}
"""What packages write instead of an SPDX identifier; None: it may be one of several, so it stays what they wrote."""
EXPRESSION = re.compile(r"[A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*")
VERSIONED = re.compile(r"-[0-9]")


def bom(model: Model) -> dict[str, Any]:
    """The bill of materials of a registered version.

    The component it is about is the model; with it are the dataset that taught it, the weights it started from, and
    the libraries that the training had loaded. What is not known is not listed; `compositions` say where that is so.
    """
    environment: Mapping[str, Any] = model.training.get("environment") or {}
    libraries: Sequence[Mapping[str, Any]] = environment.get("libraries") or ()
    data, base = _dataset(model), _base(model)
    parts = [one for one in (data, base, _pytorch(model)) if one]
    components = [*parts, *(_library(one) for one in libraries)]
    refs = {one["name"]: _ref(one) for one in libraries}
    subject = _model(model, data)
    depends = [
        {"ref": subject["bom-ref"], "dependsOn": sorted([*(one["bom-ref"] for one in parts), *refs.values()])},
        *({"ref": one["bom-ref"]} for one in parts),
        *(
            {"ref": refs[one["name"]], "dependsOn": sorted(refs[name] for name in one["requires"] if name in refs)}
            for one in libraries
        ),
    ]
    made: dict[str, Any] = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "post-build"}],
            "component": subject,
            **({"manufacturer": _owner(model)} if model.said.get("owner") else {}),
        },
        "components": components,
        "dependencies": sorted(depends, key=lambda one: one["ref"]),
        # The libraries are those that were loaded; what these had compiled in is theirs to tell.
        "compositions": [
            {"aggregate": "incomplete" if libraries else "unknown", "dependencies": [subject["bom-ref"]]},
        ],
    }
    text = json.dumps(made, sort_keys=True, ensure_ascii=False)
    number = uuid.uuid5(uuid.NAMESPACE_OID, hashlib.sha256(text.encode()).hexdigest())
    return {**made, "serialNumber": f"urn:uuid:{number}"}


def _owner(model: Model) -> dict[str, Any]:
    owner = str(model.said["owner"])
    kind, _, name = owner.partition(":")
    return {"name": name} if kind == "team" and name else {"name": owner, "contact": [{"email": owner}]}


def _hashes(sha256: str | None) -> dict[str, Any]:
    return {"hashes": [{"alg": "SHA-256", "content": sha256}]} if re.fullmatch("[0-9a-f]{64}", sha256 or "") else {}


def _properties(values: Mapping[str, Any]) -> dict[str, Any]:
    told = [
        {"name": f"detection:{key}", "value": str(value)} for key, value in values.items() if value not in ("", None)
    ]
    return {"properties": told} if told else {}


def _model(model: Model, data: Mapping[str, Any] | None) -> dict[str, Any]:
    settings: Mapping[str, Any] = model.training.get("settings") or {}
    plain = {f"training:{key}": value for key, value in settings.items() if isinstance(value, str | int | float)}
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{model.name}@{model.version}",
        "name": model.name,
        "version": model.version,
        "description": str(model.said.get("description") or f"Object detector for {', '.join(model.classes)}"),
        **_hashes(model.sha256),
        "licenses": [{"license": {"id": SPDX[TRAINED_UNDER.lower()], "acknowledgement": "concluded"}}],
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "object-detection",
                "architectureFamily": "convolutional neural network",
                **({"modelArchitecture": model.base.rpartition(".")[0]} if model.base else {}),
                **({"datasets": [{"ref": data["bom-ref"]}]} if data else {}),
                "inputs": [{"format": "picture, RGB"}],
                "outputs": [{"format": "boxes in pixels, each with class and confidence"}],
            },
            "quantitativeAnalysis": {"performanceMetrics": _metrics(model)},
            **_considerations(model),
        },
        **_properties({**dict(sorted(model.lineage.items())), "classes": ", ".join(model.classes), **plain}),
    }


def _metrics(model: Model) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for row in model.figures("all", "class", "size").to_dict("records"):
        of = {"slice": f"{row['slice_kind']}: {row['slice']}"}
        interval = (
            {"confidenceInterval": {"lowerBound": f"{row['low']:.6f}", "upperBound": f"{row['high']:.6f}"}}
            if pd.notna(row["low"]) and pd.notna(row["high"])
            else {}
        )
        for name, column, more in (("AP50", "ap50", interval), ("AP50-95", "ap50_95", {}), ("recall", "recall", {})):
            if pd.notna(row[column]):
                found.append({"type": name, "value": f"{row[column]:.6f}", **of, **more})
    latency = (model.summary.get("challenger") or {}).get("latency_ms")
    if latency is not None:
        found.append({"type": "latency, ms a picture", "value": f"{float(latency):.3f}"})
    return found


def _considerations(model: Model) -> dict[str, Any]:
    said = model.said
    limits = [str(said[key]) for key in ("out_of_scope", "caveats") if said.get(key)]
    if model.summary.get("optimistic"):
        limits.append("Groups are divided among the splits: figures look better than on new places.")
    found = {
        **({"useCases": [str(said["intended_use"])]} if said.get("intended_use") else {}),
        **({"technicalLimitations": limits} if limits else {}),
        **({"ethicalConsiderations": [{"name": str(said["ethics"])}]} if said.get("ethics") else {}),
    }
    return {"considerations": found} if found else {}


def _dataset(model: Model) -> dict[str, Any] | None:
    """The dataset as a component: its version, and the digests of the tables that name every picture by digest."""
    version = model.lineage.get("dataset_version")
    if not version:
        return None
    meta = model.dataset
    owner = {"governance": {"owners": [{"organization": _owner(model)}]}} if model.said.get("owner") else {}
    tables = [
        {
            "type": "file",
            "bom-ref": f"dataset:{version}/{name}",
            "name": name,
            "mime-type": "application/vnd.apache.parquet",
            **_hashes(sha256),
        }
        for name, sha256 in sorted(model.files.items())
    ]
    counted = (
        f"{meta['images']} images, {meta['boxes']} boxes, {meta['videos']} videos" if meta else "not known any more"
    )
    return {
        "type": "data",
        "bom-ref": f"dataset:{version}",
        "name": f"{model.detector} dataset",
        "version": version,
        "description": counted,
        **_licences(str(model.said.get("license") or ""), "declared"),
        "data": [{"type": "dataset", "name": version, "description": counted, **owner}],
        **({"components": tables} if tables else {}),
    }


def _base(model: Model) -> dict[str, Any] | None:
    """The weights that the training started from; an architecture alone is no component."""
    if not model.base.endswith(".pt"):
        return None
    return {
        "type": "machine-learning-model",
        "bom-ref": f"base:{model.base}",
        "name": model.base,
        **_properties({"note": "what taught these weights is not known here"}),
    }


def _pytorch(model: Model) -> dict[str, Any] | None:
    """The weights before export, which the served file was made from."""
    sha256 = str(model.weights.get("sha256_pt") or "")
    if not sha256:
        return None
    return {"type": "file", "bom-ref": f"file:{sha256[:16]}/best.pt", "name": "best.pt", **_hashes(sha256)}


def _ref(library: Mapping[str, Any]) -> str:
    return f"pkg:pypi/{library['name']}@{library['version'].replace('+', '%2B')}"


def _library(of: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": _ref(of),
        "name": of["name"],
        "version": of["version"],
        "purl": _ref(of),
        **_licences(str(of.get("licence") or ""), "declared"),
    }


def _licences(words: str, acknowledgement: str) -> dict[str, Any]:
    """A licence as it was written: as an SPDX expression where it is one, else as a name or an address."""
    if not words:
        return {}
    known = SPDX.get(words.lower()) or words
    told = {"acknowledgement": acknowledgement}
    if known.startswith(("https://", "http://")):
        return {"licenses": [{"license": {"name": "as its owner says", "url": known, **told}}]}
    # An expression is no more than checked for its form by the standard: names of one word need a number to be SPDX's.
    if EXPRESSION.fullmatch(known) and (VERSIONED.search(known) or known in {"MIT", "ISC", "Zlib", "0BSD", "MIT-CMU"}):
        return {"licenses": [{"expression": known, **told}]}
    return {"licenses": [{"license": {"name": known, **told}}]}
