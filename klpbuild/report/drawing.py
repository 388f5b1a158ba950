"""Lay out the reference graph as a picture: what is replaced, by what, and what that uses.

Three bands, in each a frame for every object.  For a screen they stand side by side, and
a frame with many names is broken into columns, so that the whole has a screen's shape.
For a phone they stand below each other, the names in lines.  Sizes are in the pixels of
a picture that is not scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

#: Height of a node, room between two, padding of a frame, height of its title.
HEIGHT, GAP, PADDING, TITLE = 26, 8, 14, 24
#: Width of a letter of the picture's font (12 pixels, monospace), and room beside the text.
LETTER, MARGIN = 7.3, 22
#: Longer names are cut in the middle.
LABEL_MAX = 38
#: Room between bands, for the edges, and between frames.
BAND_GAP, FRAME_GAP = 150, 24
#: Width over height of a picture that is not too wide to be read on a screen: the page has
#: 1180 pixels for it.
_SHAPE, _WIDTH_MAX = 1.7, 1600
_EDGE_ROOM = 24
#: Names that a frame of the first two bands may have below each other.
_ROWS_MIN = 30
#: Width of a tall picture inside of its frames, and room between its bands.
_TALL_WIDTH, _TALL_GAP = 400, 70


class Role(StrEnum):
    """Role of a node in the picture."""

    REPLACED = "replaced"
    NEW = "new"
    OWN = "own"
    LIVEPATCH = "livepatch"
    EXPORTED = "exported"


@dataclass(frozen=True)
class Node:
    """A name in the picture.

    :ivar key: tells it from all others.
    :ivar frame: title of the frame that it stands in.
    :ivar details: what is shown of it, as pairs of a word and a text.
    """

    key: str
    label: str
    role: Role
    frame: str
    details: tuple[tuple[str, str], ...] = ()

    @property
    def short(self) -> str:
        """The label, cut in the middle when it is long."""
        if len(self.label) <= LABEL_MAX:
            return self.label
        half = (LABEL_MAX - 1) // 2
        return f"{self.label[:half]}…{self.label[-half:]}"

    @property
    def width(self) -> float:
        """The width of its text."""
        return len(self.short) * LETTER + MARGIN


@dataclass(frozen=True)
class Edge:
    """An arrow from a node to another one.

    :ivar word: what it says, ``replaces`` or ``uses``.
    """

    source: str
    target: str
    word: str
    count: int = 1


@dataclass(frozen=True)
class Placed:
    """A node with its place."""

    node: Node
    x: float
    y: float
    width: float


@dataclass(frozen=True)
class Frame:
    """A frame with its title."""

    title: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Curve:
    """An edge as the path of an SVG."""

    edge: Edge
    path: str


@dataclass
class Picture:
    """A picture, or a band of it."""

    width: float = 0
    height: float = 0
    nodes: list[Placed] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)


_BANDS = ((Role.REPLACED,), (Role.NEW, Role.OWN), (Role.LIVEPATCH, Role.EXPORTED))


def draw(nodes: Sequence[Node], edges: Sequence[Edge]) -> Picture:
    """Lay out the picture for a screen; the same input gives the same picture."""
    bands = _bands(nodes, edges)
    pictures = (_draw(bands, room) for room in range(200, _WIDTH_MAX, 100))
    picture = min(pictures, key=_distance)
    _connect(picture, edges, _path)
    return picture


def draw_tall(nodes: Sequence[Node], edges: Sequence[Edge]) -> Picture:
    """Lay out the picture for a narrow screen."""
    picture = Picture()
    y = 0.0
    for band in filter(None, _bands(nodes, edges)):
        for title in dict.fromkeys(node.frame for node in band):
            frame, placed = _lines(title, [node for node in band if node.frame == title], y)
            picture.frames.append(frame)
            picture.nodes += placed
            y += frame.height + FRAME_GAP
        y += _TALL_GAP - FRAME_GAP
    picture.height = max(y - _TALL_GAP, 0)
    picture.width = max((frame.width for frame in picture.frames), default=0)
    picture.frames = [Frame(f.title, 0, f.y, picture.width, f.height) for f in picture.frames]
    _connect(picture, edges, _tall_path)
    return picture


def _bands(nodes: Sequence[Node], edges: Sequence[Edge]) -> list[list[Node]]:
    """Sort the nodes into bands: what the same functions use stands together."""
    first: dict[str, int] = {}
    for number, edge in enumerate(edges):
        first.setdefault(edge.source, number)
        first.setdefault(edge.target, number)

    def place(node: Node) -> tuple[bool, int]:
        return node.role is Role.EXPORTED, first.get(node.key, len(edges))

    return [sorted((n for n in nodes if n.role in roles), key=place) for roles in _BANDS]


def _distance(picture: Picture) -> tuple[float, float]:
    """Measure how much too wide a picture is, and how far its shape is from a screen's."""
    shape = picture.width / max(picture.height, 1)
    return max(picture.width - _WIDTH_MAX, 0), max(shape / _SHAPE, _SHAPE / max(shape, 0.01))


def _draw(bands: Sequence[Sequence[Node]], room: float) -> Picture:
    """Lay out frames side by side, a stack for each band.

    :param room: how wide the frames of the last band may be.
    """

    def rows_in_room(nodes: Sequence[Node]) -> int:
        widest = max(node.width for node in nodes)
        return -(-len(nodes) // max(int((room + _EDGE_ROOM) / (widest + _EDGE_ROOM)), 1))

    picture = Picture()
    stacks = [_stack(band, lambda _: _ROWS_MIN) for band in bands[:-1]]
    stacks = [stack for stack in (*stacks, _stack(bands[-1], rows_in_room)) if stack.nodes]
    picture.height = max((stack.height for stack in stacks), default=0)
    x = 0.0
    for stack in stacks:
        y = (picture.height - stack.height) / 2
        picture.nodes += [Placed(p.node, p.x + x, p.y + y, p.width) for p in stack.nodes]
        picture.frames += [
            Frame(f.title, f.x + x, f.y + y, stack.width, f.height) for f in stack.frames
        ]
        x += stack.width + BAND_GAP
    picture.width = max(x - BAND_GAP, 0)
    return picture


def _stack(band: Sequence[Node], rows: Callable[[Sequence[Node]], int]) -> Picture:
    """Stack the frames of a band below each other.

    :param rows: how many names may stand below each other in the frame of these.
    """
    stack = Picture()
    y = 0.0
    for title in dict.fromkeys(node.frame for node in band):
        nodes = [node for node in band if node.frame == title]
        frame, placed = _frame(title, nodes, y, rows(nodes))
        stack.frames.append(frame)
        stack.nodes += placed
        y += frame.height + FRAME_GAP
    stack.height = max(y - FRAME_GAP, 0)
    stack.width = max((frame.width for frame in stack.frames), default=0)
    return stack


def _frame(title: str, nodes: Sequence[Node], y: float, rows: int) -> tuple[Frame, list[Placed]]:
    """Lay out a frame with columns of names."""
    count = -(-len(nodes) // rows)
    rows = -(-len(nodes) // count)
    x = float(PADDING)
    placed = []
    for number in range(count):
        column = nodes[number * rows : (number + 1) * rows]
        widest = max((node.width for node in column), default=0)
        for row, node in enumerate(column):
            top = y + TITLE + PADDING + row * (HEIGHT + GAP)
            placed.append(Placed(node, x, top, widest))
        x += widest + _EDGE_ROOM
    width = max(x - _EDGE_ROOM + PADDING, len(title) * LETTER + 2 * PADDING)
    return Frame(title, 0, y, width, _frame_height(rows)), placed


def _lines(title: str, nodes: Sequence[Node], y: float) -> tuple[Frame, list[Placed]]:
    """Lay out a frame with lines of names."""
    placed: list[Placed] = []
    x, row = float(PADDING), 0
    for node in nodes:
        if x > PADDING and x + node.width > PADDING + _TALL_WIDTH:
            x, row = float(PADDING), row + 1
        placed.append(Placed(node, x, y + TITLE + PADDING + row * (HEIGHT + GAP), node.width))
        x += node.width + GAP
    right = max(p.x + p.width for p in placed)
    width = max(right + PADDING, len(title) * LETTER + 2 * PADDING)
    return Frame(title, 0, y, width, _frame_height(row + 1)), placed


def _frame_height(rows: int) -> float:
    return TITLE + 2 * PADDING + rows * (HEIGHT + GAP) - GAP


def _connect(
    picture: Picture, edges: Sequence[Edge], path: Callable[[Placed, Placed], str]
) -> None:
    places = {placed.node.key: placed for placed in picture.nodes}
    picture.curves = [Curve(edge, path(places[edge.source], places[edge.target])) for edge in edges]


def _curve(*points: float) -> str:
    return "M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}".format(*points)


def _path(source: Placed, target: Placed) -> str:
    """Draw a curve from the side of one name to the side of another."""
    y, end_y = source.y + HEIGHT / 2, target.y + HEIGHT / 2
    right, target_right = source.x + source.width, target.x + target.width
    if right <= target.x:
        pull = min(max((target.x - right) / 2, 30), 160)
        return _curve(right, y, right + pull, y, target.x - pull, end_y, target.x, end_y)
    if target_right <= source.x:
        pull = min(max((source.x - target_right) / 2, 30), 160)
        return _curve(
            source.x, y, source.x - pull, y, target_right + pull, end_y, target_right, end_y
        )
    bow = max(right, target_right) + 30  # they stand in one column
    return _curve(right, y, bow, y, bow, end_y, target_right, end_y)


def _tall_path(source: Placed, target: Placed) -> str:
    """Draw a curve from the lower edge of one name to the upper edge of another, or back up."""
    x, end_x = source.x + source.width / 2, target.x + target.width / 2
    if abs(source.y - target.y) < HEIGHT:  # they stand in one line
        y = source.y + HEIGHT
        return _curve(x, y, x, y + 20, end_x, y + 20, end_x, y)
    down = source.y < target.y
    y, end_y = (source.y + HEIGHT, target.y) if down else (source.y, target.y + HEIGHT)
    pull = min(abs(end_y - y) / 2, 160) * (1 if down else -1)
    return _curve(x, y, x, y + pull, end_x, end_y - pull, end_x, end_y)
