"""Quantities are read as Kubernetes reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity as reference
from pydantic import TypeAdapter, ValidationError

from slipway_api.quantity import Quantity, parse_quantity, quantity_bytes

SUFFIXES = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]


@given(number=st.decimals(min_value=0, max_value=10**6, places=3), suffix=st.sampled_from(SUFFIXES))
def test_agrees_with_the_official_client(number, suffix):
    text = f"{number}{suffix}"
    assert parse_quantity(text) == reference(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("1e3", 1000), ("2E2", 200), ("1.5Gi", 1610612736), (".5k", 500)]
)
def test_exponents_and_fractions(text, expected):
    assert quantity_bytes(text) == expected


def test_a_fraction_of_a_byte_rounds_up():
    assert quantity_bytes("1500m") == 2


@pytest.mark.parametrize("text", ["", "4 Gi", "4GB", "Gi", "1e", "--1", "1.2.3", "0x10"])
def test_refuses_and_says_what_to_write(text):
    with pytest.raises(ValueError, match="write for example"):
        parse_quantity(text)


@pytest.mark.parametrize("value", [1.5, True, None, []])
def test_only_text_and_integers_are_quantities(value):
    with pytest.raises(ValidationError, match="no Kubernetes quantity"):
        TypeAdapter(Quantity).validate_python(value)
