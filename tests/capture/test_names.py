"""Names that nothing has yet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jaxpress.capture.names import Names

STEMS = st.lists(st.sampled_from(["sin", "sin_1", "const", "x"]), max_size=20)


@given(STEMS, st.sets(st.from_regex(r"(sin|sin_1|x)_[0-9]", fullmatch=True)), st.integers(0, 5))
def test_names_are_new_and_numbers_rise(stems: list[str], taken: set[str], start: int) -> None:
    names = Names(taken, start)
    given = [names.fresh(stem) for stem in stems]
    assert not set(given) & taken
    numbers = [int(name.rpartition("_")[2]) for name in given]
    assert numbers == sorted(set(numbers))
    assert [name.rpartition("_")[0] for name in given] == stems
    assert names.next_id == max([start - 1, *numbers]) + 1 or set(taken)
    # Going on from there never gives one of them again.
    later = Names(taken, names.next_id)
    assert not {later.fresh(stem) for stem in stems} & set(given)
