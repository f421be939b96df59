"""Loops written in LLVM's language, from the operations of a group, and what LLVM compiles them to.

A `Register` is a number that a loop computes in each pass; arithmetic with registers writes a line of code. So the
functions at the end of this file read as formulas, and are the code generator. float32 has its own exp, log1p, log and
tanh, since those of the C library take one number at a time and polynomials take as many as the processor's registers
hold; they are right to a few units in the last place, for infinities and NaN too.
"""

import ctypes
import ctypes.util
import functools
import hashlib
import math
import os
import struct
from contextlib import suppress

import llvmlite.binding as llvm
import numpy as np
import platformdirs

from ..errors import MiniVAEError
from ..files import atomic_write
from .tracing import CAST, COPY, Untraceable

# What LLVM calls the dtypes that loops know, in a register; a bool is a byte in memory. "bits" are those of a float32.
TYPES = {"f4": "float", "f8": "double", "i8": "i64", "u1": "i8", "b1": "i1", "bits": "i32"}
FLAGS = "contract"  # a product and a sum may become one operation, rounded once
CACHE_BYTES = 100_000_000  # that compiled code may take on the disk; a model has some ten files of 50 kB


def type_of(dtype, line=""):
    """The short name of a dtype here; raises Untraceable, naming the line, for one that loops do not know."""
    name = np.dtype(dtype).str[1:]
    if name not in TYPES:
        raise Untraceable(f"{line}: compiled loops know float32, float64, int64, uint8 and bool, not {np.dtype(dtype)}")
    return name


class Code:
    """The lines of one function; `new` names a register or a block that has no name yet."""

    def __init__(self):
        self.lines, self.block, self._n = [], "entry", 0  # block: the label of the one that is being written

    def new(self, prefix="%r"):
        self._n += 1
        return f"{prefix}{self._n}"

    def line(self, text):
        self.lines.append(text)

    def set(self, type_, text):
        """A new register of this type that holds what the instruction gives."""
        name = self.new()
        self.line(f"{name} = {text}")
        return Register(self, name, type_)

    def number(self, value, type_):
        """A constant."""
        if type_ in ("f4", "f8"):
            value = np.float32(value) if type_ == "f4" else np.float64(value)
            return Register(self, "0x" + struct.pack(">d", float(value)).hex().upper(), type_)
        return Register(self, str(int(value)), type_)


class Register:
    """A number in a loop that is being written: its name in LLVM's language, and its type."""

    def __init__(self, code, name, type_):
        self.code, self.name, self.type = code, name, type_

    @property
    def llvm(self):
        return TYPES[self.type]

    @property
    def typed(self):
        return f"{self.llvm} {self.name}"

    @property
    def is_float(self):
        return self.type in ("f4", "f8")

    def like(self, x):
        """Another register, or a Python number as a constant of this register's type."""
        return x if isinstance(x, Register) else self.code.number(x, self.type)

    def _arithmetic(self, name, y):
        name = f"f{name} {FLAGS}" if self.is_float else name
        return self.code.set(self.type, f"{name} {self.typed}, {self.like(y).name}")

    def __add__(self, y):
        return self._arithmetic("add", y)

    def __sub__(self, y):
        return self._arithmetic("sub", y)

    def __mul__(self, y):
        return self._arithmetic("mul", y)

    def __truediv__(self, y):
        return self._arithmetic("div", y)

    def __lshift__(self, n):
        return self.code.set(self.type, f"shl {self.typed}, {n}")

    def __rshift__(self, n):
        return self.code.set(self.type, f"ashr {self.typed}, {n}")

    def __neg__(self):
        return self.code.set(self.type, f"fneg {self.typed}")

    def compare(self, test, y):
        """A test of LLVM's such as "ogt": greater, and neither is NaN."""
        integers = UNSIGNED if self.type in ("u1", "b1") else SIGNED
        test = f"fcmp {test}" if self.is_float else f"icmp {integers[test]}"
        return self.code.set("b1", f"{test} {self.typed}, {self.like(y).name}")

    def __lt__(self, y):
        return self.compare("olt", y)

    def __gt__(self, y):
        return self.compare("ogt", y)

    def call(self, name, *others):
        """A function of LLVM's or of the C library's of this register and others of its type."""
        arguments = ", ".join(x.typed for x in (self, *map(self.like, others)))
        return self.code.set(self.type, f"call {self.llvm} @{name}({arguments})")

    def intrinsic(self, name, *others):
        return self.call(f"llvm.{name}.{'f32' if self.type == 'f4' else 'f64'}", *others)

    def to(self, type_):
        """The same number in another type."""
        if type_ == self.type:
            return self
        if type_ == "b1":
            return self.compare("une", 0)
        to_float, size = type_ in ("f4", "f8"), "i8 u1 b1".split()
        if self.is_float and to_float:
            how = "fpext" if type_ == "f8" else "fptrunc"
        elif self.is_float:
            how = "fptosi" if type_ == "i8" else "fptoui"
        elif to_float:
            how = "uitofp" if self.type in ("u1", "b1") else "sitofp"
        else:
            how = "zext" if size.index(type_) < size.index(self.type) else "trunc"
        return self.code.set(type_, f"{how} {self.typed} to {TYPES[type_]}")


SIGNED = {"oeq": "eq", "une": "ne", "ogt": "sgt", "oge": "sge", "olt": "slt", "ole": "sle"}
UNSIGNED = {test: name.replace("s", "u") for test, name in SIGNED.items()}


def select(condition, x, y):
    """x where the condition holds, else y; one of them may be a Python number."""
    like = x if isinstance(x, Register) else y
    x, y = like.like(x), like.like(y)
    return x.code.set(x.type, f"select {condition.typed}, {x.typed}, {y.typed}")


# --------------------------------------------------------------------------------------- functions of one element

# Fitted to the least relative error with Lawson's weighted least squares; the comment gives that error.
EXP = (0.49999994, 0.16666521, 0.04166839, 0.0083687175, 0.0013814596)  # (exp(r) - 1 - r) / r^2, |r| < ln(2)/2: 3e-9
LOG1P = (0.3333345, -0.25000098, 0.19990845, -0.16647245, 0.1447851, -0.13162078, 0.10464297, -0.045079514)
# (log(1 + f) - f + f^2 / 2) / f^3, -1/4 < f < 1/2: 5e-9 of log(1 + f)
TANH = (1.0, 0.13381028, 0.0034955903, 2.0609117e-05, 1.3354705e-08)  # tanh(x) / x in x^2, the numerator: 2e-8
TANH_BELOW = (1.0, 0.46714345, 0.025876991, 0.00032856382, 7.7765770e-07)
LN2_HIGH, LN2_LOW = 0.693145751953125, 1.42860682030941723212e-6  # their sum is ln 2; n LN2_HIGH is exact

ROUND = 1.5 * 2.0**23


def polynomial(x, coefficients):
    """c0 + c1 x + c2 x^2 + ..."""
    result = x.like(coefficients[-1])
    for c in coefficients[-2::-1]:
        result = result.intrinsic("fma", x, c)
    return result


def bits(x, as_):
    """The same 32 bits as a float, or as an integer i32."""
    return x.code.set(as_, f"bitcast {x.typed} to {TYPES[as_]}")


def power_of_two(n):
    """2^n for an integer n from -126 to 127, made from its last nine bits."""
    return bits((n + 127) << 23, "f4")


def exp(x):
    """exp(x) = 2^n exp(r),   n = round(x / ln 2),  r = x - n ln 2."""
    if x.type == "f8":
        return x.intrinsic("exp")
    x = minimum(maximum(x, -104.0), 89.0)  # beyond these it is 0 and infinite; NaN stays
    shifted = x.intrinsic("fma", 1 / math.log(2), ROUND)  # so large that its last bits are those of an integer
    n, whole = shifted - ROUND, bits(shifted, "bits")  # of which only these last bits count in a power of two
    r = n.intrinsic("fma", -LN2_LOW, n.intrinsic("fma", -LN2_HIGH, x))
    y = (r * r).intrinsic("fma", polynomial(r, EXP), r) + 1.0
    # In two factors, since 2^n itself may be too large or too small for a float of full precision.
    half = whole >> 1
    return y * power_of_two(half) * power_of_two(whole - half)


def _log(f, k):
    """log((1 + f) 2^k) for -1/4 < f < 1/2."""
    k = k.to("f4")
    square = f * f
    tail = (square * f).intrinsic("fma", polynomial(f, LOG1P), k * LN2_LOW)
    return k.intrinsic("fma", LN2_HIGH, f + square.intrinsic("fma", -0.5, tail))


def _exponent(u):
    """k such that u 2^-k lies between 3/4 and 3/2."""
    return (bits(u, "bits") - 0x3F400000) >> 23


def log(x):
    """log(x) = log(1 + f) + k ln 2,   x = (1 + f) 2^k."""
    if x.type == "f8":
        return x.intrinsic("log")
    small = x < 2.0**-126  # subnormal: its exponent is not in its bits
    u = select(small, x * 2.0**23, x)
    k = _exponent(u)
    f = bits(bits(u, "bits") - (k << 23), "f4") - 1.0
    y = _log(f, k) - select(small, x.like(23 * math.log(2)), 0.0)
    y = select(x.compare("oeq", 0.0), -math.inf, y)
    y = select(x < 0.0, math.nan, y)
    return select(x < math.inf, y, x)  # infinity and NaN stay


def log1p(x):
    """log(1 + x) = log(1 + f) + k ln 2,   f = x 2^-k + (2^-k - 1), which loses nothing of a small x."""
    if x.type == "f8":
        return x.call("log1p")
    u = x + 1.0
    k = _exponent(u)
    scale = power_of_two(k.like(2) - k) * 0.25  # 2^-k, subnormal for the largest x
    y = _log(x.intrinsic("fma", scale, scale - 1.0), k)
    y = select(u.compare("oeq", 0.0), -math.inf, y)
    y = select(u < 0.0, math.nan, y)
    y = select(x.compare("oeq", 0.0), x, y)  # -0 stays
    return select(x < math.inf, y, x)  # infinity and NaN stay


def tanh(x):
    """tanh(x) = x P(x^2) / Q(x^2) up to |x| = 9, beyond which it rounds to 1."""
    if x.type == "f8":
        return x.call("tanh")
    x = maximum(minimum(x, 9.0), -9.0)
    square = x * x
    y = x * polynomial(square, TANH) / polynomial(square, TANH_BELOW)
    return maximum(minimum(y, 1.0), -1.0)


def _or_nan(choice, y):
    return select(y.compare("uno", y), y, choice) if y.is_float else choice


def maximum(x, y):
    """NaN where one of them is NaN; y may be a Python number."""
    y = x.like(y)
    return _or_nan(select(y > x, y, x), y)


def minimum(x, y):
    y = x.like(y)
    return _or_nan(select(y < x, y, x), y)


def logaddexp(x, y):
    """log(exp(x) + exp(y)) = max(x, y) + log1p(exp(-|x - y|))."""
    smooth = maximum(x, y) + log1p(exp(-(x - y).intrinsic("fabs")))
    return select(x.compare("oeq", y), x + math.log(2), smooth)  # both infinite: their difference is NaN


def sign(x):
    one = select(x < 0.0, x.like(-1.0), select(x > 0.0, x.like(1.0), 0.0))
    return _or_nan(one, x)


def intrinsic(name):
    return lambda x: x.intrinsic(name)


def from_c_library(name):
    return lambda x: x.call(name + ("f" if x.type == "f4" else ""))


def logical(name):
    def function(x, *y):
        bools = [v.to("b1") for v in (x, *y)]
        others = bools[1].name if y else "true"
        return x.code.set("b1", f"{name} i1 {bools[0].name}, {others}")

    return function


# ufunc -> registers -> register. What is not here runs on the NumPy engine.
FUNCTIONS = {
    np.add: lambda x, y: logical("or")(x, y) if x.type == "b1" else x + y,
    np.subtract: lambda x, y: x - y,
    np.multiply: lambda x, y: x * y,
    np.divide: lambda x, y: x / y,
    np.negative: lambda x: -x,
    np.positive: lambda x: x,
    np.square: lambda x: x * x,
    np.reciprocal: lambda x: x.like(1.0) / x,
    np.absolute: intrinsic("fabs"),
    **{getattr(np, name): intrinsic(name) for name in ("sqrt", "fabs", "rint", "floor", "ceil", "trunc")},
    np.maximum: maximum,
    np.minimum: minimum,
    np.sign: sign,
    np.exp: exp,
    np.log: log,
    np.log1p: log1p,
    np.tanh: tanh,
    np.logaddexp: logaddexp,
    **{getattr(np, name): from_c_library(name) for name in ("expm1", "sin", "cos", "sinh", "cosh")},
    np.arctan: from_c_library("atan"),
    np.greater: lambda x, y: x.compare("ogt", y),
    np.greater_equal: lambda x, y: x.compare("oge", y),
    np.less: lambda x, y: x.compare("olt", y),
    np.less_equal: lambda x, y: x.compare("ole", y),
    np.equal: lambda x, y: x.compare("oeq", y),
    np.not_equal: lambda x, y: x.compare("une", y),
    np.logical_and: logical("and"),
    np.logical_or: logical("or"),
    np.logical_not: logical("xor"),
    np.isnan: lambda x: x.compare("uno", x),
    np.isfinite: lambda x: x.intrinsic("fabs") < math.inf,
    np.where: select,
    CAST: lambda x: x,
    COPY: lambda x: x,
}


OF_INTEGERS = {np.add, np.subtract, np.multiply, np.square, np.positive, np.maximum, np.minimum, np.where, CAST, COPY}
OF_INTEGERS |= {np.greater, np.greater_equal, np.less, np.less_equal, np.equal, np.not_equal}
OF_INTEGERS |= {np.logical_and, np.logical_or, np.logical_not}


def function_of(value):
    """What writes the code of an elementwise value of a list; raises Untraceable where nothing here does."""
    floats = all(dtype.kind == "f" for dtype in value.dtypes)
    if value.function not in FUNCTIONS or not (floats or value.function in OF_INTEGERS):
        given = ", ".join(str(dtype) for dtype in value.dtypes)
        raise Untraceable(f"{value.line}: compiled loops do not know {value.name} of {given}")
    return FUNCTIONS[value.function]


# ------------------------------------------------------------------------------------------------ compiling


DECLARATIONS = [
    f"declare {t} @llvm.{name}.{s}({', '.join([t] * (3 if name == 'fma' else 2 if 'imum' in name else 1))})"
    for t, s in (("float", "f32"), ("double", "f64"))
    for name in ("fma", "maximum", "minimum", "sqrt", "fabs", "rint", "floor", "ceil", "trunc", "exp", "log")
]
C_LIBRARY = ("log1p", "tanh", "expm1", "sin", "cos", "sinh", "cosh", "atan", "exp", "log")


@functools.cache
def _c_library():
    """The C library, whose functions compiled code can call by name from now on."""
    library = ctypes.CDLL("ucrtbase" if os.name == "nt" else ctypes.util.find_library("m"))
    for name in C_LIBRARY:
        for variant in (name, name + "f"):
            llvm.add_symbol(variant, ctypes.cast(getattr(library, variant), ctypes.c_void_p).value)
    return library


def compile_module(text, names):
    """Compile LLVM's language; returns what keeps the code alive, and the addresses of the functions called `names`.

    What is compiled is kept in a folder of the user's, under a name made of the text, the processor and LLVM's
    version; a file there that is damaged is made anew. What was not used for longest goes where it gets too much.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    _c_library()
    declared = [f"declare {t} @{name}{s}({t})" for name in C_LIBRARY for t, s in (("double", ""), ("float", "f"))]
    text = "\n".join([*DECLARATIONS, *declared, text])
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features=features, opt=3)
    key = repr((llvm.llvm_version_info, machine.triple, cpu, features, text))
    path = os.path.join(platformdirs.user_cache_dir("minivae"), "compiled", hashlib.sha256(key.encode()).hexdigest())
    binary = _read(path)
    if binary is None:
        binary = _compile(text, machine)
        _write(path, binary)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(binary))
    engine.finalize_object()
    return engine, [engine.get_function_address(name) for name in names]


def _compile(text, machine):
    module = llvm.parse_assembly(text)
    module.verify()
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = True
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module)


def _read(path):
    """The contents of a file of the cache, whose time becomes now; None where it is missing or damaged."""
    try:
        with open(path, "rb") as file:
            digest, binary = file.read(32), file.read()
    except OSError:
        return None
    with suppress(OSError):  # of a folder that may only be read
        os.utime(path)
    return binary if hashlib.sha256(binary).digest() == digest else None


def _write(path, binary):
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with atomic_write(path) as file:
            file.write(hashlib.sha256(binary).digest() + binary)
        _prune(os.path.dirname(path))
    except (OSError, MiniVAEError):
        pass  # a folder that cannot be written to only means to compile again next time


def _prune(folder):
    """Remove the files used least recently, until the others take CACHE_BYTES.

    Other processes may do so at the same time, or read: what was opened can be read to its end, and what has gone is
    compiled again. What they are writing is the newest.
    """
    files, n_bytes = [], 0
    for entry in os.scandir(folder):
        with suppress(OSError):
            status = entry.stat()
            files.append((status.st_mtime_ns, status.st_size, entry.path))
    for _, size, path in sorted(files, reverse=True):
        n_bytes += size
        if n_bytes > CACHE_BYTES:
            with suppress(OSError):
                os.unlink(path)
