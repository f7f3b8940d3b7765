"""Draws the screen of a terminal as SVG.

usage: pictures.py TITLE < SCREEN > SVG
"""

import html
import io
import re
import sys

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

# As wide as the terminal.
WIDTH = 116

screen = sys.stdin.read().rstrip("\n")
console = Console(
    record=True,
    width=WIDTH,
    file=io.StringIO(),
    color_system="truecolor",
    force_terminal=True,
)
console.print(Text.from_ansi(screen), no_wrap=True, crop=True)
svg = console.export_svg(title=sys.argv[1], theme=MONOKAI, unique_id="vminfod")
# The font of the reader's machine does; nothing is loaded from elsewhere.
svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.S)
svg = svg.replace("Fira Code, monospace", "monospace")


def without_leading_blanks(text):
    """Some viewers drop the blanks at the beginning of a text."""
    begin, x, middle, length, rest, shown = text.groups()
    cells = len(html.unescape(shown))
    blanks = len(re.match("(?:&#160;)*", shown)[0]) // len("&#160;")
    if cells == 0 or blanks == cells:
        return ""
    width = float(length) / cells
    return "".join(
        [
            begin,
            f"{float(x) + blanks * width:g}",
            middle,
            f"{float(length) - blanks * width:g}",
            rest,
            shown[blanks * len("&#160;") :],
            "</text>",
        ]
    )


pattern = (
    r'(<text class="[^"]*" x=")([0-9.]+)(" y="[^"]*" textLength=")'
    r'([0-9.]+)("[^>]*>)([^<]*)</text>'
)
svg = re.sub(pattern, without_leading_blanks, svg)
sys.stdout.write("\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n")
