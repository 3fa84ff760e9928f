"""Tables and words for people."""

import io
import subprocess
import sys

import click
import pytest
from outgrow.cli import quick
from outgrow.cli.printing import lasting, print_table, short_ids


class Terminal(io.StringIO):
    def isatty(self):
        return True


def on_a_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    return out


def test_a_table_in_a_pipe_is_as_wide_as_it_needs(capsys):
    assert print_table(["name", "score"], [["größe 漢字", 0.123456789], ["x" * 200, None]], keep=1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[2:]] == [["größe", "漢字", "0.123457"], ["x" * 200]]
    assert lines[1] == "─" * 211


def test_columns_that_do_not_fit_are_left_out_and_counted(monkeypatch):
    out = on_a_terminal(monkeypatch, 40)
    assert print_table(["run", "name", "a", "b"], [["r" * 8, "n" * 20, 1.0, "b" * 30]], keep=2) == 1
    shown = click.unstyle(out.getvalue())
    assert max(map(len, shown.splitlines())) <= 40
    assert "bbb" not in shown


def test_columns_that_must_stay_are_folded_and_none_is_cut(monkeypatch):
    out = on_a_terminal(monkeypatch, 30)
    print_table(["run", "why"], [["r" * 32, "because " * 5]], keep=2)
    shown = click.unstyle(out.getvalue())
    assert max(map(len, shown.splitlines())) <= 30
    assert shown.count("r" * 3) >= 1
    assert sum(line.count("r") for line in shown.splitlines()[2:]) == 32
    assert shown.count("because") == 5


def test_a_terminal_is_shown_no_control_characters(capsys):
    print_table(["name"], [["\x1b[31mred\x07"]])
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ids", "shown"),
    [
        (["0123456789abcdef0123", "ffff456789abcdef0123"], ["01234567", "ffff4567"]),
        (["20261123-182322-6506e32a", "20261123-182322-7777e32a"], ["20261123-182322-6506e32a", "20261123-182322-7777e32a"]),
        (["mlflow:" + "a" * 32, "mlflow:" + "b" * 32], ["mlflow:aaaaa", "mlflow:bbbbb"]),
        (["same", "same"], ["same", "same"]),
        ([], []),
    ],
)  # fmt: skip
def test_short_ids_tell_the_runs_apart(ids, shown):
    assert short_ids(ids) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0.0391, "0.0391 s"), (59.5, "59.5 s"), (61, "1 min 01 s"), (3_661, "1 h 01 min"), (90_000, "1 d 1 h")],
)  # fmt: skip
def test_durations(seconds, shown):
    assert lasting(seconds) == shown


def test_a_short_command_does_without_pandas_and_a_table_still_becomes_a_frame():
    code = (
        "import sys; from outgrow.cli.quick import spare_pandas; spare_pandas(); import pyarrow as pa\n"
        "table = pa.table({'a': pa.array([1, None])}); assert 'pandas' not in sys.modules\n"
        "assert list(table.to_pandas()['a'])[0] == 1; assert 'pandas' in sys.modules\n"
        "assert not [f for f in sys.meta_path if 'NoPandas' in repr(f)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert quick._NoPandas.find_spec("json") is None
