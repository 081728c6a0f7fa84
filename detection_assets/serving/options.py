"""The server's command line."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from detection_assets.domain.problems import InputError
from detection_assets.serving import bundle
from detection_assets.serving.bundle import Bundle
from detection_assets.serving.scoring import Limits
from detection_assets.serving.slots import Slots

KEY_VARIABLE = "DETECTION_ENDPOINT_KEY"


def read_options(arguments: list[str]) -> tuple[argparse.Namespace, str | None, Slots, Bundle | None]:
    """Reads the command line.

    Args:
        arguments: What follows the program's name.

    Returns:
        The options, the key that callers must send (None if they need none), the slots, not yet started, and with
        `--model` what they hold.

    Raises:
        SystemExit: An option is wrong; the message says which.
    """
    usual = Limits()
    parser = argparse.ArgumentParser(
        prog="detection_assets.serving.app", description="Serves a detector over HTTP until it is told to end."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--state", type=Path, help="state file to follow")
    what.add_argument(
        "--model",
        nargs="?",
        const="",
        help="serve this .onnx file, or the one in this folder, and follow nothing; without a path, the model that the "
        f"cloud put in ${bundle.AZURE_VARIABLE} or {bundle.SAGEMAKER}",
    )
    parser.add_argument("--version", help="with --model: its version; else its digest's first 12 digits")
    parser.add_argument("--detector", help="with --model: the detector's name; else the file's")
    parser.add_argument("--confidence", type=float, help="with --model: boxes must be more confident than this")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind; loopback unless told otherwise")
    parser.add_argument("--port", type=int, default=8000)
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument("--key-file", type=Path, help=f"file that holds the key; else the environment's {KEY_VARIABLE}")
    keys.add_argument(
        "--no-key", action="store_true", help="ask for no key: where the cloud's own front knows the callers"
    )
    parser.add_argument("--threads", type=int, help="cores for a model; all if left out")
    parser.add_argument("--queue", type=int, default=usual.queue, help="requests that may wait for a model")
    parser.add_argument("--max-body", type=int, default=usual.body_bytes, help="bytes")
    parser.add_argument("--max-pixels", type=int, default=usual.pixels)
    parser.add_argument("--timeout", type=float, default=usual.timeout_s, help="seconds from admission to answer")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    options = parser.parse_args(arguments)
    return options, _key(parser, options), *_slots(parser, options)


def _key(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str | None:
    if options.no_key:
        return None
    try:
        key = options.key_file.read_text().strip() if options.key_file else os.environ.get(KEY_VARIABLE, "")
    except OSError as error:
        parser.error(f"--key-file {options.key_file}: {error.strerror}")
    if not key:
        parser.error(
            f"an endpoint needs a key: set {KEY_VARIABLE}, pass --key-file with a file that is not empty, or --no-key"
        )
    return key


def _slots(parser: argparse.ArgumentParser, options: argparse.Namespace) -> tuple[Slots, Bundle | None]:
    about = {name: getattr(options, name) for name in ("version", "detector", "confidence")}
    if options.model is None:
        given = [f"--{name}" for name, value in about.items() if value is not None]
        if given:
            parser.error(f"{', '.join(given)}: the state file says that; only for --model")
        return Slots(options.state.absolute(), threads=options.threads), None
    try:
        place = Path(options.model) if options.model else bundle.usual_place()
        found = bundle.find(place, **about)
        return Slots(found.state(), threads=options.threads), found
    except InputError as error:
        parser.error(f"--model: {error}")
