"""Topics are formatted and parsed by one type each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.contract.topics import (
    BlobTopic,
    DeviceChannel,
    DeviceTopic,
    Topic,
    TrustTopic,
    WantTopic,
    blob_shard,
    parse_topic,
)
from tests.agent.contract.strategies import digests, names

topics = st.one_of(
    st.builds(TrustTopic, names),
    st.builds(DeviceTopic, names, names, st.sampled_from(DeviceChannel)),
    st.builds(WantTopic, names, st.integers(0, 15), names),
    st.builds(BlobTopic, names, digests),
)


@given(topics)
def test_a_topic_reads_back_as_itself(topic: Topic) -> None:
    assert parse_topic(str(topic)) == topic


@given(topics)
def test_a_topic_has_at_most_seven_slashes_and_no_wildcard(topic: Topic) -> None:
    text = str(topic)
    assert text.count("/") <= 7
    assert not set("+#$\0") & set(text)


@given(st.text())
def test_whatever_reads_as_a_topic_is_spelled_exactly_so(text: str) -> None:
    topic = parse_topic(text)
    assert topic is None or str(topic) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ph/1/f/trust\n",
        "ph/2/f/trust",
        "ph/1/F/trust",
        "ph/1//trust",
        "/ph/1/f/trust",
        "ph/1/f/trust/",
        "ph/1/f/device/d/reports",
        "ph/1/f/device/+/report",
        "ph/1/f/device/../report",
        "ph/1/f/want/10/d",
        "ph/1/f/want/g/d",
        "ph/1/f/want/A/d",
        "ph/1/f/blob/" + "0" * 63,
        "ph/1/f/blob/" + "F" * 64,
        "$share/g/ph/1/f/trust",
    ],
)
def test_other_topics_are_none_of_ours(text: str) -> None:
    assert parse_topic(text) is None


def test_the_filter_of_requests_covers_every_shard_and_device() -> None:
    assert WantTopic.filter("f") == "ph/1/f/want/+/+"
    assert str(WantTopic("f", 15, "d")) == "ph/1/f/want/f/d"


@given(digests)
def test_a_blob_is_always_in_the_shard_of_its_first_byte(digest: str) -> None:
    assert blob_shard(digest) == bytes.fromhex(digest)[0] % 16
