"""Names, versions and the canonical form of documents."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from packhorse_agent.contract.base import (
    FileName,
    HumanDocument,
    Name,
    Sha256Hex,
    Version,
    WireDocument,
    canonical_json,
    sha256_hex,
    version_key,
)
from packhorse_agent.contract.manifest import Manifest
from tests.agent.contract.strategies import manifests, versions

NAME: TypeAdapter[str] = TypeAdapter(Name)
FILE_NAME: TypeAdapter[str] = TypeAdapter(FileName)
VERSION: TypeAdapter[str] = TypeAdapter(Version)
DIGEST: TypeAdapter[str] = TypeAdapter(Sha256Hex)


class Note(WireDocument):
    text: str
    score: float = 0.0


class Order(HumanDocument):
    count: int


@pytest.mark.parametrize("name", ["a", "9", "raspberry-pi-5", "cam.front_2", "x" * 63])
def test_a_name_is_lower_case_and_safe_in_topics_paths_and_urls(name: str) -> None:
    assert NAME.validate_python(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "a+", "#", "é", "x" * 64, "a\0", "a:b"]
)
def test_anything_else_is_no_name(name: str) -> None:
    with pytest.raises(ValidationError):
        NAME.validate_python(name)


@pytest.mark.parametrize("file", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\n", "x" * 128, "a b"])
def test_a_file_name_is_one_path_component(file: str) -> None:
    with pytest.raises(ValidationError):
        FILE_NAME.validate_python(file)


@pytest.mark.parametrize(
    "version", ["", "v1", "1.", ".1", "1.2.3.4.5", "1.2-rc1", "1" * 10, "1\n", "-1", "١"]
)
def test_a_version_is_one_to_four_numbers(version: str) -> None:
    with pytest.raises(ValidationError):
        VERSION.validate_python(version)


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n"])
def test_a_digest_is_64_lower_case_hexadecimal_digits(digest: str) -> None:
    with pytest.raises(ValidationError):
        DIGEST.validate_python(digest)


@given(manifests())
def test_canonical_json_reads_back_as_the_same_document(manifest: Manifest) -> None:
    assert Manifest.model_validate_json(canonical_json(manifest)) == manifest


@given(manifests())
def test_equal_documents_have_equal_bytes(manifest: Manifest) -> None:
    again = Manifest.model_validate(json.loads(manifest.model_dump_json(indent=3)))
    assert canonical_json(again) == canonical_json(manifest)


def test_canonical_json_sorts_keys_and_writes_utf8_without_spaces() -> None:
    assert canonical_json(Note(text="é", score=1.5)) == '{"score":1.5,"text":"é"}'.encode()


@pytest.mark.parametrize("score", [float("nan"), float("inf"), "NaN"])
def test_a_number_that_json_cannot_carry_is_refused(score: object) -> None:
    with pytest.raises(ValidationError):
        Note.model_validate({"text": "", "score": score})


def test_an_older_reader_survives_a_new_field_on_the_wire() -> None:
    assert Note.model_validate({"text": "a", "colour": "red"}) == Note(text="a")


def test_an_unknown_key_in_a_document_that_people_write_is_an_error() -> None:
    with pytest.raises(ValidationError, match="colour"):
        Order.model_validate({"count": 1, "colour": "red"})


@pytest.mark.parametrize("document", [Note(text="a"), Order(count=1)])
def test_documents_are_frozen(document: BaseModel) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        document.text = "b"  # type: ignore[attr-defined]


@given(st.binary())
def test_sha256_is_that_of_the_standard_library(data: bytes) -> None:
    assert sha256_hex(data) == hashlib.sha256(data).hexdigest()


@given(versions)
def test_trailing_zeros_do_not_change_a_version(version: str) -> None:
    assert version_key(version + ".0") == version_key(version)


@given(
    st.lists(st.integers(0, 999), min_size=1, max_size=4),
    st.lists(st.integers(0, 999), min_size=1, max_size=4),
)
def test_versions_order_by_number(left: list[int], right: list[int]) -> None:
    length = max(len(left), len(right))
    padded = [numbers + [0] * (length - len(numbers)) for numbers in (left, right)]
    keys = [version_key(".".join(map(str, numbers))) for numbers in (left, right)]
    assert (keys[0] < keys[1]) == (padded[0] < padded[1])


def test_known_versions_in_order() -> None:
    ascending = ["garbage", "0.9", "1.2", "1.9", "1.10", "1.20.0rc1", "2.13.0+cpu", "10"]
    assert all(version_key(low) < version_key(high) for low, high in pairwise(ascending))
    assert version_key("2.13.0+cpu") == version_key("2.13")


@given(st.text())
def test_any_text_has_a_version_key(text: str) -> None:
    assert all(number >= 0 for number in version_key(text))
