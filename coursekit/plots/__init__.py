"""Every figure style of the course, on matplotlib and seaborn.

Figures are drawn for the last row of a lecture hall: text of 12 points and more at the size at which a
page shows the figure (96 pixels per inch), colours that survive colour blindness (Okabe and Ito 2008) and
grey printing (viridis, cividis). Functions that draw take `ax` and return nothing; `image_grid` makes a
figure of its own; `show` is how a figure leaves a cell, with its description for those who cannot see it.
"""

from coursekit.plots.charts import confusion, graph, intervals, losses
from coursekit.plots.pictures import image_grid, picture
from coursekit.plots.planes import arrows, decision_boundary, density, one_scale, scatter
from coursekit.plots.style import (
    COLOURS,
    FILE_DPI,
    LETTER,
    PAGE_DPI,
    SQUARE,
    TINT,
    TWO_CLASSES,
    Extent,
    set_style,
    show,
)

__all__ = [
    "COLOURS",
    "FILE_DPI",
    "LETTER",
    "PAGE_DPI",
    "SQUARE",
    "TINT",
    "TWO_CLASSES",
    "Extent",
    "arrows",
    "confusion",
    "decision_boundary",
    "density",
    "graph",
    "image_grid",
    "intervals",
    "losses",
    "one_scale",
    "picture",
    "scatter",
    "set_style",
    "show",
]
