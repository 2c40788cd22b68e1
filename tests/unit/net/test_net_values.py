"""Values: what `net.values` promises."""

from __future__ import annotations

from typing import Generic, TypeVar

import pytest

from glassnet.net.values import Value

T = TypeVar("T")


class Place(Value):
    name: str
    floor: int = 0


class Other(Value):
    name: str
    floor: int = 0


class Room(Place):
    number: int = 1


class Effect(Value, Generic[T]):
    pass


class Find(Effect[str]):
    name: str


def test_fields_by_place_by_name_and_by_default() -> None:
    place = Place("lab", floor=2)
    assert (place.name, place.floor, Place("lab").floor) == ("lab", 2, 0)
    assert Room("lab", 2, 7).number == 7 and Room("lab").number == 1
    assert Find("eth0").name == "eth0"


def test_equal_when_type_and_fields_are() -> None:
    assert Place("lab") == Place("lab", 0) != Place("lab", 1)
    assert Place("lab") != Other("lab") and Place("lab") != ("lab", 0)
    assert len({Place("lab"), Place("lab"), Other("lab")}) == 2


@pytest.mark.parametrize(
    ("given", "named", "told"),
    [
        ((), {}, "takes name, floor"),
        (("lab", 1, 2), {}, "takes name, floor"),
        (("lab",), {"flor": 1}, "takes name, floor"),
        ((), {"flor": 1}, "lacks name"),
    ],
)
def test_missing_and_unknown_fields(given: tuple[object, ...], named: dict[str, object], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        Place(*given, **named)  # type: ignore[arg-type]


def test_a_value_does_not_change() -> None:
    place = Place("lab")
    with pytest.raises(AttributeError, match="Place is a value: floor cannot be changed"):
        place.floor = 3  # type: ignore[misc]
    assert place._replace(floor=3) == Place("lab", 3) and place.floor == 0


def test_patterns_and_text() -> None:
    match Room("lab", 2, 7):
        case Room(name, floor, number):
            assert (name, floor, number) == ("lab", 2, 7)
    assert repr(Room("lab")) == "Room(name='lab', floor=0, number=1)"
