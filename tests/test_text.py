"""What others wrote is shown, never obeyed."""

from __future__ import annotations

import io
import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab_tui.cli import output
from lab_tui.text import one_cell, printable, printable_json, printable_lines

ANYTHING = st.text(st.characters(exclude_categories=()))  # lone surrogates too
HARMFUL = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def harmless(text: str) -> bool:
    return not any(unicodedata.category(c) in HARMFUL for c in text)


def test_printable() -> None:
    assert printable("a\x1b[31mred\x07\x9b") == "a\\x1b[31mred\\x07\\x9b"
    assert printable("a\tb") == "a   b"
    assert printable("ümlaut 漢 😀\u00a0") == "ümlaut 漢 😀\u00a0"
    assert printable("right to left \u202e") == "right to left \\u202e"
    assert printable("a\nb\udcff\U000e0001") == "a\\x0ab\\udcff\\U000e0001"
    assert printable_lines("a\nb\r") == "a\nb\\x0d"
    assert one_cell("a\x1b[2J\u202e\x9b") == "a␛[2J␦␦"


@given(ANYTHING)
def test_nothing_harmful_is_left(text: str) -> None:
    assert harmless(printable(text))
    assert harmless(one_cell(text))
    assert len(one_cell(text)) == len(text)
    document = json.dumps({"a": text}, ensure_ascii=False)
    shown = printable_json(document)
    assert harmless(shown)
    assert json.loads(shown) == json.loads(document)


def test_every_way_out_of_a_command_shows_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "m\x1b]0;owned\x07\u202e\n.gguf"
    output.put(name)
    output.put(output.table(("NAME",), [(name,)]))
    output.put_json({"name": name})
    output.put_json_line({"name": name})
    output.say(name)
    with pytest.raises(SystemExit):
        output.fail(name)
    seen = capsys.readouterr()
    for line in (seen.out + seen.err).splitlines():
        assert harmless(line), line
    assert seen.out.splitlines()[2:4] == ["NAME", "m\\x1b]0;owned\\x07\\u202e .gguf"]  # a row is one line
    assert seen.err.splitlines()[-1] == "lab-tui: m\\x1b]0;owned\\x07\\u202e\\x0a.gguf"
    output.put_file(name)
    assert capsys.readouterr().out == f"{name}\n"  # into a file or a pipe it is exact

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    output.put_file(name)
    assert terminal.getvalue() == "m\\x1b]0;owned\\x07\\u202e\n.gguf\n"
