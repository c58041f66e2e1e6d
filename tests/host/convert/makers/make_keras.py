"""Write a model in every form that Keras has: `make_keras.py FOLDER`; run inside the tool environment."""

import sys
from pathlib import Path

import keras

folder = Path(sys.argv[1])
keras.utils.set_random_seed(1)
layers = keras.layers
model = keras.Sequential(
    [
        keras.Input((16, 16, 3), name="image"),
        layers.Conv2D(8, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.DepthwiseConv2D(3, activation="relu6"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(5),
    ]
)
model.save(folder / "model.keras")
model.save(folder / "model.h5")
model.export(folder / "saved", verbose=False)
