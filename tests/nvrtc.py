"""CUDA's run-time compiler, called through ctypes: it needs neither a driver nor a GPU, but CuPy's own wrapper does."""

import ctypes
import functools
import glob
import importlib.util
import os

OPTIONS = ["-ftz=true", "--device-as-default-execution-space"]  # with which CuPy 14 compiles


@functools.cache
def library():
    """NVRTC from NVIDIA's wheel, which the extras cuda12x and cuda13x bring; None where it is not installed."""
    packages = importlib.util.find_spec("nvidia")
    for folder in packages.submodule_search_locations if packages else ():
        for path in sorted(glob.glob(os.path.join(folder, "*", "lib", "libnvrtc.so.*"))):
            if "alt" not in path:
                return ctypes.CDLL(path)
    return None


def machine_code(source, architecture):
    """The GPU's machine code that a source makes, such as for "sm_90"; raises RuntimeError with what NVRTC says."""
    nvrtc, program, size = library(), ctypes.c_void_p(), ctypes.c_size_t()
    options = [option.encode() for option in [*OPTIONS, f"-arch={architecture}"]]
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"step.cu", 0, None, None)
    try:
        failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        what = "ProgramLog" if failed else "CUBIN"
        getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{what}")(program, text)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise RuntimeError(f"{text.value.decode()}\n{source}")
    return text.raw
