"""What an operator mistypes is named."""

import pytest

from xmag.config import load_settings
from xmag.errors import Code, PlaceError


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("XMAG_TRUSTED_KEYS", "bm8ganNvbg==", "trusted_keys"),
        ("XMAG_SLIDE_ROOTS", "/slides", "slide_roots"),
        ("XMAG_PORT", "http", "XMAG_PORT"),
        ("XMAG_LEASE__SECONDS", "-1", "XMAG_LEASE__SECONDS"),
        ("XMAG_LEASE__MINUTES", "1", "XMAG_LEASE__MINUTES"),
        ("XMAG_SLIDE_ROOT", "/slides", "XMAG_SLIDE_ROOT"),
    ],
)
def test_a_wrong_setting_is_a_typed_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, word: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(PlaceError, match=word) as caught:
        load_settings()
    assert caught.value.code is Code.SETUP
    assert value not in caught.value.detail.split()


def test_production_refuses_a_placeholder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMAG_ENV", "production")
    monkeypatch.setenv("XMAG_DATABASE_URL", "postgresql+psycopg://xmag:changeme@db/xmag")
    with pytest.raises(PlaceError, match="placeholder") as caught:
        load_settings()
    assert "changeme" not in caught.value.detail
