"""How long something may take: `async with within(seconds)`, and `asyncio.TimeoutError` afterwards.

Python's own since 3.11; before, the package it was made from. A cancel scope of anyio's does the same for 0.1 ms more a
time, and a scoring request sets three.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

within: Callable[[float], AbstractAsyncContextManager[Any]] = (
    getattr(asyncio, "timeout", None) or importlib.import_module("async_timeout").timeout
)
