"""One picture of a whole demo run: each slide beside what its head looked at."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from xmag.heatmap import sequential

PICTURE = 300
GAP = 12
CAPTION = 62
HEADER = 104
COLUMNS = 3
INK, PALE, GROUND, PAPER = "#1c2430", "#667085", "#eef1f5", "#ffffff"
RIGHT, WRONG = "#1a7f4b", "#b4232a"


@dataclass(frozen=True)
class Card:
    """A slide on the sheet; the pictures are encoded images."""

    slide: str
    task: str
    truth: str
    prediction: str
    probability: float
    outcome: str
    seconds: float
    notice: str
    thumbnail: bytes
    heatmap: bytes


def contact_sheet(cards: Sequence[Card]) -> bytes:
    """PNG with a title, the notice of the weights, and the cards in rows of `COLUMNS`."""
    wide, high = 2 * PICTURE + 3 * GAP, PICTURE + CAPTION + 2 * GAP
    rows = -(-len(cards) // COLUMNS)
    columns = min(COLUMNS, len(cards))
    sheet = Image.new("RGB", (GAP + columns * (wide + GAP), HEADER + rows * (high + GAP) + GAP), GROUND)
    _header(sheet, "; ".join(sorted({card.notice for card in cards if card.notice})))
    for place, card in enumerate(cards):
        row, column = divmod(place, COLUMNS)
        sheet.paste(_card(card, (wide, high)), (GAP + column * (wide + GAP), HEADER + row * (high + GAP)))
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    return out.getvalue()


def _header(sheet: Image.Image, notice: str) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.text((2 * GAP, 16), "XMAG on synthetic slides", INK, _font(30))
    draw.text((2 * GAP, 60), notice, WRONG, _font(20))
    _scale(sheet, draw, sheet.width - 2 * GAP)


def _scale(sheet: Image.Image, draw: ImageDraw.ImageDraw, right: int) -> None:
    """The colours of attention, low to high."""
    bar = Image.fromarray(sequential()[None]).resize((200, 16))
    sheet.paste(bar, (right - 200, 42))
    draw.text((right - 200, 16), "attention, share of the greatest", PALE, _font(13))
    draw.text((right - 200, 62), "0", PALE, _font(13))
    draw.text((right, 62), "1", PALE, _font(13), anchor="ra")


def _card(card: Card, size: tuple[int, int]) -> Image.Image:
    """Slide left, heatmap right, caption below."""
    picture = Image.new("RGB", size, PAPER)
    for number, data in enumerate((card.thumbnail, card.heatmap)):
        picture.paste(_fitted(data), (GAP + number * (PICTURE + GAP), GAP))
    draw = ImageDraw.Draw(picture)
    top = PICTURE + 2 * GAP
    draw.text((GAP, top), f"{card.task}   truth {card.truth}", INK, _font(20))
    colour = RIGHT if card.prediction == card.truth else WRONG
    verdict = f"predicted {card.prediction}   {card.probability:.2f}"
    draw.text((PICTURE + 2 * GAP, top), verdict, colour, _font(20))
    draw.text((GAP, top + 30), card.slide, PALE, _font(13))
    detail = f"{card.outcome}, {card.seconds:.1f} s, {card.notice}"
    draw.text((PICTURE + 2 * GAP, top + 30), detail, PALE, _font(13))
    return picture


def _fitted(data: bytes) -> Image.Image:
    """The whole picture, centred on white in a square of `PICTURE`."""
    square = Image.new("RGB", (PICTURE, PICTURE), PAPER)
    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB")
    small.thumbnail((PICTURE, PICTURE))
    square.paste(small, ((PICTURE - small.width) // 2, (PICTURE - small.height) // 2))
    return square


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
