"""What scripts/qat_sample runs: quantization-aware training of hard variants of the sample."""
