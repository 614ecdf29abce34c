"""Drawings of VOC's things found indoors, for the demo data set; facing right, in sheet units."""

from types import MappingProxyType

from demo_data.palette import BLACK, GLASS, LEAF, PINK, RED, STEEL, WHITE, WOOD, YELLOW
from demo_data.pen import Pen, Shape


def _bottle(pen: Pen) -> None:
    glass = (192, 0.75, 0.88)
    pen.box((12, 4, 24, 40), glass, radius=3)
    pen.box((2, 32, 34, 99), glass, radius=9)
    pen.box((11, 0, 25, 11), YELLOW, radius=2)
    pen.box((2, 52, 34, 80), WHITE)
    pen.oval(18, 66, 8, 9, RED)


def _chair(pen: Pen) -> None:
    paint = (78, 0.75, 0.85)
    pen.box((4, 2, 11, 99), paint)
    pen.box((49, 2, 56, 99), paint)
    for top in (4, 18, 32):
        pen.box((8, top, 52, top + 8), paint, radius=2)
    pen.box((0, 54, 60, 65), (350, 0.6, 0.75), radius=4)
    pen.box((14, 65, 20, 92), paint)
    pen.box((40, 65, 46, 92), paint)


def _diningtable(pen: Pen) -> None:
    for x in (18, 142):
        pen.box((x, 40, x + 10, 99), WOOD, radius=2)
    pen.box((2, 30, 168, 42), WOOD, radius=3)
    for column in range(8):
        for row in range(3):
            cloth = RED if (row + column) % 2 else WHITE
            left, top = 29 + 14 * column, 30 + 11 * row
            pen.box((left, top, left + 14, top + 11), cloth)
    pen.oval(62, 26, 22, 5, WHITE)
    pen.poly((92, 10, 112, 10, 108, 30, 96, 30), GLASS)
    pen.box((124, 8, 133, 30), YELLOW)
    pen.poly((124, 9, 128, 0, 133, 9), RED)


def _pottedplant(pen: Pen) -> None:
    for tip_x, tip_y in ((2, 34), (14, 10), (38, 0), (62, 10), (76, 34)):
        bend_x, bend_y = (tip_x + 39) / 2, (tip_y + 66) / 2
        pen.poly((35, 66, bend_x - 9, bend_y - 4, tip_x, tip_y, bend_x + 9, bend_y, 43, 66), LEAF)
    pen.oval(39, 32, 8, 8, PINK)
    pen.oval(39, 32, 3, 3, YELLOW)
    pen.poly((16, 66, 62, 66, 54, 99, 24, 99), (16, 0.72, 0.8))
    pen.box((11, 60, 67, 72), (16, 0.72, 0.8), radius=2)


def _sofa(pen: Pen) -> None:
    cloth, light = (276, 0.6, 0.66), (276, 0.45, 0.88)
    for x in (20, 152):
        pen.box((x, 88, x + 10, 99), WOOD)
    pen.box((18, 8, 164, 76), cloth, radius=14)
    pen.box((28, 50, 91, 76), light, radius=6)
    pen.box((91, 50, 154, 76), light, radius=6)
    pen.box((10, 72, 172, 92), cloth, radius=5)
    for x in (2, 150):
        pen.box((x, 38, x + 30, 92), cloth, radius=13)
    pen.poly((40, 26, 64, 20, 70, 44, 46, 50), YELLOW)


def _tvmonitor(pen: Pen) -> None:
    pen.poly((50, 78, 70, 78, 74, 94, 46, 94), STEEL)
    pen.box((28, 91, 92, 99), BLACK, radius=3)
    pen.box((1, 1, 119, 82), BLACK, radius=6)
    for column, hue in enumerate((55, 185, 115, 300, 5, 230)):
        pen.box((9 + 17 * column, 9, 26 + 17 * column, 74), (hue, 0.75, 0.97))


INDOOR = MappingProxyType(
    {
        "bottle": Shape(_bottle, 36),
        "chair": Shape(_chair, 60),
        "diningtable": Shape(_diningtable, 170),
        "pottedplant": Shape(_pottedplant, 78),
        "sofa": Shape(_sofa, 182),
        "tvmonitor": Shape(_tvmonitor, 120),
    }
)
