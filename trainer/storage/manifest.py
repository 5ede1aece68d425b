"""Manifests: what the bytes of some files must be, in a file that says whether it is itself as it was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

MANIFEST = "MANIFEST.json"
ANOTHER = "is not what was written: its sha256 is another"


def facts(content: bytes) -> dict[str, Any]:
    """What a manifest says of a file: ``size`` in bytes, ``sha256`` in hexadecimal."""
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def damage(content: bytes | None, expected: Mapping[str, Any]) -> str | None:
    """What is wrong with a file, or None if it is as it was written; `content` is None if it is gone."""
    if content is None:
        return "is missing"
    if len(content) != expected["size"]:
        return f"has {len(content)} bytes instead of {expected['size']}"
    return None if facts(content) == expected else ANOTHER


def seal(content: Mapping[str, Any]) -> bytes:
    """The file that says this, with a sha256 of it."""
    sha256 = facts(json.dumps(content, indent=1, sort_keys=True).encode())["sha256"]
    return json.dumps({"manifest": content, "sha256": sha256}, indent=1, sort_keys=True).encode()


def unseal(sealed: bytes) -> dict[str, Any]:
    """What such a file says.

    Raises:
        ValueError: it is damaged; says how.
    """
    try:
        content: dict[str, Any] = json.loads(sealed)["manifest"]
    except (ValueError, KeyError, TypeError):
        raise ValueError("is cut or damaged") from None
    if seal(content) != sealed:
        raise ValueError(ANOTHER)
    return content
