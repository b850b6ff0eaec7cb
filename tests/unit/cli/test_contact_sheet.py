import io

import pytest
from PIL import Image

from cli.contact_sheet import COLUMNS, Card, contact_sheet
from cli.demo import Row, Steps, table


def picture(size: tuple[int, int], colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def card(number: int) -> Card:
    return Card(
        slide=f"slide-{number}.svs",
        task="nsclc",
        truth="LUAD",
        prediction="LUSC" if number else "LUAD",
        probability=0.9,
        outcome="predicted",
        seconds=1.0,
        notice="not for diagnosis",
        thumbnail=picture((400, 200), "#10a010"),
        heatmap=picture((200, 400), "#1010a0"),
    )


@pytest.mark.parametrize("count", [1, COLUMNS, COLUMNS + 1])
def test_every_card_is_on_the_sheet(count: int) -> None:
    with Image.open(io.BytesIO(contact_sheet([card(number) for number in range(count)]))) as sheet:
        colours = {colour: pixels for pixels, colour in sheet.convert("RGB").getcolors(1 << 24)}
    for colour in ((16, 160, 16), (16, 16, 160)):
        assert colours[colour] == count * 300 * 150


def test_right_and_wrong_look_different() -> None:
    assert contact_sheet([card(0)]) != contact_sheet([card(1)])


def test_the_table_lines_up() -> None:
    rows = [
        Row("a.svs", "rcc", "PRCC", "ChRCC", 0.5, "predicted", 1.25, ""),
        Row("longer-name.tif", "isup", "0", "-", 0.0, "MPP_MISSING", 0.0, ""),
    ]
    heading, first, second = table(rows).splitlines()
    for line, words in ((first, ("PRCC", "predicted")), (second, ("-", "MPP_MISSING"))):
        assert line.index(words[1]) == heading.index("outcome")
        assert line.split()[3 if words[0] == "-" else 2] == words[0]


def test_steps_speak_at_their_beginning_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    say = Steps()
    for done in range(5):
        say("drawing", done, 4)
    say("serving")
    say("serving")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("] ")[1] for line in lines] == ["drawing  0/4", "drawing  4/4", "serving"]
