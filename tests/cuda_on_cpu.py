"""Runs CUDA C on the processor: a module's source is compiled by the machine's C compiler and called through ctypes.

Enough of the language for kernels that are C but for `__global__`, `__device__`, `__shared__`, `__syncthreads` and the
four indices, and whose parameters are pointers named p0, p1 and so on. It is stricter than a GPU:

- every p3[...] is checked against the memory that p3 points into;
- blocks run from the last to the first, and threads in a scattered order, so that what relies on an order goes wrong;
- threads of a block run up to `__syncthreads`, all of them, before the first goes on; they must all meet there.
"""

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile

COMPILER = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
OPTIONS = ["-O1", "-std=gnu11", "-shared", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-w", "-lm"]
MAX_THREADS = 1024

PRELUDE = """
#include <math.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <ucontext.h>

#define __global__ static
#define __device__ static
#define __shared__ static
static struct { int x, y; } threadIdx, blockIdx, blockDim, gridDim;

/* -- memory: the bounds of each pointer, in elements, and what went wrong */

static const long long *low, *high;
static int problem;
#define WITHIN(k, i) ((i) >= low[k] && (i) < high[k] ? (long long)(i) : (problem = 1, low[k]))

/* -- threads: each has a stack of its own, and gives way at __syncthreads and at its end */

enum { STACK = 1 << 15 };
static struct { jmp_buf at; int started, waits; } thread[MAX_THREADS];
static jmp_buf scheduler;
static ucontext_t home;
static int now;
static void (*body)(void **);
static void **arguments;

static void give_way(int waits) {
    thread[now].waits = waits;
    if (!_setjmp(thread[now].at)) _longjmp(scheduler, 1);
}
static void __syncthreads(void) { give_way(1); }
static void forever(void) { for (;;) { body(arguments); give_way(0); } }

static void resume(int t) {
    now = threadIdx.x = t;
    if (_setjmp(scheduler)) return;
    if (thread[t].started) _longjmp(thread[t].at, 1);
    thread[t].started = 1;
    ucontext_t fresh;
    getcontext(&fresh);
    fresh.uc_stack.ss_sp = malloc(STACK);
    fresh.uc_stack.ss_size = STACK;
    fresh.uc_link = 0;
    makecontext(&fresh, forever, 0);
    swapcontext(&home, &fresh);
}

static void meet(int n) {
    for (int waiting = n; waiting;) {
        waiting = 0;
        for (int k = 0; k < n; k++) {
            const int t = (int)((long long)k * 389 % n);
            resume(t);
            waiting += thread[t].waits;
        }
        if (waiting && waiting != n) problem = 2;  /* some have ended: on a GPU the others would wait forever */
    }
}

static int run(void (*kernel)(void **), int meets, void **a, const long long *lows, const long long *highs,
               const int *n) {
    body = kernel, arguments = a, low = lows, high = highs, problem = 0;
    gridDim.x = n[0], gridDim.y = n[1], blockDim.x = n[2], blockDim.y = 1;
    for (blockIdx.y = n[1] - 1; blockIdx.y >= 0; blockIdx.y--)
        for (blockIdx.x = n[0] - 1; blockIdx.x >= 0; blockIdx.x--)
            if (meets)
                meet(n[2]);
            else
                for (int k = 0; k < n[2]; k++) {
                    threadIdx.x = (int)((long long)k * 389 % n[2]);
                    kernel(a);
                }
    return problem;
}
"""

PROBLEMS = {1: "reads or writes outside the memory of an argument", 2: "has threads that do not meet at __syncthreads"}


class Function:
    """A kernel: `types` are those of its parameters, as C."""

    def __init__(self, name, types, call):
        self.name, self.types, self._call = name, types, call

    def prepare(self, grid, threads, pointers, bounds):
        """A function that runs the kernel; bounds are (first, end) of what each pointer may reach, in elements."""
        integers = ctypes.c_longlong * len(pointers)
        lows, highs = (integers(*ends) for ends in zip(*bounds, strict=True))
        given = (ctypes.c_void_p * len(pointers))(*pointers), lows, highs
        sizes = (ctypes.c_int * 3)(*grid, threads)

        def launch():
            problem = self._call(*given, sizes)
            if problem:
                raise MemoryError(f"{self.name} {PROBLEMS[problem]}")

        return launch


@functools.cache
def compiled(source):
    """The kernels of a module's source by name."""
    signatures = re.findall(r'extern "C" __global__ void (\w+)\(([^)]*)\)', source)
    meeting = [name for name, text in _functions(source) if "__syncthreads" in text]
    code = re.sub(r"\bp(\d+)\[([^\[\]]*)\]", r"p\1[WITHIN(\1, \2)]", source.replace('extern "C" ', ""))
    bodies = dict(_functions(source))
    functions, entries = {}, []
    for name, parameters in signatures:
        types = [re.fullmatch(r"\s*(.*?\*) ?p\d+", parameter).group(1) for parameter in parameters.split(",")]
        passed = ", ".join(f"({type_})a[{k}]" for k, type_ in enumerate(types))
        meets = any(re.search(rf"\b{other}\(", bodies[name]) for other in [*meeting, "__syncthreads"])
        entries.append(
            f"static void with_{name}(void **a) {{ {name}({passed}); }}\n"
            f"int run_{name}(void **a, const long long *lows, const long long *highs, const int *n) "
            f"{{ return run(with_{name}, {int(meets)}, a, lows, highs, n); }}\n"
        )
        functions[name] = types
    library = _library(f"#define MAX_THREADS {MAX_THREADS}\n{PRELUDE}\n{code}\n{''.join(entries)}")
    return {name: Function(name, types, getattr(library, f"run_{name}")) for name, types in functions.items()}


def _functions(source):
    """(name, text) of each function."""
    starts = [match for match in re.finditer(r"^(?:extern \"C\" )?__(?:global|device)__ [\w ]+?(\w+)\(", source, re.M)]
    ends = [match.start() for match in starts[1:]] + [len(source)]
    return [(match.group(1), source[match.end() : end]) for match, end in zip(starts, ends, strict=True)]


def _library(code):
    """The shared library that this C makes, which is kept for the next time."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = os.path.join(tempfile.gettempdir(), f"minivae-cuda-on-cpu-{user}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    key = hashlib.sha256("\n".join([COMPILER, *OPTIONS, code]).encode()).hexdigest()[:32]
    path = os.path.join(folder, f"{key}.so")
    if not os.path.exists(path):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made, text = os.path.join(scratch, "module.so"), os.path.join(scratch, "module.c")
            with open(text, "w") as file:
                file.write(code)
            done = subprocess.run([COMPILER, text, "-o", made, *OPTIONS], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"the C compiler refused this source:\n{done.stderr}\n{code}")
            os.replace(made, path)
    return ctypes.PyDLL(path)  # the interpreter lock is held: a library has one set of threads
