"""Temperature schedules as a text: `cosine:0.1:1.0:period=400`."""

from collections.abc import Callable
from dataclasses import dataclass

from dncbm.contrastive.temperature import (
    Constant,
    Cosine,
    Learnable,
    Linear,
    Number,
    Random,
    Swing,
    TemperatureSchedule,
)
from dncbm.errors import InvalidInput, UnknownName

_EPOCHS = "epochs"
FORMS = (
    "0.2", "cosine:LOW:HIGH[:period=N][:phase=SHARE]", "linear:START:END[:steps=N]",
    "random:LOW:HIGH[:period=N]", "learnable[:START]", "swing:ALPHA[:period=N]",
)  # fmt: skip
_HELP = (
    f"Forms: {', '.join(FORMS)}; N counts updates, or epochs as 2epochs; periods=5 means five "
    "within the training."
)


@dataclass(frozen=True, slots=True)
class _Written:
    """A text taken apart."""

    text: str
    numbers: tuple[float, ...]
    options: dict[str, str]
    steps: int
    per_epoch: int
    seed: int

    def require(self, *counts: int, options: tuple[str, ...] = ()) -> None:
        """Refuse another number of numbers, or options that this kind does not have."""
        if len(self.numbers) not in counts:
            raise InvalidInput(f"The temperature {self.text!r} lacks or exceeds numbers. {_HELP}")
        for name in self.options:
            if name not in options:
                raise UnknownName(f"option of the temperature {self.text!r}", name, options, _HELP)

    def span(self, default: Number, name: str = "period") -> Number:
        """A period in updates."""
        if "periods" in self.options:
            count = _number(self.text, self.options["periods"])
            if not count > 0:
                raise InvalidInput(f"{self.text!r} has {count} periods; the rule is above 0.")
            return self.steps / count
        value = self.options.get(name)
        if value is None:
            return default
        if value.endswith(_EPOCHS):
            return _number(self.text, value.removesuffix(_EPOCHS)) * self.per_epoch
        return _number(self.text, value)


def read_schedule(text: str, *, steps: int, per_epoch: int, seed: int = 0) -> TemperatureSchedule:
    """The schedule that a text means.

    Args:
        text: one of `FORMS`. A cosine has one period in the training, a line ends with it and
            random values last an epoch, where nothing else is said.
        steps: updates of the training.
        per_epoch: updates of an epoch.
        seed: of random values.

    Raises:
        UnknownName: another kind or option.
        InvalidInput: numbers are missing or break a rule, such as a temperature of 0.
    """
    kind, *rest = text.strip().split(":")
    if _is_number(kind):
        kind, rest = "constant", [kind, *rest]
    if kind not in _KINDS:
        raise UnknownName("temperature schedule", kind, _KINDS, _HELP)
    numbers = tuple(_number(text, part) for part in rest if "=" not in part)
    options = dict(part.split("=", 1) for part in rest if "=" in part)
    return _KINDS[kind](_Written(text, numbers, options, steps, per_epoch, seed))


def _constant(said: _Written) -> Constant:
    said.require(1)
    return Constant(said.numbers[0])


def _cosine(said: _Written) -> Cosine:
    said.require(2, options=("period", "periods", "phase"))
    low, high = sorted(said.numbers)
    phase = _number(said.text, said.options.get("phase", "0"))
    return Cosine(low, high, said.span(said.steps), phase)


def _linear(said: _Written) -> Linear:
    said.require(2, options=("steps",))
    start, end = said.numbers
    return Linear(start, end, said.span(said.steps, "steps"))


def _random(said: _Written) -> Random:
    said.require(2, options=("period", "periods"))
    low, high = sorted(said.numbers)
    return Random(low, high, said.span(said.per_epoch), said.seed)


def _learnable(said: _Written) -> Learnable:
    said.require(0, 1)
    return Learnable(*said.numbers)


def _swing(said: _Written) -> Swing:
    said.require(1, options=("period", "periods", "phase"))
    phase = _number(said.text, said.options.get("phase", "0"))
    return Swing(said.numbers[0], said.span(said.steps / 5), phase)


_KINDS: dict[str, Callable[[_Written], TemperatureSchedule]] = {
    "constant": _constant, "cosine": _cosine, "linear": _linear, "random": _random,
    "learnable": _learnable, "swing": _swing,
}  # fmt: skip


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(text: str, part: str) -> float:
    if not _is_number(part):
        raise InvalidInput(f"{part!r} in the temperature {text!r} is not a number. {_HELP}")
    return float(part)
