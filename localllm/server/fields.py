"""The fields of one JSON object, taken one by one; what nobody took is refused by name.

Every number has a range, and nothing is ignored: a client that asks for something this server
does not do is told so, instead of getting another answer than it asked for.
"""

from collections.abc import Mapping, Sequence

from localllm.server.problems import ApiError

Neutral = Mapping[str, Sequence[object]]
"""Fields that are accepted only with a value that asks for nothing: name -> those values.

None is always among them. True is not 1 here, though Python says they are equal.
"""


class Fields:
    """One JSON object at `path` ("" at the top). Each method takes a field; `done` ends it.

    A field that is absent or null is None. Raises ApiError naming the field.
    """

    def __init__(self, values: Mapping[str, object], path: str = "") -> None:
        self._values = dict(values)
        self._path = path

    def path(self, name: str) -> str:
        """The field's name as messages show it: `messages[0].content`."""
        return f"{self._path}.{name}" if self._path else name

    def value(self, name: str) -> object:
        return self._values.pop(name, None)

    def required(self, name: str) -> object:
        value = self.value(name)
        if value is None:
            raise self.problem(name, "is required", "missing_required_parameter")
        return value

    def text(self, name: str, *, longest: int) -> str | None:
        value = self.value(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.wrong_type(name, "a string")
        if len(value) > longest:
            raise self.problem(name, f"is longer than {longest} characters")
        return value

    def flag(self, name: str) -> bool:
        value = self.value(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.wrong_type(name, "true or false")
        return value

    def integer(self, name: str, low: int, high: int) -> int | None:
        value = self.value(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong_type(name, f"an integer between {low} and {high}")
        if not low <= value <= high:
            raise self.problem(name, f"must be between {low} and {high}")
        return value

    def number(self, name: str, low: float, high: float, *, above: bool = False) -> float | None:
        """A number in [low, high], or in (low, high] with `above`."""
        value = self.value(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong_type(name, f"a number between {low:g} and {high:g}")
        if not low <= value <= high or (above and value == low):
            asked = f"above {low:g} and at most {high:g}" if above else f"{low:g} to {high:g}"
            raise self.problem(name, f"must be {asked}")
        return float(value)

    def nested(self, name: str) -> "Fields | None":
        value = self.value(name)
        if value is None:
            return None
        return self.of(value, name)

    def of(self, value: object, name: str) -> "Fields":
        """Take `value`, found at `name`, as an object of its own."""
        if not isinstance(value, dict):
            raise self.wrong_type(name, "an object")
        return Fields(value, self.path(name))

    def neutral(self, table: Neutral) -> None:
        """Take the fields of `table`; refuse those whose value asks for something."""
        for name in self._values.keys() & table.keys():
            value = self._values.pop(name)
            if value is not None and not any(_same(value, known) for known in table[name]):
                raise self.problem(
                    name, "is not supported with this value", "unsupported_parameter"
                )

    def done(self) -> None:
        """Refuse what nobody took."""
        for name in self._values:
            shown = name if len(name) <= 64 else name[:64] + "..."
            raise self.problem(shown, "is not known to this server", "unknown_parameter")

    def problem(self, name: str, what: str, code: str = "invalid_value") -> ApiError:
        path = self.path(name)
        return ApiError(f"`{path}` {what}.", code=code, param=path)

    def wrong_type(self, name: str, wanted: str) -> ApiError:
        return self.problem(name, f"must be {wanted}", "invalid_type")


def _same(value: object, known: object) -> bool:
    return type(value) is type(known) and value == known
