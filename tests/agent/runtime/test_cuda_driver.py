"""The calls to NVIDIA's driver, made for real, to a library of the same functions on host memory."""

from __future__ import annotations

import ctypes
import ctypes.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packhorse_agent.runtime.cuda_driver import LIBRARY, CudaDriver, CudaError, CudaMemoryError, open_cuda
from packhorse_agent.runtime.errors import RuntimeMissingError

SOURCE = r"""
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
static int entered, broken, none;
void set_none(int on) { none = on; }
void set_broken(int on) { broken = on; }
int times_entered(void) { return entered; }
int cuInit(unsigned flags) { return none ? 100 : 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 3; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Orin", length); return device != 3; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = 83 - attribute; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)0x7fff12345678; return 0; }
int cuCtxSetCurrent(void *context) { entered++; return context != (void *)0x7fff12345678; }
int cuMemAlloc_v2(uint64_t *address, size_t size) {
  if (size > ((size_t)1 << 40)) return 2;
  *address = (uint64_t)malloc(size);
  return 0;
}
int cuMemFree_v2(uint64_t address) { free((void *)address); return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
  memcpy((void *)to, from, size);
  return stream != (void *)0x7fffabcdef01;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
  memcpy(to, (void *)from, size);
  return stream != (void *)0x7fffabcdef01;
}
int cuStreamCreate(void **stream, unsigned flags) { *stream = (void *)0x7fffabcdef01; return flags != 1; }
int cuStreamSynchronize(void *stream) { return broken ? 700 : stream != (void *)0x7fffabcdef01; }
int cuGetErrorString(int code, const char **text) {
  if (code == 100) *text = "no CUDA-capable device is detected";
  else if (code == 700) *text = "an illegal memory access was encountered";
  else return 1;
  return 0;
}
"""
"""Addresses are beyond 32 bits, so that an argument of the wrong type shows."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("missing: a C compiler (cc)")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(SOURCE)
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-w",
        "-o",
        str(folder / "libdriver.so"),
        str(folder / "driver.c"),
    ]
    subprocess.run(command, check=True, timeout=60)
    return ctypes.CDLL(str(folder / "libdriver.so"))


@pytest.fixture
def driver(library: Any) -> CudaDriver:
    library.set_none(0)
    library.set_broken(0)
    return open_cuda(lambda name: library)


def test_it_tells_the_gpu(driver: CudaDriver) -> None:
    assert (driver.gpu.name, driver.gpu.compute_capability) == ("Orin", "8.7")


def test_what_goes_there_comes_back(driver: CudaDriver) -> None:
    sent = np.arange(1000, dtype=np.float32)
    back = np.empty_like(sent)
    stream, address = driver.create_stream(), driver.allocate(sent.nbytes)
    driver.to_device(address, sent, stream)
    driver.to_host(back, address, stream)
    driver.synchronize(stream)
    driver.free(address)
    np.testing.assert_array_equal(back, sent)


def test_an_empty_tensor_has_an_address(driver: CudaDriver) -> None:
    address = driver.allocate(0)
    assert address
    driver.free(address)


def test_any_thread_can_enter(driver: CudaDriver, library: Any) -> None:
    before = library.times_entered()
    driver.enter()
    assert library.times_entered() == before + 1


def test_no_memory_is_an_error_of_its_own(driver: CudaDriver) -> None:
    with pytest.raises(CudaMemoryError, match="too little memory"):
        driver.allocate(2**50)


def test_a_failure_is_told_in_the_drivers_words(driver: CudaDriver, library: Any) -> None:
    stream = driver.create_stream()
    library.set_broken(1)
    with pytest.raises(CudaError, match=r"cuStreamSynchronize failed: an illegal .* \(CUDA error 700\)"):
        driver.synchronize(stream)


def test_a_failure_without_words_has_its_number(driver: CudaDriver) -> None:
    with pytest.raises(CudaError, match=r"failed: CUDA error 1$"):
        driver.synchronize(1)


def test_a_driver_without_a_gpu_is_said(library: Any) -> None:
    library.set_none(1)
    with pytest.raises(RuntimeMissingError, match="the driver has none: no CUDA-capable device"):
        open_cuda(lambda name: library)


def test_a_library_without_the_functions_is_too_old() -> None:
    with pytest.raises(RuntimeMissingError, match="too old"):
        open_cuda(lambda name: ctypes.CDLL(None))


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="this machine has an NVIDIA driver")
def test_no_driver_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(RuntimeMissingError, match=f"{LIBRARY}.*install the driver"):
        open_cuda()
