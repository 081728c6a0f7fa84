"""Reads a Dockerfile line by line, and carries out what can be carried out without a builder."""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from project import ROOT


@dataclass(frozen=True)
class Instruction:
    """One instruction: its word, and what follows without the options that begin with two hyphens."""

    word: str
    rest: str

    @property
    def words(self) -> list[str]:
        """What follows, word by word, options left out."""
        return [word for word in shlex.split(self.rest) if not word.startswith("--")]


@dataclass
class Stage:
    """What stands below one FROM."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def every(self, word: str) -> Iterator[Instruction]:
        """The instructions of one kind."""
        return (one for one in self.instructions if one.word == word)

    def copies(self) -> Iterator[tuple[Sequence[str], str]]:
        """What is copied from the folder that is built, and where to."""
        for one in self.every("COPY"):
            if "--from=" not in one.rest:
                *sources, target = one.words
                yield sources, target

    def environment(self) -> dict[str, str]:
        """What ENV sets."""
        return dict(word.split("=", 1) for one in self.every("ENV") for word in one.words)


def stages(path: Path) -> list[Stage]:
    """The stages of a Dockerfile, in their order; what ARG gives before the first is put in."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    arguments: dict[str, str] = {}
    found: list[Stage] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "ARG" and not found:
            name, _, value = rest.partition("=")
            arguments[name] = value
        elif word == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], base), name))
        elif word:
            found[-1].instructions.append(Instruction(word, rest.strip()))
    return found


def is_sent(path: str) -> bool:
    """Whether `.dockerignore` lets a file through to the builder; the last rule that fits decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        pattern, parts = rule.removeprefix("!"), path.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        short = pattern.removeprefix("**/")
        names = parts if short != pattern else []
        if any(fnmatch.fnmatch(one, pattern) for one in above) or any(fnmatch.fnmatch(one, short) for one in names):
            sent = rule.startswith("!")
    return sent


def sources(named: str) -> list[Path]:
    """The files that a source of COPY means, below the folder that is built."""
    here = ROOT / named
    files = [here] if here.is_file() else [path for path in here.rglob("*") if path.is_file()]
    return [path for path in files if is_sent(path.relative_to(ROOT).as_posix())]


def copy(stage: Stage, root: Path) -> None:
    """Copies what a stage copies below a root of its own, by its WORKDIR."""
    at = "/"
    for one in stage.instructions:
        if one.word == "WORKDIR":
            at = one.rest
        elif one.word == "COPY" and "--from=" not in one.rest:
            *named, target = one.words
            for source in named:
                for path in sources(source):
                    inside = path.relative_to(ROOT / source) if (ROOT / source).is_dir() else Path(path.name)
                    whole = Path(at, target)
                    if not (ROOT / source).is_dir() and not target.endswith("/"):
                        whole, inside = whole.parent, Path(whole.name)
                    put = root / str(whole / inside).lstrip("/")
                    put.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, put)
