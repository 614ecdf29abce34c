"""Drawings of VOC's people and animals, for the demo data set; facing right, in sheet units."""

from types import MappingProxyType

from demo_data.palette import BLACK, PINK, WHITE, YELLOW
from demo_data.pen import Pen, Shape


def _bird(pen: Pen) -> None:
    blue, belly = (212, 0.8, 0.93), (35, 0.45, 0.98)
    pen.line((58, 80, 56, 98, 66, 98), 3, YELLOW)
    pen.line((72, 80, 72, 98, 82, 98), 3, YELLOW)
    pen.poly((34, 62, 0, 62, 2, 78, 40, 78), (222, 0.85, 0.65))
    pen.poly((108, 24, 130, 32, 108, 40), YELLOW)
    pen.oval(62, 60, 36, 26, blue)
    pen.oval(94, 30, 20, 20, blue)
    pen.oval(74, 70, 20, 14, belly)
    pen.poly((66, 50, 24, 40, 6, 46, 30, 68, 56, 68), (222, 0.85, 0.65))
    pen.oval(99, 26, 5, 5, WHITE)
    pen.oval(100, 26, 2, 2, BLACK)


def _cat(pen: Pen) -> None:
    fur, stripe = (28, 0.72, 0.98), (20, 0.85, 0.68)
    pen.line((68, 92, 88, 86, 88, 62, 80, 54), 8, fur)
    pen.oval(44, 76, 28, 23, fur)
    pen.oval(44, 82, 13, 15, WHITE)
    pen.poly((14, 34, 12, 1, 38, 14), fur)
    pen.poly((74, 34, 76, 1, 50, 14), fur)
    pen.oval(44, 35, 33, 26, fur)
    for x in (36, 44, 52):
        pen.line((x, 12, x, 22), 2, stripe)
    for side in (-1, 1):
        pen.oval(44 + side * 13, 33, 6.5, 7, (95, 0.6, 0.95))
        pen.oval(44 + side * 13, 33, 1.5, 5, BLACK)
        pen.thread((44 + side * 10, 46, 44 + side * 38, 42), WHITE)
        pen.thread((44 + side * 10, 49, 44 + side * 38, 51), WHITE)
    pen.poly((39, 42, 49, 42, 44, 48), PINK)


def _cow(pen: Pen) -> None:
    pen.line((10, 34, 2, 44, 4, 66), 3, WHITE)
    for x in (22, 38, 88, 104):
        pen.box((x, 60, x + 11, 99), WHITE, radius=2)
        pen.box((x, 91, x + 11, 99), BLACK, radius=2)
    pen.oval(42, 72, 12, 9, PINK)
    pen.box((8, 26, 122, 74), WHITE, radius=18)
    pen.oval(36, 42, 17, 13, BLACK)
    pen.oval(74, 56, 14, 12, BLACK)
    pen.oval(98, 36, 11, 9, BLACK)
    pen.poly((116, 14, 110, 0, 122, 10), YELLOW)
    pen.poly((140, 14, 148, 0, 136, 10), YELLOW)
    pen.oval(108, 22, 9, 5, BLACK)
    pen.box((112, 8, 146, 48), WHITE, radius=12)
    pen.oval(130, 48, 19, 12, PINK)
    pen.oval(122, 24, 3, 4, BLACK)
    pen.oval(136, 24, 3, 4, BLACK)


def _dog(pen: Pen) -> None:
    coat, dark = (30, 0.5, 0.72), (18, 0.65, 0.34)
    pen.line((68, 90, 84, 78, 90, 62), 7, coat)
    pen.oval(44, 78, 27, 21, coat)
    pen.oval(44, 84, 13, 15, (34, 0.3, 0.93))
    pen.oval(44, 31, 29, 29, coat)
    pen.poly((22, 6, 6, 14, 2, 50, 14, 54, 24, 30), dark)
    pen.poly((66, 6, 82, 14, 86, 50, 74, 54, 64, 30), dark)
    pen.box((38, 48, 50, 68), PINK, radius=6)
    pen.oval(44, 44, 17, 12, (34, 0.3, 0.93))
    pen.oval(44, 38, 8, 5.5, BLACK)
    for x in (33, 55):
        pen.oval(x, 24, 4, 5, BLACK)
    pen.box((26, 62, 62, 69), (212, 0.85, 0.85), radius=3)
    pen.oval(44, 71, 4, 4, YELLOW)


def _horse(pen: Pen) -> None:
    coat, mane = (5, 0.78, 0.45), (38, 0.5, 0.95)
    pen.poly((16, 40, 2, 48, 0, 82, 10, 78, 18, 56), mane)
    for x in (20, 34, 78, 92):
        pen.box((x, 56, x + 9, 99), coat, radius=2)
        pen.box((x, 92, x + 9, 99), BLACK, radius=1)
    pen.oval(58, 50, 46, 20, coat)
    pen.poly((82, 56, 100, 6, 118, 16, 106, 60), coat)
    pen.poly((78, 42, 92, 4, 106, 6, 90, 48), mane)
    pen.poly((100, 8, 104, 0, 112, 10), coat)
    pen.poly((100, 8, 116, 8, 139, 28, 134, 40, 108, 28), coat)
    pen.oval(113, 17, 2.5, 2.5, BLACK)


def _person(pen: Pen) -> None:
    skin = (pen.choose(22, 24, 26), pen.choose(0.32, 0.45, 0.62), pen.choose(0.98, 0.85, 0.55))
    shirt = (pen.choose(0, 50, 110, 200, 300), 0.45, 0.9)
    pen.line((9, 36, 5, 60), 8, skin)
    pen.line((37, 36, 43, 58), 8, skin)
    pen.box((10, 54, 22, 96), (222, 0.65, 0.5), radius=3)
    pen.box((24, 54, 36, 96), (222, 0.65, 0.5), radius=3)
    pen.box((8, 93, 22, 99), BLACK, radius=2)
    pen.box((24, 93, 39, 99), BLACK, radius=2)
    pen.box((7, 28, 39, 62), shirt, radius=8)
    pen.oval(23, 12, 12.5, 12, (pen.choose(20, 40), 0.6, pen.choose(0.2, 0.45, 0.8)))
    pen.oval(23, 16, 10, 11, skin)
    for x in (20, 28):
        pen.oval(x, 15, 0.6, 1, BLACK)


def _sheep(pen: Pen) -> None:
    wool = (45, 0.1, 0.97)
    for x in (30, 42, 72, 84):
        pen.box((x, 66, x + 8, 99), BLACK, radius=2)
    ring = (
        (20, 50),
        (26, 70),
        (46, 78),
        (68, 78),
        (88, 68),
        (92, 48),
        (78, 30),
        (56, 26),
        (34, 32),
    )
    for x, y in ring:
        pen.oval(x, y, 17, 15, wool)
    pen.blot(57, 52, 36, 26, wool)
    for x, y in ((40, 50), (60, 44), (52, 64), (74, 58)):
        pen.arc(x, y, 8)
    pen.poly((92, 26, 78, 30, 84, 40), BLACK)
    pen.oval(104, 38, 15, 21, BLACK)
    pen.oval(98, 20, 12, 9, wool)
    for x in (101, 110):
        pen.oval(x, 34, 3, 3, WHITE)


ANIMALS = MappingProxyType(
    {
        "bird": Shape(_bird, 130),
        "cat": Shape(_cat, 92),
        "cow": Shape(_cow, 150),
        "dog": Shape(_dog, 94),
        "horse": Shape(_horse, 140),
        "person": Shape(_person, 46),
        "sheep": Shape(_sheep, 122),
    }
)
