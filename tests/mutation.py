"""Break the mathematics and the engines in every place, one place at a time, and see that the default tests notice.

    python tests/mutation.py                    all modules
    python tests/mutation.py model.layers       some of them
    python tests/mutation.py --list             the mutants, untested

A mutant flips a sign, drops a factor, a term or a whole line, swaps two operands, or turns a comparison or a choice
round; in an engine it also drops a refusal or a filter. The tests are collected once, and run once as they are to learn
how long each takes and which lines it passes. Then, for each mutant, a fork of this process changes the one function
and runs the tests that pass the mutated line, first those that have killed others, then the shortest, until one fails.
Exit status 1 if a mutant survives that is not listed as EQUIVALENT, with the reason why it computes the same.

What the engines compile while this runs is kept in a folder of its own: a broken compiler leaves nothing behind.
"""

import _thread
import argparse
import ast
import copy
import functools
import gc
import importlib
import inspect
import mmap
import os
import pickle
import re
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import namedtuple
from pathlib import Path
from types import CodeType, FunctionType

import platformdirs
import pytest

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS.parent))
MATHEMATICS = (
    *(f"model.{name}" for name in "posteriors gaussian likelihoods flows bounds conv layers optimizers".split()),
    *("model.more_layers", "model.parameters", "model.binarization", "model.labels", "model.vae"),
    *("model.inference", "engine.convolution", "randomness"),
    *(f"training.{name}" for name in "step noise state fit callbacks schedules nonfinite".split()),
)
DATA = (*(f"data.{name}" for name in "idx npz csv images own streams locate datasets".split()), "npy")
OF_ZOO = """aggregate avb branches counts flow_prior gated gumbel imputation mig missing mixture mmd quality residual
    total_correlation two_layers vamp vector_quantized""".split()
ZOO = ("model.priors", *(f"zoo.{name}" for name in OF_ZOO))

# The tests of the default suite that have to do with these modules, and which of them. Those of the mathematics run on
# NumPy. What a test runs in a process of its own is not broken there.
SUITES = {
    ZOO: (["gradients", "zoo"], "not fake and not numba"),
    MATHEMATICS: (
        ["gradients", "truths", "training", "zoo", "engines/test_parallel.py"],
        "not fake and not numba and not test_killed and not test_mpi",
    ),
    ("training.history",): (["training/test_training.py", "training/test_bad_input.py", "views/test_summary.py"], ""),
    ("arguments",): (["training/test_bad_input.py", "hunts/test_arguments.py", "truths"], "not fake and not numba"),
    ("storage.checkpoint",): (
        ["storage", "truths/test_flows.py", "data/test_bombs.py"]
        + [f"training/test_{name}.py" for name in ("resume", "training", "bad_input")],
        "not fake and not numba and not test_killed",
    ),
    DATA: (["data"], "not test_download"),
    ("engine.plan", "engine.calls", "engine.interpreter", "engine.tracing"): (
        [f"engines/test_{name}.py" for name in ("plan", "tracing", "random_steps", "graph", "loops")],
        "not (random_steps and (numba or fake)) and (not test_loops or operands_of_any_layout or sums_along_rows)",
    ),
    ("engine.llvm", "engine.loops"): (
        ["engines/test_loops.py", "engines/test_plan.py", "engines/test_races.py"],
        "(test_loops or numba or no_model or no_difference or sums_o) and not is_said_where and not conv-",
    ),
    ("engine.threads",): (["engines/test_threads.py"], "not interrupts"),
    ("engine.repeated",): (["engines/test_repeated.py"], ""),
    ("engine.kernels", "engine.cuda", "engine.cublas", "engine.backend"): (
        [f"engines/test_{name}.py" for name in ("kernels", "plan", "graph", "backends", "loops")],
        "not recipes and not test_plan and not test_loops or fake or loops_do_not_know",
    ),
}
OPTIONS = [
    *("-o", "addopts=", "-m", "not slow and not gpu", "-s"),
    *("-p", "no:terminal", "-p", "no:faulthandler", "-p", "no:cacheprovider", "-p", "no:randomly"),
]
MEMORY = 8 << 30  # bytes that a mutant may ask for

Mutant = namedtuple("Mutant", "module description path lines owner code")  # `code` is a function that compiles it

# Opposites, or what has the same arguments and shape but is something else.
OTHERS = {
    "add": "subtract", "subtract": "add", "multiply": "divide", "divide": "multiply", "maximum": "minimum",
    "minimum": "maximum", "exp": "exp2", "log": "log2", "log1p": "log", "tanh": "sin", "sqrt": "square",
    "absolute": "negative", "negative": "positive", "sum": "max", "max": "min", "greater": "less",
    "greater_equal": "less", "less": "greater", "equal": "not_equal", "not_equal": "equal",
}  # fmt: skip
DROP_AN_OPERAND = {"add": 0, "subtract": 0, "multiply": 1, "divide": 1}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
COMPARISONS = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip

# Numbers that only decide how work is cut and shared out: neither they nor conditions with them are mutated.
TUNING = set("LEAST_VALUES LEAST_PRODUCTS GRAIN LONG_SUM PARTS PIECE PATCH_BYTES LOOKS LINE BLOCK".split())
TUNING |= set("SMALL MAX_PARTS SHORT WORKSPACE_BYTES WARM_UP".split())

# Mutants that compute the same, as "module.function: before -> after", each with the reason.
TWO_AXES = "the array has two axes, of which the last is the second"
SYMMETRIC = "a normal draw and its negative are distributed alike"
MORE_ZEROS = "more zeros behind an image than its windows reach"
NOT_FINITE = "the NaN that 0 times an infinity or a NaN gives is their sum and their maximum"
EQUIVALENT = {
    "model.labels.append_labels: y.shape[-1] -> y.shape[1]": TWO_AXES,
    "model.likelihoods.bernoulli_log_prob: x.shape[-1] -> x.shape[1]": TWO_AXES,
    "model.likelihoods.gaussian_log_prob: x.shape[-1] -> x.shape[1]": TWO_AXES,
    "model.likelihoods.heteroscedastic_log_prob: x.shape[-1] -> x.shape[1]": TWO_AXES,
    "model.gaussian.module: (-80.0, 80.0) -> (80.0, 80.0)": "`hold` takes its bounds when it is defined",
    **{
        f"model.likelihoods.{function}: mean + {std} * {draw} -> mean - {std} * {draw}": SYMMETRIC
        for draw in ("rng.standard_normal(mean.shape, np.float32).astype(mean.dtype)",)
        for function, std in (("Gaussian.sample", "self.std"), ("LearnedVariance._draw", "std"))
    },
    **{
        f"engine.convolution._padding: {before} -> {after}": MORE_ZEROS
        for before, after in (
            ("sweep.start + (sweep.count - 1) * sweep.step", "(sweep.count - 1) * sweep.step"),
            ("sweep.count - 1", "sweep.count + 1"),
            ("sweep.count - 1", "sweep.count"),
            ("last - size", "last + size"),
            ("last - size", "last"),
        )
    },
    **{
        f"{function}: np.sum({array} * 0{more}) -> np.max({array} * 0{more})": NOT_FINITE
        for function, array, more in (
            ("model.vae.VAE.loss_and_gradients", "gradients", ""),
            ("training.state.Training.finite_totals", "array", ", keepdims=True"),
        )
    },
    "training.noise.Noise.refill: a['noise_row'].fill(0) -> nothing": "`Training.steps` sets the row of the first step",
    "training.state.Training.__init__: self.state = {name: _copied(backend, array) for name, array in "
    "self.state.items()} -> nothing": "on NumPy the copies only lie better in memory",
}


# Those of the engines: below each reason the mutants that it holds for.
_reason = ""
for _line in (TESTS / "equivalent_mutants.txt").read_text().splitlines():
    if _line.startswith("# "):
        _reason = _line[2:]
    else:
        EQUIVALENT[_line] = _reason


def array_function(node):
    """The name f of a call xp.f(...), np.f(...), math.f(...) or backend.f(...), else None."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        owner = node.func.value
        if isinstance(owner, (ast.Name, ast.Attribute)):
            name = owner.id if isinstance(owner, ast.Name) else owner.attr
            if name in ("xp", "np", "math", "backend"):
                return node.func.attr
    return None


def names_in(node):
    return {getattr(part, "id", getattr(part, "attr", None)) for part in ast.walk(node)}


def replacements(node):
    """The mutants of one node: other nodes to stand in its place."""
    name = array_function(node)
    if isinstance(node, (ast.BinOp, ast.BoolOp, ast.Compare)) and names_in(node) & TUNING:
        return
    if name:
        if name in OTHERS:
            other = copy.deepcopy(node)
            other.func.attr = OTHERS[name]
            yield other
        if name in ("subtract", "divide", "matmul", "power") and len(node.args) == 2:
            other = copy.deepcopy(node)
            other.args.reverse()
            yield other
        if name in DROP_AN_OPERAND and len(node.args) == 2:
            for i in range(2):
                other = copy.deepcopy(node)
                other.args[i] = ast.Constant(DROP_AN_OPERAND[name])
                yield other
    elif isinstance(node, ast.BinOp):
        if type(node.op) in OPERATORS:
            yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
            yield node.left
            yield node.right
        if isinstance(node.op, (ast.Sub, ast.Div, ast.Pow)):
            yield ast.BinOp(node.right, node.op, node.left)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield node.operand
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield ast.Compare(node.left, [COMPARISONS[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.Attribute) and node.attr == "T":
        yield node.value
    elif isinstance(node, ast.BoolOp):
        yield from node.values
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.Expr) and isinstance(node.value, (ast.Call, ast.Await)):
        yield ast.Pass()
    elif isinstance(node, ast.AugAssign):
        yield ast.Pass()
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
        yield ast.Pass()


def replacements_in_engines(node):
    """More mutants: in an engine tests, filters and refusals decide what is right as formulas do elsewhere."""
    if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise):
        yield ast.Pass()
    if isinstance(node, (ast.If, ast.IfExp, ast.While)) and isinstance(node.test, (ast.Name, ast.Attribute, ast.Call)):
        other = copy.deepcopy(node)
        other.test = ast.UnaryOp(ast.Not(), node.test)
        yield other
    if isinstance(node, ast.comprehension):
        for i in range(len(node.ifs)):
            other = copy.deepcopy(node)
            del other.ifs[i]
            yield other
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        swapped = {"any": "all", "all": "any", "min": "max", "max": "min"}.get(node.func.id)
        if swapped:
            yield ast.Call(ast.Name(swapped, ast.Load()), node.args, node.keywords)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield ast.Constant(not node.value)


def is_check(node):
    """Whether a statement only refuses bad arguments: `if ...: raise ...`, which tests/test_bad_input.py covers."""
    return isinstance(node, ast.Raise) or (isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise))


def is_message(node):
    """Whether a node says what is wrong, or is shown only."""
    called = getattr(node, "func", None)
    return isinstance(node, ast.Raise) or getattr(called, "id", getattr(called, "attr", "")) in ("refuse", "_tell")


def places(node, engine, owner="", statement=None):
    """(owner, statement, parent, field, index) of every node in the code, apart from checks and docstrings.

    owner     : the qualified name of the outermost function around the node, "" outside functions
    statement : the innermost statement around it
    """
    if (
        is_message(node)
        or getattr(node, "arg", "") == "strict"
        or (not engine and (is_check(node) or isinstance(node, ast.JoinedStr)))
    ):
        return
    if isinstance(node, ast.Assign) and names_in(node.targets[0]) & TUNING:
        return
    if isinstance(node, (ast.stmt, ast.Lambda)):
        statement = node
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and "()" not in owner:
        owner = f"{owner}{node.name}{'()' if isinstance(node, ast.FunctionDef) else '.'}"
    for field, value in ast.iter_fields(node):
        if field in ("decorator_list", "annotation", "returns", "defaults", "kw_defaults"):
            continue
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST):
                inside = child if isinstance(child, (ast.stmt, ast.Lambda)) else statement
                yield owner, inside, node, field, index if isinstance(value, list) else None
                yield from places(child, engine, owner, statement)


def lines_of(statement):
    """The numbers of a statement's own lines, without those of the block in it."""
    has_block = isinstance(getattr(statement, "body", None), list)
    last = statement.body[0].lineno - 1 if has_block else statement.end_lineno
    return range(statement.lineno, max(statement.lineno, last) + 1)


@functools.cache
def source_of(path):
    """A file as it was at first, which is what this process runs: it may be edited meanwhile."""
    return Path(path).read_text()


def mutants(module):
    """Every mutant of a module."""
    path = sys.modules[f"minivae.{module}"].__file__
    tree, engine = ast.parse(source_of(path)), module.startswith("engine.") and module not in MATHEMATICS
    for owner, statement, parent, field, index in places(tree, engine):
        holder = getattr(parent, field)
        node = holder if index is None else holder[index]
        for other in [*replacements(node), *(replacements_in_engines(node) if engine else ())]:
            ast.fix_missing_locations(ast.copy_location(other, node))

            def put(new, parent=parent, field=field, index=index, holder=holder):
                if index is None:
                    setattr(parent, field, new)
                else:
                    holder[index] = new

            def code(put=put, node=node, other=other):
                put(other)
                result = compile(tree, path, "exec")
                put(node)
                return result

            shown = parent if isinstance(node, ast.UnaryOp) else node  # a sign by itself says too little
            before = unparsed(shown)
            put(other)
            after = "nothing" if isinstance(other, ast.Pass) else unparsed(parent if shown is parent else other)
            put(node)
            if before == after:
                continue
            name = owner.removesuffix("()") or "module"
            if isinstance(statement, ast.Lambda) and "()" not in owner:
                owner = "<lambda>()"
            description = f"{module}.{name}: {before} -> {after}"
            yield Mutant(module, description, path, lines_of(statement), name if "()" in owner else None, code)


def unparsed(node):
    """The source of a node; of a block only its head."""
    text = ast.unparse(node)
    return text.split(":\n")[0] if isinstance(node, (ast.If, ast.While)) else text.strip()


def codes_in(code):
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def changes(old, new):
    """Pairs of code objects, before and after, of all functions that a mutant changes, and of those inside them."""
    for one, other in zip(codes_in(old), codes_in(new), strict=False):
        if one != other and one.co_name == other.co_name:
            if one.co_flags & inspect.CO_OPTIMIZED:  # a function, not a class
                yield one, other
            yield from changes(one, other)


def install(mutant, functions):
    """Change this process: the mutated function gets its new code, or a constant its new value everywhere.

    functions : those of this process by their code
    """
    code = mutant.code()
    if mutant.owner:
        original = compile(ast.parse(source_of(mutant.path)), mutant.path, "exec")
        for old, new in changes(original, code):
            for function in functions.get(old, ()):
                if "<locals>" not in function.__qualname__:
                    # A mutant without super() has no use for the variable __class__, but must be as its function is.
                    function.__code__ = new.replace(co_freevars=old.co_freevars)
                elif new.co_freevars == old.co_freevars:  # one that has been made already, as by a decorator
                    function.__code__ = new
        return
    before = vars(sys.modules[f"minivae.{mutant.module}"])
    after = dict(before)
    exec(code, after)
    for name, value in before.items():
        if isinstance(value, (int, float, tuple)) and value != after[name]:
            for module in list(sys.modules.values()):
                if getattr(module, name, None) is value:
                    setattr(module, name, after[name])
        elif isinstance(value, set) or (isinstance(value, dict) and not any(map(callable, value.values()))):
            value.clear()
            value.update(after[name])


class Notice:
    """A plugin that remembers whether a test failed."""

    failed = False

    def pytest_runtest_logreport(self, report):
        self.failed = self.failed or report.failed


def run(item, notice):
    """Run one test; returns whether it passed."""
    notice.failed = False
    try:
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
    except BaseException:  # such as Ctrl-C, which a test of it sends and the mutant does not handle
        return False
    return not notice.failed


def in_a_fork(function):
    """The process in which function() runs, silently; its exit status is 0 where that is true, 1 where it is not."""
    process = os.fork()
    if process:
        return process
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    try:
        status = 0 if function() else 1
    except BaseException:
        status = 2
    os._exit(status)


class Tracer:
    """Notes which lines of some files are passed."""

    def __init__(self, paths):
        self.paths, self.lines = paths, set()

    def __call__(self, frame, event, _):
        return self.line if frame.f_code.co_filename in self.paths else None

    def line(self, frame, event, _):
        if event == "line":
            self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self.line


class Run:
    """The plugin that runs mutants in place of tests.

    patience : how many seconds of tests a mutant gets
    """

    def __init__(self, modules, match, jobs, patience, folder):
        self.modules, self.match, self.jobs, self.status = modules, match, jobs, 2
        self.patience, self.folder = patience, folder

    def pytest_runtestloop(self, session):
        if session.testsfailed:
            print("the tests cannot be collected: mend them first")
            return True
        self.items, self.notice = session.items, Notice()
        for item in self.items:
            item.fixturenames[:] = [name for name in item.fixturenames if name != "cache"]  # there is one for all here
        session.config.pluginmanager.register(self.notice)
        todo = [
            mutant for name in self.modules for mutant in mutants(name) if re.search(self.match, mutant.description)
        ]
        print(f"{len(todo)} mutants of {', '.join(self.modules)}; {len(self.items)} tests", flush=True)
        gc.unfreeze()
        self.functions = {}
        for function in gc.get_objects():
            if isinstance(function, FunctionType) and "minivae" in function.__code__.co_filename:
                self.functions.setdefault(function.__code__, []).append(function)
        gc.freeze()  # a fork that collects garbage would copy all memory
        if self.measure():
            unknown = self.run_all(todo)
            self.status = 1 if unknown else 0
        return True

    def measure(self):
        """Learn each test's seconds of processor time and its lines; false where a test fails without a mutation."""
        traced = self.run_once(Tracer)
        timed = self.run_once(lambda paths: None)  # as a mutant finds it: without a tracer, and all is compiled
        table = [(seconds, passed, lines) for (_, _, lines), (seconds, passed, _) in zip(traced, timed, strict=True)]
        failed = [item.nodeid for item, (_, passed, _) in zip(self.items, table, strict=True) if not passed]
        if failed:
            print("tests that fail without any mutation, mend them first:", *failed, sep="\n")
        by_time = sorted(zip(table, self.items, strict=True), key=lambda row: row[0][0])
        self.tests = [(seconds, item, lines) for (seconds, _, lines), item in by_time]
        self.kills = memoryview(mmap.mmap(-1, 4 * len(self.tests))).cast("I")  # of each test, which forks count
        print(f"{sum(seconds for seconds, _, _ in self.tests):.0f} s for all tests once", flush=True)
        return not failed

    def run_once(self, make_tracer):
        """Each test's seconds, whether it passed, and its lines, from a fork that runs them all."""
        paths = {sys.modules[f"minivae.{name}"].__file__ for name in self.modules}
        start_thread = _thread.start_new_thread
        with tempfile.NamedTemporaryFile() as file:

            def learn():
                table = []
                for item in self.items:
                    tracer, start = make_tracer(paths), time.process_time()
                    # Threads that are started past `threading`, as an engine's, are traced, too.
                    _thread.start_new_thread = lambda function, given, tracer=tracer: start_thread(
                        lambda *given: [sys.settrace(tracer), function(*given)], given
                    )
                    threading.settrace(tracer)
                    sys.settrace(tracer)
                    passed = run(item, self.notice)
                    sys.settrace(None)
                    table.append((time.process_time() - start, passed, tracer.lines if tracer else None))
                Path(file.name).write_bytes(pickle.dumps(table))
                return True

            os.waitpid(in_a_fork(learn), 0)
            return pickle.loads(Path(file.name).read_bytes())

    def survives(self, mutant):
        """Whether a mutant passes the tests that pass its lines; a test that takes far longer than it should fails."""
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if mutant.module == "engine.llvm" and re.search("compile|machine|read|write", mutant.owner or ""):
            # It may compile other code for the same text, so what it keeps must not meet another one.
            folder = tempfile.mkdtemp(dir=self.folder)
            platformdirs.user_cache_dir = lambda name: folder
        install(mutant, self.functions)
        wanted, spent = {(mutant.path, line) for line in mutant.lines}, 0.0
        for i in sorted(range(len(self.tests)), key=lambda i: -self.kills[i]):
            seconds, item, lines = self.tests[i]
            if wanted & lines or (mutant.owner is None and any(path == mutant.path for path, _ in lines)):
                spent += seconds
                if spent > self.patience:
                    continue
                signal.setitimer(signal.ITIMER_PROF, 5 + 10 * seconds)  # then SIGPROF ends this process
                signal.setitimer(signal.ITIMER_REAL, 60 + 30 * seconds)  # it may be waiting for something
                self.kills[i] += 1
                if not run(item, self.notice):
                    return False
                self.kills[i] -= 1
        return True

    def run_all(self, todo):
        """Test all mutants; returns how many survive without being listed as equivalent."""
        start, running, survivors, waiting, done = time.perf_counter(), {}, [], iter(todo), 0
        while done < len(todo):
            while len(running) < self.jobs and (mutant := next(waiting, None)):
                running[in_a_fork(lambda mutant=mutant: self.survives(mutant))] = mutant
            process, status = os.wait()
            mutant, done = running.pop(process), done + 1
            if status == 0 or os.waitstatus_to_exitcode(status) == 2:
                survivors.append(mutant.description)
                note = "  (it could not be tested)" if status else "  (equivalent)" * (mutant.description in EQUIVALENT)
                where = f"{mutant.module}.py:{mutant.lines.start}"
                print(f"{done}: survives: {where}  {mutant.description}{note}", flush=True)
            if done % 50 == 0:
                print(f"{done}: {done - len(survivors)} killed, {time.perf_counter() - start:.0f} s", flush=True)
        unknown = sum(description not in EQUIVALENT for description in survivors)
        print(
            f"{len(todo)} mutants: {len(todo) - len(survivors)} killed, {len(survivors) - unknown} equivalent, "
            f"{unknown} survive; {time.perf_counter() - start:.0f} s"
        )
        return unknown


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", default=[name for suite in SUITES for name in suite])
    parser.add_argument("--list", action="store_true", help="print the mutants and do not test them")
    parser.add_argument("--match", default="", help="only mutants whose description this expression fits")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--tests", nargs="+", help="files of tests in place of those that a module has by default")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds of tests for a mutant")
    arguments = parser.parse_args()
    for name in arguments.modules:
        importlib.import_module(f"minivae.{name}")
    if arguments.list:
        for mutant in (mutant for name in arguments.modules for mutant in mutants(name)):
            print(f"{mutant.module}.py:{mutant.lines.start}  {mutant.description}")
        return 0
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        platformdirs.user_cache_dir = lambda name: f"{folder}/{name}"
        tempfile.tempdir = folder  # where the tests keep what the C compiler makes of kernels
        for suite, (rooms, chosen) in SUITES.items():
            modules = [name for name in arguments.modules if name in suite]
            if modules:
                run = Run(modules, arguments.match, arguments.jobs, arguments.patience, folder)
                paths = [str(TESTS / room) for room in arguments.tests or rooms]
                pytest.main([*OPTIONS, "-k", chosen, *paths], plugins=[run])
                status = max(status, run.status)
    return status


if __name__ == "__main__":
    sys.exit(main())
