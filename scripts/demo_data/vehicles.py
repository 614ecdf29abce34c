"""Drawings of VOC's vehicles, for the demo data set; facing right, in sheet units."""

from types import MappingProxyType

from demo_data.palette import BLACK, GLASS, RED, STEEL, TYRE, WHITE, WOOD, YELLOW
from demo_data.pen import Pen, Shape


def _aeroplane(pen: Pen) -> None:
    pen.poly((10, 52, 2, 8, 24, 8, 46, 50), RED)
    pen.poly((100, 46, 84, 18, 100, 18, 132, 48), STEEL)
    pen.box((4, 42, 176, 74), WHITE, radius=16)
    pen.poly((20, 60, 172, 60, 168, 67, 30, 67), RED)
    for x in range(52, 146, 14):
        pen.oval(x, 52, 3.5, 4, GLASS)
    pen.poly((150, 46, 164, 47, 172, 55, 152, 55), GLASS)
    pen.poly((84, 62, 124, 62, 70, 98, 50, 98), STEEL)
    pen.poly((6, 56, 34, 56, 14, 68, 0, 68), STEEL)


def _bicycle(pen: Pen) -> None:
    pink = (335, 0.8, 1.0)
    for x in (34, 126):
        pen.ring(x, 66, 31, 7, TYRE)
        for dx, dy in ((26, 0), (0, 26), (18, 18), (18, -18)):
            pen.thread((x - dx, 66 - dy, x + dx, 66 + dy), STEEL)
    pen.line((34, 66, 54, 28, 112, 28, 72, 68, 34, 66), 7, pink)
    pen.line((50, 18, 72, 68), 7, pink)
    pen.line((106, 8, 126, 66), 7, pink)
    pen.line((104, 8, 120, 4, 126, 12), 5, BLACK)
    pen.line((38, 16, 62, 16), 7, BLACK)
    pen.oval(72, 68, 7, 7, STEEL)


def _boat(pen: Pen) -> None:
    pen.line((58, 4, 58, 72), 4, WOOD)
    pen.poly((62, 8, 62, 66, 110, 66), (176, 0.8, 0.85))
    pen.poly((54, 14, 54, 66, 14, 66), (176, 0.55, 0.95))
    pen.poly((58, 2, 58, 14, 38, 8), RED)
    pen.poly((0, 72, 124, 72, 100, 99, 22, 99), (20, 0.7, 0.52))
    pen.poly((0, 72, 124, 72, 118, 79, 6, 79), WHITE)


def _bus(pen: Pen) -> None:
    pen.box((2, 2, 168, 88), RED, radius=9)
    for top in (12, 48):
        for left in range(10, 130, 24):
            pen.box((left, top, left + 19, top + 20), GLASS, radius=2)
        pen.box((138, top, 166, top + 22), GLASS, radius=3)
    pen.box((2, 37, 168, 43), (45, 0.25, 1.0))
    pen.box((152, 76, 166, 83), YELLOW)
    for x in (38, 132):
        pen.wheel(x, 86, 13, STEEL)


def _car(pen: Pen) -> None:
    paint = (pen.choose(48, 58), 0.85, 0.97)
    pen.poly((34, 48, 58, 14, 122, 14, 152, 48), paint)
    pen.poly((46, 46, 63, 21, 88, 21, 88, 46), GLASS)
    pen.poly((94, 46, 94, 21, 118, 21, 140, 46), GLASS)
    pen.box((3, 44, 187, 82), paint, radius=14)
    pen.line((91, 50, 91, 76), 1, paint)
    pen.box((174, 52, 187, 62), YELLOW, radius=3)
    pen.box((3, 52, 12, 62), RED, radius=3)
    for x in (46, 146):
        pen.wheel(x, 80, 19, STEEL)


def _motorbike(pen: Pen) -> None:
    paint = (pen.choose(0, 15), 0.85, 0.9)
    for x in (30, 130):
        pen.wheel(x, 70, 28, STEEL)
    pen.line((112, 18, 130, 70), 6, STEEL)
    pen.line((98, 6, 118, 14), 6, BLACK)
    pen.poly((52, 54, 102, 50, 92, 82, 58, 82), STEEL)
    pen.line((8, 82, 44, 84, 70, 78), 7, WHITE)
    pen.poly((8, 32, 64, 36, 62, 48, 20, 46), BLACK)
    pen.poly((60, 44, 66, 26, 106, 22, 114, 38, 100, 52), paint)
    pen.poly((6, 46, 30, 36, 54, 46, 30, 42), paint)
    pen.oval(120, 24, 8, 8, YELLOW)


def _train(pen: Pen) -> None:
    paint = (165, 0.8, 0.42)
    for x, y, radius in ((120, 8, 8), (134, 4, 6)):
        pen.oval(x - 24, y, radius + 4, radius, (220, 0.04, 0.9))
    pen.poly((132, 38, 136, 14, 128, 8, 162, 8, 154, 14, 158, 38), BLACK)
    pen.oval(104, 36, 11, 10, YELLOW)
    pen.box((62, 34, 176, 72), paint, radius=9)
    for x in (92, 122, 152):
        pen.box((x, 34, x + 5, 72), YELLOW)
    pen.box((12, 20, 74, 76), paint)
    pen.box((4, 12, 82, 23), RED, radius=4)
    for x in (20, 46):
        pen.box((x, 30, x + 20, 52), GLASS, radius=2)
    pen.box((6, 70, 182, 82), RED)
    pen.poly((176, 70, 198, 98, 168, 98), YELLOW)
    for x in (28, 64, 102, 140):
        pen.wheel(x, 84, 15, RED)


VEHICLES = MappingProxyType(
    {
        "aeroplane": Shape(_aeroplane, 180),
        "bicycle": Shape(_bicycle, 160),
        "boat": Shape(_boat, 124),
        "bus": Shape(_bus, 170),
        "car": Shape(_car, 190),
        "motorbike": Shape(_motorbike, 160),
        "train": Shape(_train, 200),
    }
)
