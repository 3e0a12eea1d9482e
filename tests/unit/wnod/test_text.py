"""How things are shown: aligned, coloured on terminals only, safe to print."""

import io

import pytest

from wnod.commands.text import age, mib, paint, plain, print_table, shape, tally, user_name


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def table(out: io.StringIO) -> str:
    print_table(("VM", "PHASE"), [("vm1", "ready"), ("a-long-name", "booting")], out)
    return out.getvalue()


def test_columns_are_aligned_and_lines_have_no_trailing_spaces() -> None:
    assert table(io.StringIO()) == "VM           PHASE\nvm1          ready\na-long-name  booting\n"


def test_colour_on_a_terminal_changes_only_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = table(Terminal())
    assert "\x1b[32mready" in shown
    assert (
        shown.replace("\x1b[32m", "").replace("\x1b[33m", "").replace("\x1b[0m", "").split()
        == table(io.StringIO()).split()
    )


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    assert "\x1b" not in table(Terminal())


def test_an_unknown_word_has_no_colour() -> None:
    assert paint("debian12") == "debian12"


@pytest.mark.parametrize(
    ("value", "shown"),
    [("\x1b[2J", "\\x1b[2J"), ("a\nb", "a\\nb"), (None, "-"), ("", "-"), (0, "0"), ("пример", "пример")],
)
def test_plain(value: object, shown: str) -> None:
    assert plain(value) == shown
    assert len(plain("x" * 10_000)) == 200


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (7500, "2 h 05"),
        (200_000, "2 d"),
        (-5, "0.0 s"),
    ],
)
def test_age(seconds: float, shown: str) -> None:
    assert age(1000.0, 1000.0 + seconds) == shown
    assert age(None, 1.0) == "-"


def test_sizes_and_names() -> None:
    assert (mib(512), mib(2048), mib(None)) == ("512 MiB", "2.0 GiB", "-")
    assert shape({"cpus": 2, "memory_mib": 1536, "disk_mib": 10}) == "2 cpus, 1.5 GiB, 10 MiB disk"
    assert (user_name(0), user_name(4_000_000_000), user_name(None)) == ("root", "4000000000", "None")
    assert (tally(["b", "a", "b"]), tally([])) == ("2 b, 1 a", "none")
