"""Sends labelled images to a device's endpoint, as an application would, and counts what comes back right."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np


class Evaluation:
    """The sample's evaluation set."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as data:
            self.images = data["image"]
            self.labels = data["labels"]

    def accuracy_percent(self, endpoint: str, slot: str) -> float:
        """Top-1 accuracy over one keep-alive connection, one image a request."""
        address = urlsplit(endpoint)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        right = 0
        for image, label in zip(self.images, self.labels, strict=True):
            right += int(_classify(connection, slot, image) == label)
        connection.close()
        return 100.0 * right / len(self.labels)


def _classify(connection: http.client.HTTPConnection, slot: str, image: np.ndarray) -> int:
    tensor = {
        "name": "image",
        "datatype": "FP32",
        "shape": [1, *image.shape],
        "data": image.ravel().tolist(),
    }
    body = json.dumps({"inputs": [tensor]})
    path = f"/v2/models/{slot}/infer"
    connection.request("POST", path, body=body, headers={"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status != 200:
        raise RuntimeError(f"{path} answered {response.status}: {answer}")
    return int(np.argmax(answer["outputs"][0]["data"]))
