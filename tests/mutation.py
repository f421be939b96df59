"""Break the mathematics in every place, one place at a time, and see that the default tests notice.

    python tests/mutation.py                    all modules
    python tests/mutation.py model.layers       some of them
    python tests/mutation.py --list             the mutants, untested

A mutant flips a sign, drops a factor, a term or a whole line, swaps two operands, or turns a comparison or a choice
round. The tests are collected once, and run once as they are to learn how long each takes and which lines it passes.
Then, for each mutant, a fork of this process changes the one function and runs the tests that pass the mutated line,
the shortest first, until one fails. Exit status 1 if a mutant survives that is not listed as EQUIVALENT, with the
reason why it computes the same.
"""

import argparse
import ast
import copy
import gc
import importlib
import os
import pickle
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import namedtuple
from pathlib import Path
from types import CodeType, FunctionType

import pytest

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS.parent))
MODULES = (
    *(f"model.{name}" for name in "posteriors gaussian likelihoods flows bounds conv layers optimizers".split()),
    *("model.binarization", "model.labels", "model.vae", "engine.convolution"),
    *("training.step", "training.state", "training.callbacks", "training.schedules"),
)

# The tests of the default suite that run in this process, on NumPy, and have to do with these modules.
ROOMS = "gradients", "truths", "training"
ARGUMENTS = [
    *("-o", "addopts=", "-m", "not slow and not gpu", "-k", "not fake and not numba and not test_killed"),
    *("-s", "-p", "no:terminal", "-p", "no:faulthandler", "-p", "no:cacheprovider", "-p", "no:randomly"),
    *(str(TESTS / room) for room in ROOMS),
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
    "training.step.Step.refill: a['noise_row'].fill(0) -> nothing": "`Training.steps` sets the row of the first step",
    "training.state.Training.__init__: self.state = {name: _copied(backend, array) for name, array in "
    "self.state.items()} -> nothing": "on NumPy the copies only lie better in memory",
}


def array_function(node):
    """The name f of a call xp.f(...), np.f(...), math.f(...) or backend.f(...), else None."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        owner = node.func.value
        if isinstance(owner, (ast.Name, ast.Attribute)):
            name = owner.id if isinstance(owner, ast.Name) else owner.attr
            if name in ("xp", "np", "math", "backend"):
                return node.func.attr
    return None


def replacements(node):
    """The mutants of one node: other nodes to stand in its place."""
    name = array_function(node)
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


def is_check(node):
    """Whether a statement only refuses bad arguments: `if ...: raise ...`, which tests/test_bad_input.py covers."""
    return isinstance(node, ast.Raise) or (isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise))


def places(node, owner="", statement=None):
    """(owner, statement, parent, field, index) of every node in the code, apart from checks and docstrings.

    owner     : the qualified name of the outermost function around the node, "" outside functions
    statement : the innermost statement around it
    """
    if is_check(node) or isinstance(node, ast.JoinedStr):
        return
    if isinstance(node, ast.stmt):
        statement = node
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and "()" not in owner:
        owner = f"{owner}{node.name}{'()' if isinstance(node, ast.FunctionDef) else '.'}"
    for field, value in ast.iter_fields(node):
        if field in ("decorator_list", "annotation", "returns"):
            continue
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST):
                inside = child if isinstance(child, ast.stmt) else statement
                yield owner, inside, node, field, index if isinstance(value, list) else None
                yield from places(child, owner, statement)


def lines_of(statement):
    """The numbers of a statement's own lines, without those of the block in it."""
    last = statement.body[0].lineno - 1 if hasattr(statement, "body") else statement.end_lineno
    return range(statement.lineno, max(statement.lineno, last) + 1)


def mutants(module):
    """Every mutant of a module."""
    path = sys.modules[f"minivae.{module}"].__file__
    tree = ast.parse(Path(path).read_text())
    for owner, statement, parent, field, index in places(tree):
        holder = getattr(parent, field)
        node = holder if index is None else holder[index]
        for other in replacements(node):
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
            before = ast.unparse(shown)
            put(other)
            after = "nothing" if isinstance(other, ast.Pass) else ast.unparse(parent if shown is parent else other)
            put(node)
            name = owner.removesuffix("()") or "module"
            description = f"{module}.{name}: {before} -> {after}"
            yield Mutant(module, description, path, lines_of(statement), name if "()" in owner else None, code)


def code_objects(code):
    """The code of every function in a module's code, by qualified name."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant.co_qualname, constant
            yield from code_objects(constant)


def install(mutant):
    """Change this process: the mutated function gets its new code, or a constant its new value everywhere."""
    code = mutant.code()
    if mutant.owner:
        new = dict(code_objects(code))[mutant.owner]
        for function in gc.get_objects():
            if isinstance(function, FunctionType):
                old = function.__code__
                if old.co_filename == mutant.path and old.co_qualname == mutant.owner:
                    # A mutant without super() has no use for the variable __class__, but must be as its function is.
                    function.__code__ = new.replace(co_freevars=old.co_freevars)
        return
    before = vars(sys.modules[f"minivae.{mutant.module}"])
    after = dict(before)
    exec(code, after)
    for name, value in before.items():
        if isinstance(value, (int, float)) and value != after[name]:
            for module in list(sys.modules.values()):
                if getattr(module, name, None) is value:
                    setattr(module, name, after[name])


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
    """The plugin that runs mutants in place of tests."""

    def __init__(self, modules, match, jobs):
        self.modules, self.match, self.jobs, self.status = modules, match, jobs, 2

    def pytest_runtestloop(self, session):
        if session.testsfailed:
            print("the tests cannot be collected: mend them first")
            return True
        self.items, self.notice = session.items, Notice()
        session.config.pluginmanager.register(self.notice)
        todo = [mutant for name in self.modules for mutant in mutants(name) if self.match in mutant.description]
        print(f"{len(todo)} mutants of {', '.join(self.modules)}; {len(self.items)} tests", flush=True)
        if self.measure():
            unknown = self.run_all(todo)
            self.status = 1 if unknown else 0
        return True

    def measure(self):
        """Learn each test's seconds of processor time and its lines; false where a test fails without a mutation."""
        paths = {sys.modules[f"minivae.{name}"].__file__ for name in self.modules}
        with tempfile.NamedTemporaryFile() as file:

            def learn():
                table = []
                for item in self.items:
                    tracer, start = Tracer(paths), time.process_time()
                    threading.settrace(tracer)
                    sys.settrace(tracer)
                    passed = run(item, self.notice)
                    sys.settrace(None)
                    table.append((time.process_time() - start, passed, tracer.lines))
                Path(file.name).write_bytes(pickle.dumps(table))
                return True

            os.waitpid(in_a_fork(learn), 0)
            table = pickle.loads(Path(file.name).read_bytes())
        failed = [item.nodeid for item, (_, passed, _) in zip(self.items, table, strict=True) if not passed]
        if failed:
            print("tests that fail without any mutation, mend them first:", *failed, sep="\n")
        by_time = sorted(zip(table, self.items, strict=True), key=lambda row: row[0][0])
        self.tests = [(seconds, item, lines) for (seconds, _, lines), item in by_time]
        print(f"{sum(seconds for seconds, _, _ in self.tests):.0f} s for all tests once", flush=True)
        return not failed

    def survives(self, mutant):
        """Whether a mutant passes the tests that pass its lines; a test that takes far longer than it should fails."""
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        install(mutant)
        wanted = {(mutant.path, line) for line in mutant.lines}
        for seconds, item, lines in self.tests:
            if wanted & lines or (mutant.owner is None and any(path == mutant.path for path, _ in lines)):
                signal.setitimer(signal.ITIMER_PROF, 5 + 10 * seconds)  # then SIGPROF ends this process
                if not run(item, self.notice):
                    return False
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
    parser.add_argument("modules", nargs="*", default=MODULES)
    parser.add_argument("--list", action="store_true", help="print the mutants and do not test them")
    parser.add_argument("--match", default="", help="only mutants whose description has this in it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    for name in arguments.modules:
        importlib.import_module(f"minivae.{name}")
    if arguments.list:
        for mutant in (mutant for name in arguments.modules for mutant in mutants(name)):
            print(f"{mutant.module}.py:{mutant.lines.start}  {mutant.description}")
        return 0
    run = Run(arguments.modules, arguments.match, arguments.jobs)
    pytest.main(ARGUMENTS, plugins=[run])
    return run.status


if __name__ == "__main__":
    sys.exit(main())
