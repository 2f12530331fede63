"""Keys as text: forms, checksums, digests."""

import re
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.keys import (
    KEY_TYPES,
    TokenHasher,
    checksum,
    is_key_id,
    mint,
    parse_token,
    without_secrets,
)

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
types = st.sampled_from(KEY_TYPES)
bodies = st.text(BASE62, min_size=32, max_size=32)
original_bodies = st.text(BASE62 + "-_", min_size=32, max_size=32)


@given(types, bodies)
def test_a_token_with_its_checksum_is_read_back(key_type, body):
    text = f"{key_type}_{body}"
    token = parse_token(text + checksum(text))
    assert token is not None
    assert (token.text, token.type) == (text + checksum(text), key_type)
    assert token.key_id == f"{key_type}_{body[:8]}"
    assert token.last4 == token.text[-4:]


@given(types, bodies, st.data())
def test_one_wrong_character_anywhere_is_refused(key_type, body, data):
    text = f"{key_type}_{body}"
    text += checksum(text)
    index = data.draw(st.integers(len(key_type) + 1, len(text) - 1))
    character = data.draw(st.sampled_from(BASE62).filter(lambda each: each != text[index]))
    assert parse_token(text[:index] + character + text[index + 1 :]) is None


@given(types, types, bodies)
def test_the_checksum_covers_the_type(key_type, other, body):
    text = f"{key_type}_{body}"
    found = parse_token(f"{other}_{body}{checksum(text)}")
    assert (found is not None) == (key_type == other)


@given(types, original_bodies)
def test_a_token_of_the_original_system_needs_no_checksum(key_type, body):
    token = parse_token(f"{key_type}_{body}")
    assert token is not None
    assert token.key_id == f"{key_type}_{body[:8]}"


@given(st.text())
def test_whatever_is_no_token_is_refused_without_a_fault(text):
    assert parse_token(text) is None
    assert not is_key_id(text) or re.fullmatch(r"(client|worker|admin)_.{8}", text)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "x",
        lambda text: text + "\n",
        lambda text: text + "\x00",
        lambda text: " " + text,
        lambda text: text.replace("client", "Client"),
        lambda text: text.replace("client", "owner"),
        lambda text: text.replace("_", "-", 1),
        lambda text: text[:-1],
        lambda text: text[:-1] + "\N{ARABIC-INDIC DIGIT ONE}",
        lambda text: text * 300,
    ],
)
def test_a_changed_token_is_refused(change):
    assert parse_token(change(mint("client").text)) is None


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_minted_tokens_have_the_form_and_differ(key_type):
    tokens = {mint(key_type).text for _ in range(200)}
    assert len(tokens) == 200
    for text in tokens:
        assert re.fullmatch(key_type + "_[0-9A-Za-z]{38}", text)
        assert parse_token(text) is not None
    # 200 x 32 draws: each of the 62 characters is there unless chance is 1 in 10**40.
    assert {*"".join(text[len(key_type) + 1 : -6] for text in tokens)} == {*BASE62}


@given(st.text(string.ascii_letters, max_size=60))
def test_the_checksum_is_the_crc_in_base62(text):
    number = 0
    for digit in checksum(text):
        number = number * 62 + BASE62.index(digit)
    assert number == zlib.crc32(text.encode())


def test_a_digest_depends_on_the_pepper_and_fits_its_token_alone():
    token, other = mint("client"), mint("client")
    plain, peppered = TokenHasher(None), TokenHasher("pepper")
    assert re.fullmatch("[0-9a-f]{64}", plain.digest(token))
    assert len({plain.digest(token), peppered.digest(token), plain.digest(other)}) == 3
    assert TokenHasher("").digest(token) == plain.digest(token)
    assert peppered.fits(token, peppered.digest(token))
    assert not peppered.fits(token, plain.digest(token))
    assert not peppered.fits(other, peppered.digest(token))


def test_a_token_does_not_show_itself():
    token = mint("admin")
    assert token.text not in f"{token} {token!r} {[token]}"
    assert token.key_id in repr(token)


@given(types, original_bodies, st.text(string.ascii_lowercase + " "), st.text(" .,'\""))
def test_secrets_are_cut_out_of_foreign_words(key_type, body, before, after):
    assert without_secrets(f"{before}'{key_type}_{body}'{after}") == (
        f"{before}'{key_type}_{body[:8]}...'{after}"
    )
    assert without_secrets(f"{before}'{key_type}_{body[:8]}'") == (
        f"{before}'{key_type}_{body[:8]}'"
    )


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_only_an_id_is_an_id(key_type):
    token = mint(key_type)
    assert is_key_id(token.key_id)
    for text in (token.text, token.key_id + "\n", token.key_id[:-1], f"{key_type}_*", "x" * 14):
        assert not is_key_id(text)
