"""One file over HTTP, from a real server on loopback that cuts, stalls, lies and comes back."""

import hashlib
import os
import time

import pytest

from slipway_engine.errors import (
    DownloadFailed,
    InvalidArgument,
    ModelAccessDenied,
    ModelCorrupt,
    ModelNotFound,
)
from slipway_engine.sources.download import Downloader, Patience, RemoteFile, is_loopback

BODY = os.urandom(300_000)
FAST = Patience(connect=2, read=0.3, window=0.5, least_bytes=1000, attempts=3, first_pause=0.01)


def fetch(web, target, path="/m.gguf", patience=FAST, **fields):
    reports, waits = [], []
    with Downloader(patience, sleep=waits.append) as downloader:
        file = RemoteFile(f"{web.url}{path}", path[1:], **fields)
        downloader.fetch(file, target, lambda done, total: reports.append((done, total)))
    return reports, waits


def leftovers(directory):
    return [path.name for path in directory.iterdir() if path.name.endswith(".part")]


def test_a_file_arrives_whole_and_its_progress_is_told(web, tmp_path):
    web.files["/m.gguf"] = BODY
    reports, _ = fetch(
        web, tmp_path / "m.gguf", size=len(BODY), digests={"SHA-256": hashlib.sha256(BODY).hexdigest()}
    )
    assert (tmp_path / "m.gguf").read_bytes() == BODY
    assert reports[0] == (0, len(BODY))
    assert reports[-1] == (len(BODY), len(BODY))
    assert leftovers(tmp_path) == []


def test_a_broken_connection_is_resumed_where_it_broke(web, tmp_path):
    web.files["/m.gguf"] = BODY
    web.script["/m.gguf"] = ["cut"]
    fetch(web, tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_bytes() == BODY
    ranges = [headers.get("Range") for _, headers in web.requests]
    assert ranges[-1] is not None
    assert 0 < int(ranges[-1].removeprefix("bytes=").removesuffix("-")) < len(BODY)


def test_another_process_resumes_what_the_first_left(web, tmp_path):
    web.files["/m.gguf"] = BODY
    web.script["/m.gguf"] = ["cut", 500, 500]
    with pytest.raises(DownloadFailed):
        fetch(web, tmp_path / "m.gguf", patience=Patience(attempts=1, first_pause=0.01))
    assert len(leftovers(tmp_path)) == 1
    web.script.clear()
    fetch(web, tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_bytes() == BODY
    assert web.requests[-1][1]["Range"].startswith("bytes=")


def test_what_is_left_of_another_version_is_not_continued(web, tmp_path):
    web.files["/m.gguf"] = os.urandom(300_000)
    web.script["/m.gguf"] = ["cut", 500, 500]
    with pytest.raises(DownloadFailed):
        fetch(web, tmp_path / "m.gguf", patience=Patience(attempts=1, first_pause=0.01))
    web.script.clear()
    web.files["/m.gguf"] = BODY
    fetch(web, tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_bytes() == BODY
    assert leftovers(tmp_path) == []


def test_a_server_that_cannot_resume_sends_it_all_again(web, tmp_path):
    web.files["/m.gguf"] = BODY
    web.script["/m.gguf"] = ["cut", None, "ignore range"]
    fetch(web, tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_bytes() == BODY


def test_without_a_validator_nothing_is_put_together(web, tmp_path):
    web.files["/m.gguf"] = BODY

    def cut_without_etag(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY)))
        handler.end_headers()
        handler.wfile.write(BODY[:1000])
        handler.close_connection = True

    web.script["/m.gguf"] = [cut_without_etag, "no etag"]
    fetch(web, tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_bytes() == BODY
    assert all("Range" not in headers for _, headers in web.requests)


@pytest.mark.parametrize("misdeed", ["stall", "trickle"])
def test_a_download_that_stands_still_has_a_deadline(web, tmp_path, misdeed, endless):
    web.files["/m.gguf"] = BODY[:2000]
    web.script["/m.gguf"] = endless(misdeed)
    began = time.monotonic()
    with pytest.raises(DownloadFailed, match="attempts in a row"):
        fetch(web, tmp_path / "m.gguf")
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_what_may_pass_is_tried_again_with_growing_pauses(web, tmp_path, status):
    web.files["/m.gguf"] = BODY
    web.script["/m.gguf"] = [status, status]
    _, waits = fetch(web, tmp_path / "m.gguf", patience=Patience(attempts=4, first_pause=1))
    assert (tmp_path / "m.gguf").read_bytes() == BODY
    assert len(waits) == 2
    assert 0.5 <= waits[0] <= 1
    assert 1 <= waits[1] <= 2


def test_a_pause_that_the_server_asks_for_is_kept(web, tmp_path):
    web.files["/m.gguf"] = BODY
    web.script["/m.gguf"] = [lambda handler: handler.answer(503, b"", Retry_After="7")]
    _, waits = fetch(web, tmp_path / "m.gguf")
    assert waits == [7]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, ModelNotFound),
        (410, ModelNotFound),
        (401, ModelAccessDenied),
        (403, ModelAccessDenied),
        (418, DownloadFailed),
    ],
)
def test_what_will_not_pass_is_not_tried_again(web, tmp_path, status, kind):
    web.script["/m.gguf"] = [status]
    with pytest.raises(kind, match=r"m\.gguf"):
        fetch(web, tmp_path / "m.gguf")
    assert len(web.requests) == 1


def test_a_server_that_is_not_there(tmp_path):
    class Nobody:
        url = "http://127.0.0.1:9"

    with pytest.raises(DownloadFailed, match="check the network"):
        fetch(Nobody, tmp_path / "m.gguf")


def test_a_wrong_checksum_is_refused_and_nothing_stays(web, tmp_path):
    web.files["/m.gguf"] = BODY
    with pytest.raises(ModelCorrupt, match="SHA-256"):
        fetch(web, tmp_path / "m.gguf", digests={"SHA-256": "0" * 64})
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_contradicts_the_hub_is_refused(web, tmp_path):
    web.files["/m.gguf"] = BODY
    with pytest.raises(ModelCorrupt, match="announces 300000 bytes"):
        fetch(web, tmp_path / "m.gguf", size=5)


def test_more_bytes_than_known_are_refused_where_nothing_was_announced(web, tmp_path):
    web.files["/m.gguf"] = BODY
    web.script["/m.gguf"] = ["chunked"]
    with pytest.raises(ModelCorrupt, match="more than the 5 bytes"):
        fetch(web, tmp_path / "m.gguf", size=5)


def test_a_file_without_a_length_is_taken(web, tmp_path):
    web.files["/m.gguf"] = BODY
    web.script["/m.gguf"] = ["chunked"]
    fetch(web, tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_bytes() == BODY


def test_a_file_larger_than_the_disk_is_refused_before_it_is_fetched(web, tmp_path):
    def huge(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(10**15))
        handler.end_headers()
        handler.close_connection = True

    web.script["/m.gguf"] = [huge]
    with pytest.raises(Exception, match="give the volume more room"):
        fetch(web, tmp_path / "m.gguf")


def test_a_redirect_is_followed_without_the_token(web, tmp_path):
    web.files["/real"] = BODY
    other = web.url.replace("127.0.0.1", "localhost")
    web.script["/m.gguf"] = [lambda handler: handler.answer(302, b"", Location=f"{other}/real")]
    fetch(web, tmp_path / "m.gguf", headers={"Authorization": "Bearer secret"})
    assert (tmp_path / "m.gguf").read_bytes() == BODY
    first, second = (headers for _, headers in web.requests)
    assert first["Authorization"] == "Bearer secret"
    assert "Authorization" not in second


@pytest.mark.parametrize(
    "address", ["http://example.invalid/x.gguf", "http://10.0.0.1/x.gguf", "http://169.254.169.254/"]
)
def test_plain_http_to_other_machines_is_refused_also_behind_a_redirect(web, tmp_path, address):
    web.script["/m.gguf"] = [lambda handler: handler.answer(302, b"", Location=address)]
    with pytest.raises(InvalidArgument, match="--allow-http"):
        fetch(web, tmp_path / "m.gguf")


def test_a_circle_of_redirects_ends(web, tmp_path, endless):
    web.script["/m.gguf"] = endless(lambda handler: handler.answer(302, b"", Location="/m.gguf"))
    with pytest.raises(DownloadFailed, match="cannot be followed"):
        fetch(web, tmp_path / "m.gguf")


def test_messages_hold_no_query(web, tmp_path):
    with pytest.raises(ModelNotFound) as refused:
        fetch(web, tmp_path / "m.gguf", path="/m.gguf?signature=secret")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("a.b", False)],
)
def test_which_hosts_are_this_machine(host, local):
    assert is_loopback(host) is local
