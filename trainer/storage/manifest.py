"""Manifests: size and sha256 of files, in a file that carries its own sha256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from trainer.storage.parsing import from_json
from trainer.storage.schema import FileFacts

DIFFERENT = "is not what was written: its sha256 differs"


def facts(content: bytes) -> FileFacts:
    """Return size in bytes and sha256 in hexadecimal."""
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def damage(content: bytes | None, expected: FileFacts) -> str | None:
    """Return what is wrong with a file, or None if it is as it was written; `content` is None if it is missing."""
    if content is None:
        return "is missing"
    if len(content) != expected["size"]:
        return f"has {len(content)} bytes instead of {expected['size']}"
    return None if facts(content) == expected else DIFFERENT


def seal(content: Mapping[str, Any]) -> bytes:
    """Return the file that holds this content and its sha256."""
    sha256 = facts(json.dumps(content, indent=1, sort_keys=True).encode())["sha256"]
    return json.dumps({"manifest": content, "sha256": sha256}, indent=1, sort_keys=True).encode()


def unseal(sealed: bytes) -> dict[str, Any]:
    """Return the content of a sealed file.

    Raises:
        ValueError: it is damaged; says how.
    """
    try:
        content: dict[str, Any] = from_json(sealed)["manifest"]
        same = seal(content) == sealed
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("is truncated or damaged") from None
    if not same:
        raise ValueError(DIFFERENT)
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__} instead of an object")
    return content
