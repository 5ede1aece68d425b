"""Google's object store for the tests: gcp-storage-emulator, with the requests that obstore sends.

The emulator knows Google's JSON interface; obstore speaks the XML one. What that needs is added here, over the
emulator's own storage: to list, to delete, and to put under the condition that there is nothing yet.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from xml.sax.saxutils import escape

from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

BUCKET = r"^/(?P<bucket_name>[-.\w]+)$"
OBJECT = r"^/(?P<bucket_name>[-.\w]+)/(?P<object_id>.*[^/]+)$"


@contextmanager
def server(bucket: str, port: int) -> Iterator[str]:
    """The emulator with one empty bucket: its endpoint."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    usual = emulator.HANDLERS
    emulator.HANDLERS = (
        (BUCKET, {emulator.GET: _list}),
        (OBJECT, {emulator.GET: _get, emulator.PUT: _put, emulator.DELETE: objects.delete}),
    )
    running = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket=bucket)
    running.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        running.stop()
        emulator.HANDLERS = usual


def _get(request: Any, response: Any, storage: Any) -> None:
    objects.download(request, response, storage)
    response["Last-Modified"] = formatdate(usegmt=True)
    response["ETag"] = '"1"'


def _put(request: Any, response: Any, storage: Any) -> None:
    """It takes one request after the other, so nothing comes between the look and the writing."""
    if request.get_header("x-goog-if-generation-match") == "0" and _is_there(storage, request.params):
        response.status = HTTPStatus.PRECONDITION_FAILED
        return
    request._data = request.data or b""  # an empty object
    objects.xml_upload(request, response, storage)
    response["ETag"] = '"1"'


def _is_there(storage: Any, params: dict[str, str]) -> bool:
    try:
        storage.get_file_obj(params["bucket_name"], params["object_id"])
    except NotFound:
        return False
    return True


def _list(request: Any, response: Any, storage: Any) -> None:
    prefix, delimiter = (request.query.get(name, [None])[0] for name in ("prefix", "delimiter"))
    try:
        found, prefixes = storage.get_file_list(request.params["bucket_name"], prefix, delimiter)
    except NotFound:
        response.status = HTTPStatus.NOT_FOUND
        return
    contents = "".join(
        f"<Contents><Key>{escape(each['name'])}</Key><LastModified>{each['updated']}</LastModified>"
        f"<Size>{each['size']}</Size><ETag>1</ETag></Contents>"
        for each in found
    )
    common = "".join(f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in prefixes)
    response["Content-Type"] = "application/xml"
    response.write_file(f"<ListBucketResult>{contents}{common}</ListBucketResult>".encode(), "application/xml")
