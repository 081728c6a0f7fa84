"""A detector's file: finding it, reading it, and writing a new one.

Whatever is wrong with a file is told at once, each mistake with its line and what to write instead.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import ValidationError

from detection_assets.detector import Detector, DetectorError, Part


def detectors_folder() -> Path:
    """Where the detector files are: DETECTION_DETECTORS if it is set, else `detectors/` of the project."""
    return Path(os.environ.get("DETECTION_DETECTORS") or Path(__file__).parents[1] / "detectors")


def available(folder: Path) -> list[str]:
    """Names of the detectors in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find(name: str, folder: Path | None = None) -> Detector:
    """Loads a detector by its name.

    Args:
        name: The detector's name.
        folder: Where to look; `detectors_folder()` if None.

    Raises:
        DetectorError: If there is none of that name (the message lists those there are), or its file cannot be used.
    """
    folder = detectors_folder() if folder is None else folder
    names = available(folder)
    if name in names:
        return load(folder / f"{name}.yaml")
    there = f"There are: {', '.join(names)}." if names else "There are none."
    raise DetectorError(
        f"{_shown(folder)}: no detector {name!r}.{_guess(name, names)} {there} `detection init NAME` makes one."
    )


def load(path: Path) -> Detector:
    """Reads a detector's file.

    Args:
        path: A YAML file, called as the detector is.

    Raises:
        DetectorError: If it cannot be used; one line for each problem, with file, line and remedy.
    """
    shown = _shown(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DetectorError(f"{shown}: there is no such file. `detection init {path.stem}` makes one.") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DetectorError(f"{shown}:{line}: is not UTF-8 text. Save it as UTF-8.") from None
    except OSError as error:
        raise DetectorError(f"{shown}: cannot be read: {error.strerror}.") from None
    return _parse(text, shown, path.stem)


def template(name: str, classes: Sequence[str] | None = None) -> str:
    """A commented detector file with every setting and its default.

    Args:
        name: The detector's name.
        classes: What it detects; one placeholder if None.

    Raises:
        DetectorError: If the name or the classes cannot be used.
    """
    own = {"name": name, "classes": classes or ["object"]}
    lines = [
        f"# What `{name}` detects, how it learns and where it answers.",
        "# Only name and classes must be there; for any other key that is left out, the value here is taken.",
        *_rendered(Detector, own, ""),
    ]
    text = "\n".join(lines) + "\n"
    _parse(text, f"detectors/{name}.yaml", name)
    return text


def _shown(path: Path) -> str:
    """The path as a user would type it here."""
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix()
    except (ValueError, OSError):
        return str(path)


def _guess(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean `{close[0]}`?" if close else ""


def _parse(text: str, shown: str, stem: str) -> Detector:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        node = YAML(typ="rt").compose(text)
        plain = YAML(typ="safe", pure=True)
        plain.allow_duplicate_keys = True  # Told below, with the lines of both.
        data = plain.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        begin = "".join(text.split("\n")[mark.line : mark.line + 1]) if mark else ""
        tab = "\t" in begin[: len(begin) - len(begin.lstrip())]
        why = "a tab. Indent with spaces" if tab else f"not YAML: {error.problem or error.context}"
        raise DetectorError(f"{shown}{f':{mark.line + 1}' if mark else ''}: {why}.") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise DetectorError(f"{shown}: not YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(data, dict):
        what = "is empty" if data is None else "must be keys and values, such as `name: fridge`"
        raise DetectorError(f"{shown}: {what}. `detection init NAME` makes a file to start from.")
    lines: dict[tuple[str, ...], int] = {}
    problems: list[tuple[int, str]] = []
    _locate(node, (), lines, problems, set())
    found: Detector | None = None
    try:
        found = Detector.model_validate(data)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            for loc, what in _explained(one):
                key = tuple(str(part) for part in loc)
                line = next((lines[key[:end]] for end in range(len(key), 0, -1) if key[:end] in lines), 1)
                problems.append((line, f"{_dotted(loc)}: {what}"))
    if isinstance(data.get("name"), str) and data["name"] != stem:
        what = f"name: is {data['name']!r}, but the file is called {stem}.yaml. Make them the same."
        problems.append((lines.get(("name",), 1), what))
    if problems or found is None:
        raise DetectorError("\n".join(f"{shown}:{line}: {what}" for line, what in sorted(problems)))
    return found


def _locate(
    node: Any, at: tuple[str, ...], lines: dict[tuple[str, ...], int], problems: list[tuple[int, str]], seen: set[int]
) -> None:
    """Notes the line of each key and list item, and tells doubled keys."""
    if not isinstance(node.value, list) or id(node) in seen:
        return
    seen.add(id(node))
    for number, item in enumerate(node.value):
        key, value = item if isinstance(item, tuple) else (None, item)
        path = (*at, str(number) if key is None else str(key.value))
        line = (key or value).start_mark.line + 1
        if path in lines:
            problems.append((line, f"{_dotted(path)}: doubled key (first on line {lines[path]}). Remove one."))
        else:
            lines[path] = line
            _locate(value, path, lines, problems, seen)


def _dotted(loc: Sequence[int | str]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


WORDS = (
    ("Input should be", "must be"),
    ("greater than or equal to", "at least"),
    ("less than or equal to", "at most"),
    ("greater than", "above"),
    ("less than", "below"),
    ("a valid string", "text"),
    ("a valid tuple", "a list"),
    ("a valid ", "a "),
    ("a integer", "a whole number"),
)


def _explained(error: Any) -> list[tuple[tuple[int | str, ...], str]]:
    """Where a validation error lies, and what is wrong and what to do, in our words."""
    loc, kind, context = error["loc"], error["type"], error.get("ctx", {})
    model: Any = Detector
    info: Any = None
    for part in loc:
        fields = getattr(model, "model_fields", {})
        if part in fields:
            info = fields[part]
            model = info.annotation
        elif kind in {"extra_forbidden", "invalid_key"}:
            known = f" Known here: {', '.join(fields)}."
            return [(loc, f"unknown key.{_guess(str(part), fields) or known}")]
    if kind == "items":
        return [((*loc, at), text) for at, text in context["items"]]
    what, given = error["msg"], f"{error['input']!r:.60}"
    if kind == "missing":
        what = "is missing"
    elif kind in {"too_short", "string_too_short"}:
        what = "must not be empty"
    elif _is_part(model):
        known = f" Known here: {', '.join(model.model_fields)}." if kind == "model_type" else ""
        return [(loc, f"must be keys and values, got {given}.{known}" if known else f"{what}.")]
    elif what.startswith("Input should"):
        for theirs, ours in WORDS:
            what = what.replace(theirs, ours)
        what += f", got {given}"
    return [(loc, f"{what}. {_remedy(info)}".strip())]


def _is_part(annotation: Any) -> TypeGuard[type[Part]]:
    return isinstance(annotation, type) and issubclass(annotation, Part)


def _remedy(info: Any) -> str:
    default = info.get_default(call_default_factory=True)
    example = info.examples[0] if info.examples else None if info.is_required() else default
    # What comes after a semicolon explains the default, not the value to write.
    return f"Set {info.description.partition(';')[0]}" + (f", such as {example}." if example not in (None, "") else ".")


def _rendered(model: type[Part], own: dict[str, Any], at: str) -> Iterable[str]:
    """The lines of a section: each key with its default (or our own value) and its description as a comment."""
    indent = "  " * at.count(".")
    for key, info in model.model_fields.items():
        if _is_part(info.annotation):
            yield from [""] * (not at)
            yield f"{indent}{key}:  # {info.description}"
            yield from _rendered(info.annotation, own, f"{at}{key}.")
            continue
        value = own[at + key] if at + key in own else info.get_default(call_default_factory=True)
        if isinstance(value, (list, tuple)):
            yield f"{indent}{key}:  # {info.description}"
            yield from (f"{indent}  - {_scalar(item)}" for item in value)
        elif isinstance(value, dict) and value:
            yield f"{indent}{key}:  # {info.description}"
            yield from (f"{indent}  {name}: {_scalar(item)}" for name, item in value.items())
        else:
            yield f"{indent}{key}: {_scalar(value)}  # {info.description}"


def _scalar(value: Any) -> str:
    # JSON is YAML; a word that YAML cannot take for anything else needs no quotes.
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", value)
    if plain and value.lower() not in {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}:
        return value
    return json.dumps(value, ensure_ascii=False)
