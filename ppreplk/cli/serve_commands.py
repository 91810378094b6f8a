"""``ppreplk serve``: its arguments. What it runs is imported when it runs."""

from __future__ import annotations

import argparse

from ..utils.command import Parser, path, positive

PACKAGES = ("starlette", "uvicorn", "python_multipart")


def serve(parser: Parser) -> None:
    parser.add_argument("--model-dir", type=path, required=True, help="folder with an exported program")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: this machine alone")
    parser.add_argument("--port", type=port, default=8000, help="default: 8000; 0 is any free one")
    parser.add_argument("--device", default="cpu", help="cpu or gpu; default: cpu")
    parser.add_argument("--threads", type=positive, help="math threads; default: all")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp32-bf16x3", "bf16", "int8"),
        help="of the program; default: what it was exported for",
    )
    parser.add_argument(
        "--weights", type=path, help="checkpoint of the program, to show receptive fields; default: that of export.json"
    )
    parser.add_argument("--max-batch", type=positive, default=16, help="images computed together; default: 16")
    parser.add_argument(
        "--max-wait-ms", type=not_negative, default=5.0, help="how long an image waits for others; default: 5"
    )
    parser.add_argument("--max-bytes", type=positive, default=32 << 20, help="of a request; default: 32 MiB")
    parser.add_argument("--max-pixels", type=pixels, default=50_000_000, help="of an image; default: 50000000")
    parser.add_argument("--max-files", type=positive, default=16, help="images of a request; default: 16")
    parser.add_argument("--max-queue", type=positive, default=256, help="images that wait at most; default: 256")
    parser.add_argument(
        "--concurrency", type=positive, default=128, help="requests served at the same time; default: 128"
    )
    parser.add_argument(
        "--timeout", type=seconds, default=30.0, help="seconds for sending a request, and for its answer; default: 30"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name of the service, repeatable",
    )

    def run(arguments: argparse.Namespace) -> None:
        from ..utils.optional import import_optional

        for package in PACKAGES:
            remedy = 'pip install "ppreplk[serve]"'
            import_optional(package, "the service needs starlette, uvicorn and python-multipart", remedy, MISSING)
        from ..serve.limits import Limits
        from ..serve.server import Settings, serve

        limits = Limits(
            bytes=arguments.max_bytes,
            pixels=arguments.max_pixels,
            files=arguments.max_files,
            concurrency=arguments.concurrency,
            queue=max(arguments.max_queue, arguments.max_files),
            timeout=arguments.timeout,
        )
        serve(
            Settings(
                model_dir=arguments.model_dir,
                host=arguments.host,
                port=arguments.port,
                threads=arguments.threads,
                precision=arguments.precision,
                device=arguments.device,
                max_batch=arguments.max_batch,
                max_wait_ms=arguments.max_wait_ms,
                weights=arguments.weights,
                names=arguments.allow_host,
                limits=limits,
            )
        )

    parser.set_defaults(run=run)


MISSING = "serve.missing-package"
LONGEST = 1_000_000  # seconds or milliseconds; threads cannot wait for any time
PILLOWS_PIXELS = 178_956_970  # Pillow opens no image with more, unless it is told to


def port(text: str) -> int:
    """The type of an argument that is a TCP port."""
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 65535, got {text!r}")
    return int(text)


def not_negative(text: str) -> float:
    """The type of an argument that is a number from 0 on, and short enough to be waited for."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= LONGEST:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to {LONGEST}, got {text!r}")
    return value


def pixels(text: str) -> int:
    """The type of an argument that is a number of pixels which Pillow opens."""
    value = positive(text)
    if value > PILLOWS_PIXELS:
        raise argparse.ArgumentTypeError(f"must be at most {PILLOWS_PIXELS}, which is Pillow's own limit, got {text!r}")
    return value


def seconds(text: str) -> float:
    """The type of an argument that is a time, more than 0 seconds."""
    value = not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"must be more than 0 seconds, got {text!r}")
    return value
