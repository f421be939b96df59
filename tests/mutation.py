"""Break the mathematics in every place, one place at a time, and see that the default tests notice.

    python tests/mutation.py                    all modules
    python tests/mutation.py layers bounds      some of them
    python tests/mutation.py --list             the mutants, untested

A mutant flips a sign, drops a factor, a term or a whole line, swaps two operands, or turns a comparison or a choice
round. Each is tested in a process of its own, with the fastest tests first, until a test fails. Exit status 1 if
a mutant survives that is not listed as EQUIVALENT, with the reason why it computes the same.
"""

import argparse
import ast
import copy
import importlib.util
import os
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy  # noqa: F401 - what all tests import is imported once, before each mutant's process forks
import pytest
import scipy.stats  # noqa: F401

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS.parent))
MODULES = "layers conv divergences likelihoods posteriors flows bounds vae optimizers stopping binarization"
SECONDS = 120  # of processor time; a mutant that takes longer never ends, which is noticed

# Pytest's arguments, one list after another until one fails: the fastest tests, then all that run in this process.
NUMPY = "not fake and not numba and not gpu and not killed and not no_array"
STAGES = [
    ["test_gradients.py", "test_truths.py", "-k", f"{NUMPY} and not VAE"],
    ["-k", NUMPY, *(f"--ignore-glob=*test_{name}*" for name in ("[defp]", "ba", "cu", "in"))],
]

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
EQUIVALENT = {}


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


def places(node, function="module"):
    """(function, parent, field, index) of every node inside functions, apart from checks and docstrings."""
    if isinstance(node, ast.FunctionDef):
        function = node.name
    if is_check(node) or isinstance(node, ast.JoinedStr):
        return
    for field, value in ast.iter_fields(node):
        if field in ("decorator_list", "annotation", "returns"):
            continue
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST):
                if function != "module" or isinstance(child, (ast.expr, ast.ClassDef)):
                    yield function, node, field, index if isinstance(value, list) else None
                yield from places(child, function)


def mutants(module):
    """(description, line, code) of every mutant of a module."""
    path = Path(importlib.util.find_spec("minivae").origin).with_name(f"{module}.py")
    tree = ast.parse(path.read_text())
    for function, parent, field, index in places(tree):
        holder = getattr(parent, field)
        node = holder if index is None else holder[index]
        for other in replacements(node):
            line, before = node.lineno, ast.unparse(node)
            ast.copy_location(other, node)

            def put(new, parent=parent, field=field, index=index, holder=holder):
                if index is None:
                    setattr(parent, field, new)
                else:
                    holder[index] = new

            put(other)
            code = ast.unparse(ast.fix_missing_locations(tree))
            put(node)
            after = "nothing" if isinstance(other, ast.Pass) else ast.unparse(other)
            yield f"{module}.{function}: {before} -> {after}", f"{path.name}:{line}", code


class Mutated:
    """An importer that gives `minivae.(module)` this code."""

    def __init__(self, module, code):
        self.name, self.code = f"minivae.{module}", code

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name == self.name else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(compile(self.code, f"<mutant of {self.name}>", "exec"), module.__dict__)


def child(module, code, stage):
    """Run the tests of one stage on a mutant; the exit status is pytest's. Never returns."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        sys.meta_path.insert(0, Mutated(module, code))
        os.chdir(TESTS)
        status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *STAGES[stage]])
    except BaseException:
        status = 1
    os._exit(int(status))


def survives(module, code):
    """Whether a mutant passes all stages."""
    for stage in range(len(STAGES)):
        process = os.fork()
        if process == 0:
            child(module, code, stage)
        if os.waitpid(process, 0)[1] != 0:
            return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", default=MODULES.split())
    parser.add_argument("--list", action="store_true", help="print the mutants and do not test them")
    parser.add_argument("--match", default="", help="only mutants whose description has this in it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    existing = [m for m in arguments.modules if importlib.util.find_spec(f"minivae.{m}")]
    for name in [name for name in sys.modules if name.split(".")[0] == "minivae"]:
        del sys.modules[name]
    todo = [(m, *mutant) for m in existing for mutant in mutants(m) if arguments.match in mutant[0]]
    if arguments.list:
        print(*(f"{where}  {what}" for _, what, where, _ in todo), sep="\n")
        return 0
    if survives("none", ""):
        print(f"{len(todo)} mutants of {', '.join(existing)}", flush=True)
    else:
        print("the tests fail without any mutation: mend them first")
        return 2
    start, survivors = time.perf_counter(), []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        fates = pool.map(lambda mutant: survives(mutant[0], mutant[3]), todo)
        for i, ((_, what, where, _), alive) in enumerate(zip(todo, fates, strict=True), 1):
            if alive:
                print(f"{i}: survives: {where}  {what}{'  (equivalent)' if what in EQUIVALENT else ''}", flush=True)
                survivors.append(what)
            elif i % 50 == 0:
                print(f"{i}: {i - len(survivors)} killed, {time.perf_counter() - start:.0f} s", flush=True)
    unknown = [what for what in survivors if what not in EQUIVALENT]
    print(
        f"{len(todo)} mutants: {len(todo) - len(survivors)} killed, {len(survivors) - len(unknown)} equivalent, "
        f"{len(unknown)} survive; {time.perf_counter() - start:.0f} s"
    )
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
