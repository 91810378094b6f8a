"""The routes of the service, and what each of them answers."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Optional, Protocol

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..deploy.predict import Prediction
from ..utils.errors import UserError
from .batching import Batcher, QueueFull
from .bodies import READ, Images, Memory, parse_body, parse_topk, read_body
from .counters import CONTENT_TYPE, SECONDS, Counter, Gauge, Histogram, Metric, exposition, resident_bytes
from .headers import check_header
from .limits import Limits, Refused, busy, check_host, check_site
from .page import page_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

logger = logging.getLogger(__name__)

LINGER_SECONDS = 2.0  # in which the rest of a refused body is thrown away, so that its sender reads the answer
FIELDS_WAITING = 2  # requests for a receptive field, besides the one that is computed
STATUS_OF = {"data.too-many-pixels": 413}  # of errors that other rooms raise about an image; 422 for the others
PATHS = ("/", "/predict", "/field", "/health", "/metrics", "/info")


class Model(Protocol):
    """What predicts: a :class:`~ppreplk.Predictor`, or something that does the same in another process."""

    topk: int

    def prepare(self, image: bytes, name: str) -> np.ndarray:
        """An encoded image as the network reads it."""

    def classify(self, names: Sequence[str], images: Sequence[np.ndarray], topk: Optional[int]) -> list[Prediction]:
        """Predictions of one batch."""


class Service:
    """The state behind the routes: the model, its batches, the threads that decode, and the counters.

    Args:
        model: what predicts.
        info: what ``/info`` answers.
        limits: of requests.
        max_batch, max_wait: see :class:`~ppreplk.serve.batching.Batcher`.
        decoders: threads that decode.
        field: from an encoded image to its receptive field; None where the weights are not known.
        program_pid: asks for the process that runs the program; None where it is this one.
        can_run: asks whether the program can be run.
        listening_on, names: see :func:`~ppreplk.serve.limits.check_host`.
    """

    def __init__(
        self,
        model: Model,
        info: dict[str, Any],
        limits: Limits,
        max_batch: int = 16,
        max_wait: float = 0.005,
        decoders: int = 2,
        field: Optional[Callable[[bytes], dict[str, Any]]] = None,
        program_pid: Callable[[], Optional[int]] = lambda: None,
        can_run: Callable[[], bool] = lambda: True,
        listening_on: str = "127.0.0.1",
        names: Sequence[str] = (),
    ):
        self.model = model
        self.limits = limits
        self.field = field
        self._program_pid = program_pid
        self._can_run = can_run
        self.listening_on = listening_on
        self.names = names
        self.info = {**info, "field": field is not None, "limits": dataclasses.asdict(limits)}
        self.memory = Memory(limits.bytes_together)
        self.in_flight = 0
        self.fields_waiting = 0
        self._decoders = ThreadPoolExecutor(decoders, "ppreplk-decode")
        self._field_thread = ThreadPoolExecutor(1, "ppreplk-field")
        self._count()
        self.batcher = Batcher(self._classify, max_batch, max_wait, limits.queue, self._watch_batch)

    def close(self) -> None:
        """Finish what is being computed. Nobody waits for what has not begun."""
        self._decoders.shutdown(cancel_futures=True)
        self._field_thread.shutdown(cancel_futures=True)
        self.batcher.close()

    def _classify(self, images: list[np.ndarray], topk: int) -> list[Prediction]:
        return self.model.classify([f"images[{index}]" for index in range(len(images))], images, topk)

    # ------------------------------------------------------------------------------------------------------------------
    # Counting

    def _count(self) -> None:
        self.requests = Counter("ppreplk_requests_total", "Requests by path and status.")
        self.errors = Counter("ppreplk_errors_total", "Refused requests by the code of the error.")
        self.images = Counter("ppreplk_images_total", "Images predicted.")
        self.seconds = Histogram("ppreplk_request_seconds", "From the first byte to the answer of /predict.", SECONDS)
        self.decode_seconds = Histogram("ppreplk_decode_seconds", "Decoding and transforming an image.", SECONDS)
        self.queue_seconds = Histogram("ppreplk_queue_seconds", "An image waiting for its batch.", SECONDS)
        self.batch_seconds = Histogram("ppreplk_batch_seconds", "The program running on a batch.", SECONDS)
        self.batch_sizes = Histogram("ppreplk_batch_images", "Images of a batch.", [1, 2, 4, 8, 16, 32, 64])
        started = time.time()
        self.metrics: list[Metric] = [
            *(self.requests, self.errors, self.images, self.seconds, self.decode_seconds),
            *(self.queue_seconds, self.batch_seconds, self.batch_sizes),
            Gauge("ppreplk_requests_in_flight", "Requests being read or answered.", lambda: self.in_flight),
            Gauge("ppreplk_queue_images", "Images waiting.", lambda: self.batcher.waiting),
            Gauge("ppreplk_body_bytes", "Bytes of requests in memory.", lambda: self.memory.used),
            Gauge("process_resident_memory_bytes", "Memory of the process that answers.", resident_bytes),
            Gauge(
                "ppreplk_program_resident_memory_bytes", "Memory of the process of the program.", self._program_bytes
            ),
            Gauge("process_start_time_seconds", "When the process started.", lambda: started),
        ]

    def _program_bytes(self) -> float:
        return resident_bytes(self._program_pid() or "self")

    def _watch_batch(self, size: int, seconds: float, waited: list[float]) -> None:
        self.batch_sizes.observe(size)
        self.batch_seconds.observe(seconds)
        for each in waited:
            self.queue_seconds.observe(each)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """A request is served in this block.

        Raises:
            Refused: so many are being served already.
        """
        if self.in_flight >= self.limits.concurrency:
            raise busy(f"{self.in_flight} requests are being served (--concurrency)")
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    @asynccontextmanager
    async def received(self, request: Request) -> AsyncIterator[Images]:
        """The images of a request, which is served in this block. Their bytes count until its end.

        Raises:
            Refused: so many requests are being served already, or it is not one that can be.
        """
        with self.admit():
            body = await read_body(request, self.limits, self.memory)
            size = len(body)
            try:
                images = await self._in_pool(parse_body, body, request.headers.get("content-type", ""), self.limits)
                del body
                yield images
            finally:
                self.memory.give_back(size)

    # ------------------------------------------------------------------------------------------------------------------
    # Routes

    async def page(self, request: Request) -> Response:
        return page_response()

    async def health(self, request: Request) -> Response:
        alive = self.batcher.is_alive and self._can_run()
        return JSONResponse({"status": "ok" if alive else "the program does not run"}, 200 if alive else 503)

    async def show_metrics(self, request: Request) -> Response:
        return Response(exposition(self.metrics), headers={"content-type": CONTENT_TYPE})

    async def show_info(self, request: Request) -> Response:
        return _json(self.info)

    async def predict(self, request: Request) -> Response:
        start = time.perf_counter()
        async with self.received(request) as images:
            if "topk" in request.query_params:
                images.topk = parse_topk(request.query_params["topk"])
            try:
                response = await asyncio.wait_for(self._predict(images), self.limits.timeout)
            except asyncio.TimeoutError as error:
                message = f"no answer after {self.limits.timeout:g} seconds (--timeout)"
                raise Refused(503, message, "serve.no-answer") from error
        self.seconds.observe(time.perf_counter() - start)
        return response

    async def _predict(self, images: Images) -> Response:
        start = time.perf_counter()
        topk = images.topk or self.model.topk
        try:
            with self.batcher.announce(len(images.data)):
                prepared = await asyncio.gather(
                    *(self._in_pool(self._prepare, data, index) for index, data in enumerate(images.data)),
                    return_exceptions=True,
                )
                decoded = time.perf_counter()
                good = [each for each in prepared if isinstance(each, np.ndarray)]
                futures = self.batcher.submit(good, topk)
        except QueueFull as error:
            raise busy(str(error)) from error
        found = iter(await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True))
        outcomes: list[Any] = [next(found) if isinstance(each, np.ndarray) else each for each in prepared]
        errors: dict[int, UserError] = {}
        for index, each in enumerate(outcomes):
            if isinstance(each, UserError) and _status(each) < 500:
                errors[index] = each
            elif isinstance(each, BaseException):
                raise each
        self.images.add(len(outcomes) - len(errors))
        content: dict[str, Any] = {
            "predictions": [
                None if index in errors else _shown(outcomes[index], index, name, topk)
                for index, name in enumerate(images.names)
            ],
            "milliseconds": {
                "decode": round(1000 * (decoded - start), 2),
                "predict": round(1000 * (time.perf_counter() - decoded), 2),
            },
        }
        if errors:
            listed = [_error(error, index) for index, error in errors.items()]
            for each in listed:
                self.errors.add(code=each["code"])
            return _json({"error": listed[0], "errors": listed, **content}, _status(next(iter(errors.values()))))
        return _json(content)

    def _prepare(self, data: bytes, index: int) -> np.ndarray:
        start = time.perf_counter()
        name = f"images[{index}]"
        try:
            check_header(data, self.limits)
        except Refused as error:
            raise error.at(name) from error
        array = self.model.prepare(data, name)
        self.decode_seconds.observe(time.perf_counter() - start)
        return array

    async def show_field(self, request: Request) -> Response:
        if self.field is None:
            message = "no weights are known, only the program; start the service with --weights"
            raise Refused(404, message, "serve.no-weights")
        async with self.received(request) as images:
            if len(images.data) > 1:
                raise Refused(400, "a receptive field is that of one image", "serve.too-many-files")
            if self.fields_waiting > FIELDS_WAITING:
                raise busy("other receptive fields are being computed")
            check_header(images.data[0], self.limits)
            self.fields_waiting += 1
            try:
                loop = asyncio.get_running_loop()
                return _json(await loop.run_in_executor(self._field_thread, self.field, images.data[0]))
            finally:
                self.fields_waiting -= 1

    async def _in_pool(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, *arguments)

    # ------------------------------------------------------------------------------------------------------------------
    # Around every route

    def route(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """``endpoint``, whose errors are answered and counted."""

        async def answer(request: Request) -> Response:
            try:
                check_host(request.headers.get("host"), self.listening_on, self.names)
                if request.method == "POST":
                    check_site(request.headers.get("sec-fetch-site"))
                response = await endpoint(request)
            except UserError as error:
                response = self.refuse(request, error)
            except Exception:
                logger.exception("a defect of the service, %s %s", request.method, request.url.path)
                response = self.refuse(request, Refused(500, "a defect of the service; see its log", "serve.defect"))
            self.requests.add(path=request.url.path, status=str(response.status_code))
            return response

        return answer

    def refuse(self, request: Request, error: UserError) -> Response:
        self.errors.add(code=error.code)
        return Refusal({"error": _error(error, getattr(error, "index", None))}, _status(error))

    async def unknown(self, request: Request, error: Exception) -> Response:
        """Answer what no route serves."""
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            text, code = f"{request.method} is not served at {request.url.path}", "serve.bad-method"
        else:
            text, code = f"there is nothing here; these paths are: {', '.join(PATHS)}", "serve.unknown-path"
        response = self.refuse(request, Refused(error.status_code, text, code))
        response.headers.update(error.headers or {})
        self.requests.add(path="other", status=str(error.status_code))
        return response


class Refusal(JSONResponse):
    """An error. Where the request has not been read to its end, the connection is closed after the answer.

    Closing it at once would throw the answer away too, for a client that is still sending. So the rest is read and
    forgotten for a moment.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] in ("GET", "HEAD") or scope.get(READ):
            await super().__call__(scope, receive, send)
            return
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            await asyncio.wait_for(_throw_away(receive), LINGER_SECONDS)
        except asyncio.TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _throw_away(receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    more = True
    while more:
        message = await receive()
        more = message["type"] == "http.request" and message.get("more_body", False)


def build_app(service: Service) -> Starlette:
    """The routes of a service as an ASGI application."""
    endpoints: dict[str, tuple[str, Callable[[Request], Awaitable[Response]]]] = {
        "/": ("GET", service.page),
        "/predict": ("POST", service.predict),
        "/field": ("POST", service.show_field),
        "/health": ("GET", service.health),
        "/metrics": ("GET", service.show_metrics),
        "/info": ("GET", service.show_info),
    }
    routes = [Route(path, service.route(each), methods=[method]) for path, (method, each) in endpoints.items()]
    app = Starlette(routes=routes, exception_handlers={HTTPException: service.unknown})
    app.router.redirect_slashes = False
    return app


def _shown(prediction: Prediction, index: int, name: Optional[str], topk: int) -> dict[str, Any]:
    shown: dict[str, Any] = {"index": index}
    if name is not None:
        shown["file_name"] = name
    return {
        **shown,
        "class_ids": prediction.class_ids[:topk],
        "scores": prediction.scores[:topk],
        "label_names": prediction.label_names[:topk],
    }


def _error(error: UserError, index: Optional[int]) -> dict[str, Any]:
    shown = {"code": error.code, "message": " ".join(str(error).split())}
    return shown if index is None else {**shown, "index": index}


def _status(error: UserError) -> int:
    return error.status if isinstance(error, Refused) else STATUS_OF.get(error.code, 422)


def _json(content: Any, status: int = 200) -> Response:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), default=str)
    return Response(text.encode("utf-8", "backslashreplace"), status, media_type="application/json")
