"""What Numba compiles: threads that work off a recorded step without Python, and the step's longest passes as loops.

A *loop* is a C function `loop(args, dims, steps, data)` on dims[0] values, where args[i] is the address of operand i's
first value and steps[i] how many bytes apart its values lie: the signature of the functions behind NumPy's ufuncs, so
that NumPy's loops and those made here can stand in one list. An *instruction* is a loop with its operands; `program.py`
makes lists of them, and `work` runs one thread's share of such a list.
"""

import functools

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

MAX_DIMS, MAX_OPERANDS, MAX_WORKERS = 6, 8, 16
LINE = 64  # bytes of a cache line: one for each thread's words, or writing one would take the others from their readers

instruction = np.dtype(
    [
        ("loop", np.intp),  # addresses
        ("data", np.intp),
        ("n_dims", np.intp),
        ("n_operands", np.intp),
        ("shape", np.intp, MAX_DIMS),  # the loop runs along the last axis
        ("first", np.intp, MAX_OPERANDS),
        ("strides", np.intp, (MAX_DIMS, MAX_OPERANDS)),
        ("split", np.intp),  # the axis that the threads share out: thread w has [bounds[w], bounds[w + 1])
        ("bounds", np.intp, MAX_WORKERS + 1),
        ("join", np.intp),  # whether all wait for each other afterwards
    ]
)


# ------------------------------------------------------------------------------- what Python has no words for


@intrinsic
def pointer(typing_context, address, real):
    """An address as a pointer to numbers of type `real`."""
    kind = types.CPointer(real.dtype)

    def generate(context, builder, signature, values):
        return builder.inttoptr(values[0], context.get_value_type(kind))

    return kind(types.intp, real), generate


@intrinsic
def call(typing_context, function, arguments):
    """Call the C function at an address with addresses."""
    signature = types.void(types.intp, arguments)

    def generate(context, builder, signature, values):
        words = cgutils.unpack_tuple(builder, values[1])
        kind = ir.FunctionType(ir.VoidType(), [word.type for word in words])
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), words)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def ask(typing_context, function):
    """Call the C function at an address, which has no arguments and returns an int."""

    def generate(context, builder, signature, values):
        kind = ir.FunctionType(ir.IntType(32), [])
        return builder.sext(builder.call(builder.inttoptr(values[0], kind.as_pointer()), []), values[0].type)

    return types.intp(types.intp), generate


@intrinsic
def on_stack(typing_context, value):
    """The address of a copy as a 32-bit integer, which lives as long as the caller."""

    def generate(context, builder, signature, values):
        where = cgutils.alloca_once_value(builder, builder.trunc(values[0], ir.IntType(32)))
        return builder.ptrtoint(where, values[0].type)

    return types.intp(types.intp), generate


@intrinsic
def load(typing_context, address):
    """The word at an address, with all that its writer wrote before it."""

    def generate(context, builder, signature, values):
        return builder.load_atomic(builder.inttoptr(values[0], values[0].type.as_pointer()), "acquire", 8)

    return types.intp(types.intp), generate


@intrinsic
def store(typing_context, address, word):
    """Write a word, and let who reads it see all that was written before."""

    def generate(context, builder, signature, values):
        builder.store_atomic(values[1], builder.inttoptr(values[0], values[1].type.as_pointer()), "release", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic
def exchange(typing_context, address, expected, word):
    """Whether the word at an address was as expected, and has been replaced, in one go."""

    def generate(context, builder, signature, values):
        where = builder.inttoptr(values[0], values[0].type.as_pointer())
        result = builder.cmpxchg(where, values[1], values[2], "acq_rel", "acquire")
        return builder.extract_value(result, 1)

    return types.boolean(types.intp, types.intp, types.intp), generate


# ------------------------------------------------------------------------------------------------ the threads

# Shared memory has two words for each thread, its state and how many joins it has reached, and a count of launches.
# A helper sleeps in Python, outside this file. It goes ASLEEP -> READY by itself and back after a while; whoever
# launches makes it BUSY, and it makes itself READY again when it has done its work.
ASLEEP, READY, BUSY = 0, 1, 2
SPINS = 1000  # looks at another thread's word before the core is offered to other programs
PATIENCE = 400  # such offers, until a thread without work goes to sleep: about a millisecond

compiled = njit(nogil=True, cache=True, error_model="numpy")


@compiled
def state_of(shared, worker):
    return shared + 2 * LINE * worker


@compiled
def joins_of(shared, worker):
    return shared + 2 * LINE * worker + LINE


@compiled
def launches_of(shared, n_workers):
    return shared + 2 * LINE * n_workers


@compiled
def wait_for(word, least, give_way):
    spins = 0
    while load(word) < least:
        spins += 1
        if spins % SPINS == 0:
            call(give_way, ())


@compiled
def join(shared, n_workers, worker, give_way):
    """Wait until every thread has come this far."""
    reached = load(joins_of(shared, worker)) + 1
    store(joins_of(shared, worker), reached)
    for other in range(n_workers):
        wait_for(joins_of(shared, other), reached, give_way)


@compiled
def work(program, n_workers, worker, shared, give_way):
    """One thread's share of all instructions, in order."""
    first, steps = np.empty(MAX_OPERANDS, np.intp), np.empty(MAX_OPERANDS, np.intp)
    shape, index = np.empty(MAX_DIMS, np.intp), np.empty(MAX_DIMS, np.intp)
    addresses = (first.ctypes.data, shape.ctypes.data, steps.ctypes.data)
    for i in range(len(program)):
        step = program[i]
        start, stop = step.bounds[worker], step.bounds[worker + 1]
        if start < stop:
            inner, operands = step.n_dims - 1, range(step.n_operands)
            n_calls = 1
            for axis in range(inner + 1):
                index[axis] = 0
                # `shape` begins with the loop's own length, which the loop reads; the outer axes follow.
                n = stop - start if axis == step.split else step.shape[axis]
                shape[0 if axis == inner else axis + 1] = n
                n_calls *= 1 if axis == inner else n
            for k in operands:
                first[k] = step.first[k] + start * step.strides[step.split, k]
                steps[k] = step.strides[inner, k]
            for _ in range(n_calls):
                call(step.loop, (addresses[0], addresses[1], addresses[2], step.data))
                axis = inner - 1
                while axis >= 0:
                    index[axis] += 1
                    for k in operands:
                        first[k] += step.strides[axis, k]
                    if index[axis] < shape[axis + 1]:
                        break
                    for k in operands:
                        first[k] -= index[axis] * step.strides[axis, k]
                    index[axis] = 0
                    axis -= 1
        if step.join and n_workers > 1:
            join(shared, n_workers, worker, give_way)


@compiled
def help_out(program, n_workers, worker, shared, give_way):
    """What a helping thread does while it is awake: its share of each launch, until none comes for a while."""
    state, launches = state_of(shared, worker), launches_of(shared, n_workers)
    seen = load(launches)
    store(state, READY)
    waited = 0
    while waited < PATIENCE or not exchange(state, READY, ASLEEP):
        for _ in range(SPINS):
            if load(launches) > seen:
                work(program, n_workers, worker, shared, give_way)
                seen += 1
                store(state, READY)
                waited = 0
        call(give_way, ())
        waited += 1


@compiled
def lock(word, give_way):
    while not exchange(word, 0, 1):
        call(give_way, ())


@compiled
def hold_blas(blas, give_way):
    """Let the libraries compute on the thread that calls them, until as many calls of `release_blas`."""
    word = blas.ctypes.data
    lock(word, give_way)
    blas[1] += 1
    if blas[1] == 1:
        for i in range(2, len(blas), 3):
            blas[i + 2] = ask(blas[i])
            call(blas[i + 1], (1,))
    store(word, 0)


@compiled
def release_blas(blas, give_way):
    word = blas.ctypes.data
    lock(word, give_way)
    blas[1] -= 1
    if blas[1] == 0:
        for i in range(2, len(blas), 3):
            call(blas[i + 1], (blas[i + 2],))
    store(word, 0)


@compiled
def launch(program, n_workers, shared, give_way, blas):
    """Run the program once; False, and nothing has been done, where a helper is asleep and must be woken first.

    A launch counts only once no helper can fall asleep any more, so an interruption of Python between two tries leaves
    nothing half done. Here, out of Python's sight, BLAS is held to one thread: no interruption can leave it so.
    """
    for helper in range(1, n_workers):
        state = state_of(shared, helper)
        while load(state) == BUSY:  # it is just ending the launch before
            call(give_way, ())
        if not exchange(state, READY, BUSY):
            for called in range(1, helper):
                store(state_of(shared, called), READY)
            return False
    hold_blas(blas, give_way)
    store(launches_of(shared, n_workers), load(launches_of(shared, n_workers)) + 1)
    work(program, n_workers, 0, shared, give_way)
    release_blas(blas, give_way)
    return True


# ------------------------------------------------------------------------------------------------- the loops


def loop(make):
    """A decorator: make(real), which gives a Python function with the arguments of a loop, becomes real -> address."""

    @functools.cache
    def address(*kinds):
        signature = types.void(*[types.CPointer(types.intp)] * 4)
        fast = {"contract", "arcp"}  # fused multiply-add, and one division for several
        made = cfunc(signature, cache=True, error_model="numpy", fastmath=fast)(make(*kinds))
        keep.append(made)
        return made.address

    keep = []
    return address


@njit
def vector(address, n, real):
    return carray(pointer(address, real), n)


@njit
def number(address, real):
    return pointer(address, real)[0]


@loop
def copy(source, target):
    """out = x, perhaps in another type."""
    apart = np.dtype(source).itemsize, np.dtype(target).itemsize

    def loop(args, dims, steps, data):
        n = dims[0]
        if steps[0] == apart[0] and steps[1] == apart[1]:  # where it knows that, the compiler uses wide vectors
            x, out = vector(args[0], n, source), vector(args[1], n, target)
            for i in range(n):
                out[i] = x[i]
        elif steps[0] == 0 and steps[1] == apart[1]:
            value, out = number(args[0], source), vector(args[1], n, target)
            for i in range(n):
                out[i] = value
        else:
            for i in range(n):
                vector(args[1] + i * steps[1], 1, target)[0] = number(args[0] + i * steps[0], source)

    return loop


@loop
def gather():
    """out[i] = rows[index[i]] for rows of data[0] bytes."""

    def loop(args, dims, steps, data):
        for i in range(dims[0]):
            row = number(args[1] + i * steps[1], np.intp)
            source = vector(args[0] + row * data[0], data[0], np.uint8)
            target = vector(args[2] + i * steps[2], data[0], np.uint8)
            for j in range(data[0]):
                target[j] = source[j]

    return loop


@functools.cache
def gemm(dtype):
    """The address of BLAS's matrix product for a dtype."""
    return get_cython_function_address("scipy.linalg.cython_blas", {"float32": "sgemm", "float64": "dgemm"}[dtype.name])


@njit
def blas(sizes, matrices, data):
    """out = a @ b for sizes (n, m, k), by columns as BLAS stores matrices; `data` is what else it wants to know."""
    a, b, out = matrices
    call(data[0], (data[1], data[2], *sizes, data[3], b, data[4], a, data[5], data[6], out, data[7]))


@loop
def product_rows():
    """Some rows of a product: all of b, some rows of a and out."""

    def loop(args, dims, steps, data):
        blas((data[8], on_stack(dims[0]), data[10]), (args[0], args[1], args[2]), data)

    return loop


@loop
def product_columns():
    """Some columns of a product: all of a, some columns of b and out."""

    def loop(args, dims, steps, data):
        blas((on_stack(dims[0]), data[9], data[10]), (args[0], args[1], args[2]), data)

    return loop


@loop
def product_terms():
    """Some terms of each sum in a product: some columns of a and rows of b."""

    def loop(args, dims, steps, data):
        blas((data[8], data[9], on_stack(dims[0])), (args[0], args[1], args[2]), data)

    return loop


# ---------------------------------------------------------------------------- fused functions, each a single loop

# name -> (loop, operands that are arrays, those that are numbers, those that are written, what NumPy does before)
FUSED = {}


def fused(vectors, numbers="", *, writes, first=None):
    """A decorator: the loop does what the function of the same name elsewhere in the package does."""

    def decorate(make):
        FUSED[make.__name__] = loop(make), vectors.split(), numbers.split(), writes.split(), first
        return make

    return decorate


@fused("g p w", "rate rho eps", writes="p w")
def rmsprop_update(real):
    def loop(args, dims, steps, data):
        n = dims[0]
        g, p, w = vector(args[0], n, real), vector(args[1], n, real), vector(args[2], n, real)
        rate, rho, eps = number(args[3], real), number(args[4], real), number(args[5], real)
        for i in range(n):
            w[i] = rho * w[i] + g[i] * g[i] + eps
            p[i] -= rate * g[i] / np.sqrt(w[i])

    return loop


@fused("g p m v", "rate c_eps beta1 beta2", writes="p m v")
def adam_update(real):
    def loop(args, dims, steps, data):
        n = dims[0]
        g, p = vector(args[0], n, real), vector(args[1], n, real)
        m, v = vector(args[2], n, real), vector(args[3], n, real)
        rate, c_eps = number(args[4], real), number(args[5], real)
        beta1, beta2 = number(args[6], real), number(args[7], real)
        for i in range(n):
            m[i] = beta1 * m[i] + g[i]
            v[i] = beta2 * v[i] + g[i] * g[i]
            p[i] -= rate * m[i] / (np.sqrt(v[i]) + c_eps)

    return loop


def tanh_and_log(xp, x, logits, *, terms, prob, work):
    """prob = tanh(logits / 2),  terms = log(1 + |prob|):  NumPy has wide vectors for these, Numba has not."""
    xp.multiply(logits, 0.5, out=prob)
    xp.tanh(prob, out=prob)
    xp.absolute(prob, out=terms)
    xp.log1p(terms, out=terms)


@fused("x logits terms prob", writes="terms prob", first=tanh_and_log)
def bernoulli_terms(real):
    def loop(args, dims, steps, data):
        n, zero, half = dims[0], real(0), real(0.5)
        x, logits = vector(args[0], n, real), vector(args[1], n, real)
        terms, prob = vector(args[2], n, real), vector(args[3], n, real)
        for i in range(n):
            terms[i] += x[i] * logits[i] - max(logits[i], zero)
            prob[i] = half + half * prob[i]

    return loop


@fused("x prob dlogits", "dlog_px", writes="dlogits")
def bernoulli_log_prob_backward(real):
    def loop(args, dims, steps, data):
        n = dims[0]
        x, prob, dlogits = vector(args[0], n, real), vector(args[1], n, real), vector(args[2], n, real)
        dlog_px = number(args[3], real)
        for i in range(n):
            dlogits[i] = dlog_px * (x[i] - prob[i])

    return loop


@fused("x mask y", writes="mask y")
def relu(real):
    def loop(args, dims, steps, data):
        n, zero = dims[0], real(0)
        x, mask, y = vector(args[0], n, real), vector(args[1], n, np.uint8), vector(args[2], n, real)
        for i in range(n):
            mask[i] = x[i] > zero
            y[i] = zero if x[i] <= zero else x[i]  # this way round, NaN stays NaN

    return loop


@fused("dy mask dx", writes="dx")
def relu_backward(real):
    def loop(args, dims, steps, data):
        n, zero = dims[0], real(0)
        dy, mask, dx = vector(args[0], n, real), vector(args[1], n, np.uint8), vector(args[2], n, real)
        for i in range(n):
            dx[i] = dy[i] if mask[i] else zero

    return loop
