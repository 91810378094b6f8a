"""From the body of a request to encoded images: JSON with base64, multipart forms, or one image as it is.

Bodies are read piece by piece, and no further than the limits go. What a body says about its own size is not trusted.
Nothing that a body names is fetched.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Optional

from .limits import Limits, Refused, busy

JSON, MULTIPART, BINARY = "application/json", "multipart/form-data", "application/octet-stream"
MAX_PARTS = 64  # of a form, files not counted
MAX_FIELD = 1000  # bytes of a field that is no file
MAX_HEADERS = 8192  # bytes of the headers of a part
MAX_TYPE = 1000  # characters of a Content-Type
MAX_NAME = 255  # characters of a file's name
MAX_DIGITS = 20  # of a whole number
SAMPLE = 20  # characters of a text that messages quote


@dataclass
class Images:
    """What a request asks for.

    Args:
        data: the encoded images.
        names: of their files, or None.
        topk: classes to show of each.
    """

    data: list[bytes]
    names: list[Optional[str]]
    topk: Optional[int] = None


class Memory:
    """Counts the bytes of bodies that are in memory at the same time."""

    def __init__(self, limit: int):
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> None:
        """Add bytes.

        Raises:
            Refused: there are too many.
        """
        if self.used + size > self.limit:
            raise busy(f"the requests being read hold {self.used} bytes")
        self.used += size

    def give_back(self, size: int) -> None:
        self.used -= size


async def read_body(request: Any, limits: Limits, memory: Memory) -> bytearray:
    """The body of a Starlette request. Its size has been taken from ``memory``: the caller gives it back.

    Raises:
        Refused: it is too large or compressed, comes too slowly, or ends too early.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "compressed bodies are not served; send images as they are", "serve.bad-type")
    too_large = Refused(413, f"a request may have {limits.bytes} bytes (--max-bytes)", "serve.too-large")
    length = request.headers.get("content-length")
    if length is not None and length.isdigit() and int(length) > limits.bytes:
        raise too_large
    body = bytearray()

    async def read() -> None:
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "the connection was closed before the request was complete", "serve.incomplete")
            piece = message.get("body", b"")
            if len(body) + len(piece) > limits.bytes:
                raise too_large
            memory.take(len(piece))
            body.extend(piece)
            if not message.get("more_body"):
                request.scope[READ] = True
                return

    try:
        await asyncio.wait_for(read(), limits.timeout)
    except asyncio.TimeoutError as error:
        memory.give_back(len(body))
        message = f"the request was not complete after {limits.timeout:g} seconds (--timeout)"
        raise Refused(408, message, "serve.too-slow") from error
    except BaseException:
        memory.give_back(len(body))
        raise
    return body


READ = "ppreplk.read"  # in a request's scope: whether its body has been read to the end


def parse_body(body: bytearray, content_type: str, limits: Limits) -> Images:
    """The images in a body.

    Args:
        body: the bytes.
        content_type: the header.
        limits: for the number of images.

    Raises:
        Refused: a kind of body that is not served, a malformed one, no images or too many.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON:
        images = _from_json(body, limits)
    elif kind == MULTIPART:
        images = _from_form(body, content_type, limits)
    elif kind == BINARY or kind.startswith("image/"):
        images = Images([bytes(body)], [None])
    else:
        message = f"expected a body of type {JSON}, {MULTIPART}, image/* or {BINARY}, got {kind[:100] or 'none'!r}"
        raise Refused(415, message, "serve.bad-type")
    if not images.data:
        raise Refused(400, "there are no images in the request", "serve.no-images")
    return images


def parse_topk(value: Any) -> int:
    """The number of classes to show.

    Raises:
        Refused: it is no whole number from 1 on.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Refused(400, f"topk: expected a whole number from 1 on, got {_quote(value)}", "serve.bad-topk")
    return value


def _too_many(limits: Limits) -> Refused:
    return Refused(413, f"a request may have {limits.files} images (--max-files)", "serve.too-many-files")


def _quote(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float, type(None))) else type(value).__name__
    return text if len(text) <= SAMPLE else f"{text[:SAMPLE]}..."


# ----------------------------------------------------------------------------------------------------------------------
# JSON


def _from_json(body: bytearray, limits: Limits) -> Images:
    items = sum(body.count(mark) for mark in b",[{:")  # each may become an object of a hundred bytes
    if items > 16 + 4 * max(limits.files, MAX_PARTS):
        raise _too_many(limits) if body.count(b'"') > 4 * limits.files else _not_json("too many values")
    try:
        content = json.loads(body.decode("utf-8-sig"), parse_int=_short_number, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _not_json(str(error) or "nested too deeply") from error
    if not isinstance(content, dict):
        raise _not_json(f'expected {{"images": [...]}}, got {_quote(content)}')
    unknown = sorted(set(content) - {"images", "topk"})
    if unknown:
        raise Refused(400, f"unknown key {_quote(unknown[0])}; the keys are images and topk", "serve.unknown-key")
    listed = content.get("images")
    if not isinstance(listed, list):
        message = f"images: expected a list of base64 texts, got {_quote(listed)}"
        raise Refused(400, message, "serve.bad-images")
    if len(listed) > limits.files:
        raise _too_many(limits)
    images = [_from_base64(each, index) for index, each in enumerate(listed)]
    topk = content.get("topk")
    return Images(images, [None] * len(images), None if topk is None else parse_topk(topk))


def _not_json(reason: str) -> Refused:
    return Refused(400, f"the body is not the JSON that is expected: {reason[:200]}", "serve.bad-json")


def _short_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _from_base64(text: Any, index: int) -> bytes:
    place = f"images[{index}]"
    if not isinstance(text, str):
        raise Refused(400, f"{place}: expected a base64 text, got {_quote(text)}", "serve.bad-images", index)
    if text[:8].lower().startswith(("http:", "https:", "file:", "ftp:")):
        message = f"{place}: is an address, and this service fetches none; send the image itself in base64"
        raise Refused(400, message, "serve.no-addresses", index)
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            message = f"{place}: expected data:image/...;base64,..., got {_quote(head)}"
            raise Refused(400, message, "serve.bad-base64", index)
    try:
        if "\n" in text:  # encoders of mail break lines
            text = "".join(text.split())
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, f"{place}: is not base64 ({error})", "serve.bad-base64", index) from error


# ----------------------------------------------------------------------------------------------------------------------
# Forms


@dataclass
class _Form:
    """Collects the parts of a form as the parser meets them."""

    limits: Limits
    parse_header: Any
    files: list[tuple[str, bytearray]] = field(default_factory=list)
    fields: list[tuple[str, bytearray]] = field(default_factory=list)
    complete: bool = False
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _header_bytes: int = 0  # of this part so far
    _disposition: bytes = b""
    _content: bytearray = field(default_factory=bytearray)
    _is_file: bool = False

    def on_part_begin(self) -> None:
        self._disposition, self._content, self._is_file, self._header_bytes = b"", bytearray(), False, 0

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += self._counted(data, start, end)

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._counted(data, start, end)

    def _counted(self, data: bytes, start: int, end: int) -> bytes:
        """A piece of a header. Reading a long one takes the square of its length."""
        self._header_bytes += end - start
        if self._header_bytes > MAX_HEADERS:
            message = f"the headers of a part of the form have more than {MAX_HEADERS} bytes"
            raise Refused(400, message, "serve.bad-form")
        return data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def on_headers_finished(self) -> None:
        _, options = self.parse_header(self._disposition)
        name = _text(options.get(b"name", b""))
        if b"filename" in options:
            if len(self.files) == self.limits.files:
                raise _too_many(self.limits)
            self._is_file = True
            self.files.append((_text(options[b"filename"])[:MAX_NAME], self._content))
        elif not name:
            raise Refused(400, "a part of the form has no name", "serve.bad-form")
        else:
            if len(self.fields) == MAX_PARTS:
                raise Refused(400, f"the form has more than {MAX_PARTS} fields", "serve.bad-form")
            self.fields.append((name, self._content))

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file and len(self._content) + end - start > MAX_FIELD:
            raise Refused(400, f"a field of the form has more than {MAX_FIELD} bytes", "serve.bad-form")
        self._content += memoryview(data)[start:end]

    def on_end(self) -> None:
        self.complete = True


def _text(data: bytes | bytearray) -> str:
    return data.decode("utf-8", "replace")


def _from_form(body: bytearray, content_type: str, limits: Limits) -> Images:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    if len(content_type) > MAX_TYPE:
        raise Refused(400, f"the Content-Type of the form has more than {MAX_TYPE} characters", "serve.bad-form")
    try:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise Refused(400, "the form has no boundary in its Content-Type", "serve.bad-form")
        form = _Form(limits, parse_options_header)
        names = (
            "on_part_begin on_part_data on_header_field on_header_value on_header_end on_headers_finished on_end"
        ).split()
        callbacks: Any = {name: getattr(form, name) for name in names}
        parser = MultipartParser(boundary, callbacks)
        parser.write(bytes(body))
        parser.finalize()
    except FormParserError as error:
        raise Refused(400, f"the form is malformed ({str(error)[:200]})", "serve.bad-form") from error
    if not form.complete:
        raise Refused(400, "the form ends before its last boundary", "serve.bad-form")
    topk = _topk_of(form.fields)
    return Images([bytes(content) for _, content in form.files], [name or None for name, _ in form.files], topk)


def _topk_of(fields: Iterable[tuple[str, bytearray]]) -> Optional[int]:
    topk = None
    for name, value in fields:
        if name == "topk":
            topk = parse_topk(_text(value))
        elif name in ("image", "images", "file", "files"):
            raise Refused(400, f"the part {name!r} is no file: it has no file name", "serve.bad-form")
        else:
            raise Refused(400, f"unknown field {_quote(name)}; besides files there is topk", "serve.unknown-key")
    return topk
