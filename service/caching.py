"""Entity tags: a browser keeps a picture, and asks whether it still holds."""

import hashlib

from fastapi import Request


def etag(*parts: str) -> str:
    """A strong tag over everything that the bytes depend on."""
    return f'"{hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]}"'


def unchanged(request: Request, tag: str) -> bool:
    """Whether the caller already holds this entity."""
    held = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    return tag in held or "*" in held
