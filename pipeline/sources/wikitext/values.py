"""The arguments of a template."""


class Arguments(dict[str, str]):
    """Values by name; positional ones are ``1``, ``2``, …"""

    @classmethod
    def of(cls, given: list[tuple[str | None, str]]) -> "Arguments":
        values, position = cls(), 0
        for name, value in given:
            if name is None:
                position += 1
                values[str(position)] = value
            else:
                values[name.lower()] = value
        return values

    def first(self, *names: str) -> str:
        """The first that has a value, stripped."""
        return next((value for name in names if (value := self.get(name, "").strip())), "")

    def positional(self) -> list[str]:
        found: list[str] = []
        while (value := self.get(str(len(found) + 1))) is not None:
            found.append(value.strip())
        return found
