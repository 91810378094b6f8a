"""RepLKNet as a drawing: the network from top to bottom, and its two blocks in detail (paper figure 2)."""

from __future__ import annotations

from xml.sax.saxutils import escape

from .network import RepLKNet

WIDTH, LEFT, CENTRE, RIGHT = 910, 74, 212, 350  # the network stands between LEFT and RIGHT
INK, GREY = "#222222", "#777777"
STEM, LARGE, SMALL, POINT, FEED, HEAD = "#dbe7f5", "#f4a582", "#fddbc7", "#e8e8e8", "#d5ecd0", "#f0e6b8"
ARROW_HEAD = '<marker id="tip" markerWidth="7" markerHeight="6" refX="6" refY="3" orient="auto">'
ARROW_HEAD += f'<path d="M0,0 L7,3 L0,6 z" fill="{INK}"/></marker>'


class Canvas:
    """Lines of an SVG file, in the order in which they are drawn."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def text(self, x: int, y: int, text: str, size: int = 13, colour: str = INK, anchor: str = "middle") -> None:
        look = f'font-size="{size}" fill="{colour}" text-anchor="{anchor}"'
        self.lines.append(f'<text x="{x}" y="{y}" {look}>{escape(text)}</text>')

    def box(self, x: int, y: int, width: int, height: int, text: str, colour: str) -> None:
        shape = f'x="{x}" y="{y}" width="{width}" height="{height}" rx="5"'
        self.lines.append(f'<rect {shape} fill="{colour}" stroke="{INK}"/>')
        self.text(x + width // 2, y + height // 2 + 5, text)

    def frame(self, x: int, y: int, width: int, height: int) -> None:
        shape = f'x="{x}" y="{y}" width="{width}" height="{height}" rx="7"'
        self.lines.append(f'<rect {shape} fill="none" stroke="{GREY}" stroke-dasharray="5 4"/>')

    def arrow(self, *points: tuple[int, int]) -> None:
        path = " ".join(f"{x},{y}" for x, y in points)
        self.lines.append(f'<polyline points="{path}" fill="none" stroke="{INK}" marker-end="url(#tip)"/>')

    def plus(self, x: int, y: int) -> None:
        self.lines.append(f'<circle cx="{x}" cy="{y}" r="9" fill="white" stroke="{INK}"/>')
        self.text(x, y + 5, "+", 15)

    def svg(self, height: int) -> str:
        size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
        start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
        ground = f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
        return "\n".join([start, f"<defs>{ARROW_HEAD}</defs>", ground, *self.lines, "</svg>", ""])


def picture(network: RepLKNet, size: int) -> str:
    """An SVG drawing.

    Args:
        network: a classifier or a backbone, in train form or merged.
        size: height and width of the image.
    """
    canvas = Canvas()
    bottom = _draw_network(canvas, network, size)
    block = network.stages[0].blocks[0].large_kernel
    end = _draw_large_block(canvas, 60, block.kernel_size, block.small_kernel)
    feed = network.stages[0].blocks[1].pw1.conv
    end = _draw_feed_forward(canvas, end + 50, feed.out_channels / feed.in_channels)
    return canvas.svg(max(bottom, end) + 20)


def _draw_network(canvas: Canvas, network: RepLKNet, size: int) -> int:
    channels = [stage.blocks[0].pw2.conv.out_channels for stage in network.stages]
    side, y = _halved(_halved(size)), 50
    first = network.stem[0].conv
    canvas.text(CENTRE, 24, f"RepLKNet at {size}x{size}", 15)
    canvas.text(CENTRE, y, f"image  {first.in_channels} x {size} x {size}")
    layers = ("3x3, stride 2", "3x3 depthwise", "1x1", "3x3 depthwise, stride 2")
    y = _draw_layers(canvas, y + 8, "stem", layers, f"{channels[0]} x {side} x {side}")
    for index, stage in enumerate(network.stages):
        kernel, pairs = stage.blocks[0].large_kernel.kernel_size, network.layers[index]
        canvas.arrow((CENTRE, y), (CENTRE, y + 16))
        canvas.text(LEFT - 6, y + 42, f"stage {index + 1}", 12, GREY, "end")
        canvas.box(LEFT, y + 16, 170, 44, f"RepLK block {kernel}x{kernel}", LARGE)
        canvas.box(LEFT + 170, y + 16, RIGHT - LEFT - 170, 44, "ConvFFN", FEED)
        canvas.text(RIGHT + 8, y + 34, f"x {pairs}", 15, INK, "start")
        canvas.text(RIGHT + 8, y + 54, f"{channels[index]} x {side} x {side}", 11, GREY, "start")
        y += 60
        if index + 1 < len(channels):
            side = _halved(side)
            reduce = (f"1x1 to {channels[index + 1]} channels", "3x3 depthwise, stride 2")
            y = _draw_layers(canvas, y, "transition", reduce, f"{channels[index + 1]} x {side} x {side}")
    if network.out_indices is None:
        canvas.arrow((CENTRE, y), (CENTRE, y + 16))
        canvas.box(LEFT, y + 16, RIGHT - LEFT, 30, "BN, average pool, linear", HEAD)
        canvas.text(RIGHT + 8, y + 36, f"{network.head.weight.shape[1]} classes", 11, GREY, "start")
        y += 46
    return y


def _draw_layers(canvas: Canvas, y: int, name: str, layers: tuple[str, ...], output: str) -> int:
    """A stem or transition from ``y`` on; returns where it ends. Each of its layers has BN and ReLU."""
    canvas.arrow((CENTRE, y), (CENTRE, y + 16))
    y += 16
    canvas.text(LEFT - 6, y + 12 * len(layers) + 4, name, 12, GREY, "end")
    for number, layer in enumerate(layers):
        canvas.box(LEFT, y + 24 * number, RIGHT - LEFT, 24, layer, STEM)
    canvas.text(RIGHT + 8, y + 24 * len(layers) - 8, output, 11, GREY, "start")
    return y + 24 * len(layers)


def _draw_large_block(canvas: Canvas, y: int, kernel: int, small: int | None) -> int:
    """The RepLK block: in training on the left, merged on the right. Returns where it ends."""
    canvas.text(585, y - 36, "RepLK block, in training", 15)
    canvas.text(815, y - 36, "merged", 15)
    branches = [(f"{kernel}x{kernel} depthwise", "BN", LARGE)]
    branches += [] if small is None else [(f"{small}x{small} depthwise", "BN", SMALL)]
    for centre, is_merged in ((585, False), (815, True)):
        canvas.arrow((centre, y - 26), (centre, y))
        canvas.box(centre - 60, y, 120, 24, "BN", POINT)
        canvas.box(centre - 60, y + 34, 120, 24, "1x1, BN, ReLU", POINT)
        canvas.arrow((centre, y + 24), (centre, y + 34))
        if is_merged or len(branches) == 1:
            name, norm, colour = branches[0]
            canvas.arrow((centre, y + 58), (centre, y + 74))
            canvas.box(centre - 66, y + 74, 132, 24, name if is_merged else f"{name}, {norm}", colour)
            canvas.arrow((centre, y + 98), (centre, y + 124))
        else:
            for place, (name, norm, colour) in zip((centre - 72, centre + 72), branches):
                canvas.arrow((centre, y + 58), (centre, y + 64), (place, y + 64), (place, y + 74))
                canvas.box(place - 66, y + 74, 132, 24, f"{name}, {norm}", colour)
                canvas.arrow((place, y + 98), (place, y + 110), (centre + (9 if place > centre else -9), y + 110))
            canvas.plus(centre, y + 110)
            canvas.arrow((centre, y + 119), (centre, y + 128))
        top = y + 128 if not is_merged and len(branches) > 1 else y + 124
        canvas.box(centre - 60, top, 120, 24, "ReLU", POINT)
        canvas.arrow((centre, top + 24), (centre, y + 162))
        canvas.box(centre - 60, y + 162, 120, 24, "1x1, BN", POINT)
        canvas.arrow((centre, y + 186), (centre, y + 201))
        edge = centre + (158 if not is_merged else 82)
        canvas.arrow((centre, y - 14), (edge, y - 14), (edge, y + 210), (centre + 9, y + 210))
        canvas.plus(centre, y + 210)
        canvas.arrow((centre, y + 219), (centre, y + 240))
    canvas.text(650, y + 256, "one convolution with a bias does what both branches did", 12, GREY)
    return y + 256


def _draw_feed_forward(canvas: Canvas, y: int, ratio: float) -> int:
    """The ConvFFN, whose hidden layer is ``ratio`` times as wide as its stage. Returns where it ends."""
    canvas.text(585, y - 10, "ConvFFN", 15)
    canvas.arrow((585, y), (585, y + 26))
    for number, (name, colour) in enumerate(
        (("BN", POINT), (f"1x1 to {ratio:g} x C, BN", FEED), ("GELU", POINT), ("1x1 to C, BN", FEED))
    ):
        top = y + 26 + 36 * number
        canvas.box(515, top, 140, 24, name, colour)
        canvas.arrow((585, top + 24), (585, top + (36 if number < 3 else 41)))
    canvas.arrow((585, y + 12), (675, y + 12), (675, y + 184), (594, y + 184))
    canvas.plus(585, y + 184)
    canvas.arrow((585, y + 193), (585, y + 212))
    canvas.text(700, y + 92, "C: channels of the stage.", 12, GREY, "start")
    canvas.text(700, y + 110, "Layers of stem and transitions", 12, GREY, "start")
    canvas.text(700, y + 128, "have BN and ReLU behind them.", 12, GREY, "start")
    return y + 212


def _halved(side: int) -> int:
    """The side of a map behind a layer of stride 2."""
    return -(-side // 2)
