"""What a person sees on the command line: progress with rate and ETA, errors in one line."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dncbm.errors import DncbmError, InvalidInput

# Names of files, classes and concepts are shown as they are, never read as markup.
stdout = Console(highlight=False, markup=False, emoji=False)
stderr = Console(stderr=True, highlight=False, markup=False, emoji=False)

_LOG_EVERY_SECONDS = 10.0


@contextmanager
def progress_listener(*, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A `dncbm.training.progress.Progress` that draws a bar per stage on stderr.

    A terminal gets live bars; a pipe or a log file gets a line every few seconds.
    """
    if quiet:
        yield lambda stage, done, total: None
    elif stderr.is_terminal:
        with _bars() as bars:
            yield _Bars(bars)
    else:
        yield _Lines()


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=stderr,
    )


class _Bars:
    """One rich task per stage, made when the stage first reports."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, rate="")
        task = self._bars.tasks[self._bars.task_ids.index(self._tasks[stage])]
        rate = f"{task.speed:,.0f}/s" if task.speed else ""
        self._bars.update(self._tasks[stage], completed=done, total=total, rate=rate)


class _Lines:
    """One line per stage at its end, and one every few seconds on the way."""

    def __init__(self) -> None:
        self._started: dict[str, tuple[float, int]] = {}
        self._last = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        started, first = self._started.setdefault(stage, (now, done))
        if done < total and now - self._last < _LOG_EVERY_SECONDS:
            return
        self._last = now
        text = f"{stage}: {done:,}/{total:,}"
        if done > first:  # before that there is nothing to tell a rate from
            rate = (done - first) / max(now - started, 1e-9)
            eta = f", ETA {(total - done) / rate:.0f} s" if done < total else ""
            text += f" ({rate:,.3g}/s{eta})" if rate < 10 else f" ({rate:,.0f}/s{eta})"
        stderr.print(text)


def run_guarded(command: Callable[[], None]) -> int:
    """Run a command; every failure becomes one clear line and an exit code.

    0 success, 1 the task failed, 2 the input or the options are wrong, 130 interrupted.
    `DNCBM_DEBUG=1` shows the traceback of an unexpected error.
    """
    try:
        command()
    except DncbmError as error:
        stderr.print(f"Error: {error}", style="red")
        return 2 if isinstance(error, InvalidInput) else 1
    except KeyboardInterrupt:
        stderr.print("Interrupted. Finished work is kept; the same command resumes it.")
        return 130
    except BrokenPipeError:
        # the reader of our output is gone; keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("DNCBM_DEBUG"):
            raise
        stderr.print(
            f"Error: unexpected {type(error).__name__}: {error}. Set DNCBM_DEBUG=1 and run the "
            "command again for the traceback, and please report it.",
            style="red",
        )
        return 1
    return 0


def configure_logging(*, verbose: bool) -> None:
    """Send the library's log records to stderr: warnings, and details when verbose."""
    # the handler writes to the console, which finds the current stderr at each record
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(name)s: %(message)s",
        handlers=[RichHandler(console=stderr, show_time=False, show_path=False)],
    )
