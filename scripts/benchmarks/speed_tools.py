"""The plain tools, set by hand as their makers advise for a CPU: FP32 ONNX and calibration in, INT8 ONNX out.

Runs by itself in the throw-away environment of `locks/speed-cp311.txt`, which has none of our packages:
`python speed_tools.py SETTING MODEL CALIBRATION OUTPUT`. Calibration is an `.npz` with an array per input.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Feeds = list[dict[str, Any]]
"""Samples one by one, by input name."""


def main() -> None:
    setting, model, calibration, output = sys.argv[1:]
    onnx.save(SETTINGS[setting](onnx.load(model), _feeds(Path(calibration))), output)


def _feeds(path: Path) -> Feeds:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    count = len(next(iter(arrays.values())))
    return [{name: array[index : index + 1] for name, array in arrays.items()} for index in range(count)]


def _onnxruntime(activations: str, weights: str, **more: Any) -> Callable[[Any, Feeds], Any]:
    """`quantize_static` by ONNX Runtime's guide: preprocessed, Q/DQ pairs, weights per channel, MinMax."""

    def quantize(model: Any, feeds: Feeds) -> Any:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self._feeds: Iterator[dict[str, Any]] = iter(feeds)

            def get_next(self) -> dict[str, Any] | None:
                return next(self._feeds, None)

        with tempfile.TemporaryDirectory(prefix="speed-") as folder:
            prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
            quant_pre_process(model, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared, quantized, Reader(),
                quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType[activations], weight_type=QuantType[weights],
                extra_options={"WeightSymmetric": True}, **more,
            )  # fmt: skip
            return onnx.load(quantized)

    return quantize


def _nncf(model: Any, feeds: Feeds) -> Any:
    """NNCF with its defaults."""
    import nncf  # type: ignore[import-not-found]

    return nncf.quantize(model, nncf.Dataset(feeds), subset_size=len(feeds))


def _nncf_by_hand(overflow_fix: str) -> Callable[[Any, Feeds], Any]:
    """NNCF for ONNX Runtime: its kernels know one range for all channels of an activation, taken by MinMax.

    Biases stay: on the sample model its correction costs four points of accuracy.
    """

    def quantize(model: Any, feeds: Feeds) -> Any:
        import nncf
        from nncf.quantization.advanced_parameters import (  # type: ignore[import-not-found]
            QuantizationParameters,
        )
        from nncf.quantization.range_estimator import (  # type: ignore[import-not-found]
            RangeEstimatorParametersSet,
        )

        parameters = nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix[overflow_fix],
            disable_bias_correction=True,
            activations_quantization_params=QuantizationParameters(per_channel=False),
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        )
        return nncf.quantize(
            model, nncf.Dataset(feeds), subset_size=len(feeds), preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU, advanced_parameters=parameters,
        )  # fmt: skip

    return quantize


def _aimet(model: Any, feeds: Feeds) -> Any:
    """AIMET's simulation, INT8 throughout, weights per channel; written out as Q/DQ pairs."""
    import aimet_onnx  # type: ignore[import-not-found]
    from aimet_onnx.quantsim import QuantizationSimModel  # type: ignore[import-not-found]

    simulation = QuantizationSimModel(
        model, param_type=aimet_onnx.int8, activation_type=aimet_onnx.int8, config_file="default"
    )
    simulation.compute_encodings(feeds)
    return simulation.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True)


SETTINGS: dict[str, Callable[[Any, Feeds], Any]] = {
    "onnxruntime-u8s8": _onnxruntime("QUInt8", "QInt8"),
    "onnxruntime-u8s8-reduced": _onnxruntime("QUInt8", "QInt8", reduce_range=True),
    "onnxruntime-s8s8": _onnxruntime("QInt8", "QInt8"),
    "onnxruntime-u8u8": _onnxruntime("QUInt8", "QUInt8"),
    "nncf": _nncf,
    "nncf-by-hand": _nncf_by_hand("DISABLE"),
    "nncf-by-hand-overflow-fix": _nncf_by_hand("ENABLE"),
    "aimet": _aimet,
}

if __name__ == "__main__":
    main()
