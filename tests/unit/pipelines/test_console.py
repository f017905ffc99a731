import logging

import pytest

from dncbm.errors import ArtifactError, InvalidInput
from pipelines import console


def raising(error: BaseException):
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (InvalidInput("bad [value]"), 2, "Error: bad [value]"),
        (ArtifactError("damaged"), 1, "Error: damaged"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (ZeroDivisionError("oops"), 1, "unexpected ZeroDivisionError: oops"),
    ],
)
def test_failures_become_one_line_and_an_exit_code(capsys, error, code, shown) -> None:
    assert console.run_guarded(raising(error)) == code
    output = " ".join(capsys.readouterr().err.split())
    assert shown in output
    assert "Traceback" not in output


def test_success_is_zero_and_debug_shows_the_traceback(monkeypatch) -> None:
    assert console.run_guarded(lambda: None) == 0
    monkeypatch.setenv("DNCBM_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        console.run_guarded(raising(ZeroDivisionError()))


def test_progress_in_a_pipe_prints_first_and_last_line_with_rate(capsys) -> None:
    with console.progress_listener() as progress:
        for done in range(5):
            progress("embed", done, 4)
    lines = capsys.readouterr().err.splitlines()
    assert "embed: 4/4" in lines[-1]
    assert "/s" in lines[-1]
    assert len(lines) <= 2


def test_progress_in_a_terminal_draws_bars(monkeypatch, capsys) -> None:
    monkeypatch.setattr(console, "stderr", console.Console(force_terminal=True, stderr=True))
    with console.progress_listener() as progress:
        progress("embed", 1, 4)
        progress("embed", 4, 4)
    assert "4/4" in capsys.readouterr().err


def test_quiet_progress_says_nothing(capsys) -> None:
    with console.progress_listener(quiet=True) as progress:
        progress("embed", 4, 4)
    assert capsys.readouterr().err == ""


def test_logging_is_configured_once(capsys) -> None:
    console.configure_logging(verbose=True)
    assert logging.getLogger().handlers
