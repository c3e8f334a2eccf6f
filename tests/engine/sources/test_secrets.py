"""No credential comes out again: not where a server echoes it, not where it is broken, not in a URL."""

import base64
import functools
import json
import re
import secrets
from urllib.parse import quote, unquote

import pytest

from slipway_engine.cli.main import main
from slipway_engine.sources.download import Downloader, Patience

SOURCES = {
    "hf": "hf://team/private",
    "https": "{url}/m.gguf",
    "s3": "s3://models/llama",
    "gs": "gs://models/llama",
    "oci": "oci://{host}/team/model:1",
}
ENDPOINTS = ("HF_ENDPOINT", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST")
QUICK = Patience(connect=2, read=2, window=2, attempts=2, first_pause=0.01, longest_pause=0.01)


class Echoing(dict):
    """The script of a server that answers every request with `status`, and with all that it was sent."""

    def __init__(self, status, hint=""):
        super().__init__()
        self.status, self.hint = status, hint

    def get(self, path, default=None):
        return [self.answer]

    def answer(self, handler):
        sent = " ".join(str(value) for value in handler.headers.values())
        # Keys are in no request; what a careless server knows of them it may say all the same.
        said = f"{sent} {unquote(handler.path)} {self.hint}"
        xml = f"<Error><Code>Denied</Code><Message>{quote(said)} {self.hint}</Message></Error>"
        body = (
            xml if "/models" in handler.path else json.dumps({"error": said, "errors": [{"message": said}]})
        )
        handler.answer(
            self.status,
            body.encode(),
            X_Error_Message=said,
            X_Error_Code=said,
            Location=f"/again?token={quote(said)}",
        )


@pytest.fixture
def values(monkeypatch):
    """A secret of each kind, random, as the environment of a fetch has them."""
    made = {
        "HF_TOKEN": f"hf_{secrets.token_hex(12)}",
        "AWS_ACCESS_KEY_ID": f"AKIA{secrets.token_hex(8).upper()}",
        "AWS_SECRET_ACCESS_KEY": f"{secrets.token_hex(8)}/{secrets.token_hex(8)}+",
        "AWS_SESSION_TOKEN": secrets.token_hex(20),
    }
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def told(web, values, monkeypatch, tmp_path, capfd):
    """Run a command as a pod does; return everything that it said, its last words included."""
    for name in ENDPOINTS:
        monkeypatch.setenv(name, web.url)
    monkeypatch.setenv("SLIPWAY_TERMINATION_LOG", str(tmp_path / "last-words"))
    for module in ("fetch", "inspect"):
        quick = functools.partial(Downloader, QUICK, sleep=lambda seconds: None)
        monkeypatch.setattr(f"slipway_engine.sources.{module}.Downloader", quick)
    monkeypatch.setattr("slipway_engine.sources.hub._ATTEMPTS", 1)

    def told(command, source):
        named = source.format(url=web.url, host=web.url.removeprefix("http://"))
        more = ["--to", str(tmp_path / "model")] if command == "fetch" else []
        assert main([command, named, *more]) == 1
        printed = capfd.readouterr()
        last = (tmp_path / "last-words").read_text()
        assert json.loads(last)["reason"] != "Internal", last
        return f"{printed.out}\n{printed.err}\n{last}"

    return told


def assert_silent(text, values):
    for value in values:
        for spelled in (value, quote(value, safe=""), base64.b64encode(value.encode()).decode()):
            assert spelled not in text, f"{spelled} came out: {text}"


@pytest.mark.parametrize("scheme", SOURCES)
@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 418, 500])
@pytest.mark.parametrize("command", ["fetch", "inspect"])
def test_what_a_server_echoes_is_not_said_again(web, values, told, scheme, status, command):
    web.script = Echoing(status, hint=f"{values['AWS_SECRET_ACCESS_KEY']} {values['HF_TOKEN']}")
    text = told(command, SOURCES[scheme])
    assert web.requests, "somebody was asked"
    assert_silent(text, values.values())


@pytest.mark.parametrize("scheme", ["hf", "https", "oci"])
@pytest.mark.parametrize("broken", ["{}\n", "{}\nsecond", "é{}", "{}\x00"])
def test_a_broken_token_is_not_shown(web, values, told, monkeypatch, scheme, broken):
    if "\x00" not in broken:  # no environment can hold one
        monkeypatch.setenv("HF_TOKEN", broken.format(values["HF_TOKEN"]))
    web.script = Echoing(401)
    assert_silent(told("fetch", SOURCES[scheme]), values.values())


def test_a_line_break_at_the_end_belongs_to_the_file_that_the_token_came_from(web, values, told, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", f"{values['HF_TOKEN']}\n")
    told("fetch", "{url}/m.gguf")
    (_, headers), *_ = web.requests
    assert headers["Authorization"] == f"Bearer {values['HF_TOKEN']}"


@pytest.mark.parametrize("place", ["source", "HF_ENDPOINT", "AWS_ENDPOINT_URL_S3", "HTTPS_PROXY"])
def test_a_password_in_a_url_is_not_shown(web, values, told, monkeypatch, place):
    password = secrets.token_hex(12)
    there = re.sub("://", f"://user:{password}@", web.url)
    web.script = Echoing(403, hint=password)
    sources = {
        "source": f"{there}/m.gguf",
        "HF_ENDPOINT": SOURCES["hf"],
        "AWS_ENDPOINT_URL_S3": SOURCES["s3"],
    }
    if place != "source":
        monkeypatch.setenv(place, there)
    text = told("fetch", sources.get(place, "https://models.invalid/m.gguf"))
    assert_silent(text, [password, *values.values()])
