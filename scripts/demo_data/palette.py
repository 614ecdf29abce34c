"""Colours that several of the demo's drawings share."""

from demo_data.pen import Hsv

BLACK: Hsv = (240, 0.15, 0.16)
WHITE: Hsv = (40, 0.03, 0.98)
STEEL: Hsv = (215, 0.08, 0.68)
GLASS: Hsv = (200, 0.28, 0.97)
TYRE: Hsv = (240, 0.1, 0.24)
RED: Hsv = (358, 0.82, 0.86)
YELLOW: Hsv = (48, 0.85, 0.98)
PINK: Hsv = (350, 0.38, 0.97)
LEAF: Hsv = (125, 0.68, 0.62)
WOOD: Hsv = (28, 0.62, 0.72)
