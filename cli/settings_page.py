"""The page of all settings, made from the settings themselves."""

from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from xmag.config import Settings

HEAD = """# Settings

Read once, from the environment, by every program. Groups are joined with two underscores; an unknown name is
an error. Lists and maps are JSON. Made by `xmag settings`; a test keeps this page fresh.

| variable | default | meaning |
|---|---|---|
"""


def settings_page() -> str:
    """Markdown with one row for each variable."""
    return HEAD + "".join(f"{row}\n" for row in _rows(Settings, "XMAG_"))


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        variable = prefix + name.upper()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _rows(kind, variable + "__")
        else:
            yield f"| `{variable}` | {_default(field)} | {field.description or ''} |"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return f"`{value}`" if str(value).strip("*") else "none"
