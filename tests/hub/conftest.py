"""A hub of our own, to which huggingface_hub's settings lead; nothing else can be reached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.utils
import pytest
from huggingface_hub import constants, file_download
from support.fake_hub import FakeHub

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """huggingface_hub as on a machine where nobody has used it; timeouts of a second."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", *PROXIES, *(p.lower() for p in PROXIES)):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_STORED_TOKENS_PATH": str(tmp_path / "stored_tokens"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": False,
        "HF_HUB_DISABLE_TELEMETRY": False,
        "HF_HUB_ETAG_TIMEOUT": 1,
        "HF_HUB_DOWNLOAD_TIMEOUT": 1,
    }.items():
        monkeypatch.setattr(constants, name, value)
    getattr(huggingface_hub.utils, "close_session", lambda: None)()
    return monkeypatch


@pytest.fixture
def hub(settings: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub().serving() as served:
        settings.setattr(constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        for module in (constants, file_download):  # where version 0 looks for it, too
            settings.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        yield served
