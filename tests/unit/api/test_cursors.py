from hypothesis import given
from hypothesis import strategies as st

from api.cursors import decode_cursor, encode_cursor
from tests.support.awkward import words

positions = st.lists(st.none() | st.integers(0, (1 << 63) - 1), min_size=1, max_size=20)


@given(positions)
def test_a_cursor_comes_back_equal_and_is_safe_in_a_url(numbers: list[int | None]) -> None:
    text = encode_cursor(numbers)
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert decode_cursor(text, len(numbers)) == tuple(numbers)
    assert "cursor" in words(decode_cursor(text, len(numbers) + 1))


@given(positions, st.data())
def test_a_cursor_that_was_touched_is_refused(
    numbers: list[int | None], data: st.DataObject
) -> None:
    text = encode_cursor(numbers)
    at = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters(exclude_characters=[text[at]]))
    for touched in (text[:at] + character + text[at + 1 :], text[:at], text + character):
        assert "cursor" in words(decode_cursor(touched, len(numbers)))
