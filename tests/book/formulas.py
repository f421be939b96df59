"""Formulas as the book displays them: LaTeX, in the small part of it that the book uses, read and computed.

    Formula(r"\\sum_i x_{bi} W_{io} + b_o", world).over("bo")      an array (B, O), for x, W, b of the world

A world maps LaTeX to numbers, arrays and functions: {"x": ..., r"\\mu": ..., r"p(x \\mid z)": ...}. Wherever such a
name stands it is taken as a whole, the longest first. A subscript picks entries of an array; the values of its indices
are under "indices": {"b": range(4), "i": range(3)}. Matrices are multiplied as matrices, and arrays of one axis, the
values of something at many points, point by point. A function such as \\log takes what stands next to it: a name with
its subscript and exponent, a fraction, or what is in brackets.
"""

import itertools
import math
import operator
import re

import numpy as np

FUNCTIONS = {
    r"\log": np.log, r"\tanh": np.tanh, r"\sqrt": np.sqrt, r"\max": np.maximum, r"\det": np.linalg.det,
    r"\mathrm{tr}": np.trace, r"\pi": math.pi, "e": math.e,
}  # fmt: skip
BRACKETS = {"(": ")", "[": "]", "{": "}"}
RELATION = re.compile(r"=|\\(?:[gl]e|approx)(?![a-z])")


def packed(text):
    """LaTeX without the sizes of brackets and without spaces, but for one that ends a command before a letter."""
    text = re.sub(r"\\(?:left|right|quad)(?![a-z])", " ", text)
    return re.sub(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])|\s+", lambda space: f"{space[1]} " if space[1] else "", text)


def statements(display):
    """The equations that stand side by side in a display, each as [side, relation, side, ...]."""
    for statement in display.split(r"\qquad"):
        statement, parts, start, depth = packed(statement).strip(",."), [], 0, 0
        for at, sign in enumerate(statement):
            depth += (sign in BRACKETS) - (sign in BRACKETS.values())
            relation = RELATION.match(statement, at)
            if relation and not depth:
                parts += [statement[start:at], relation[0]]
                start = relation.end()
        yield [*parts, statement[start:].strip()]


def times(a, b):
    """The product of two values as one reads it: of matrices, unless one of them is a number."""
    if np.ndim(a) == np.ndim(b) == 2 and np.size(a) > 1 and np.size(b) > 1:
        product = a @ b
        return product.item() if product.size == 1 else product
    return a * b


def power(base, exponent):
    return np.linalg.inv(base) if np.ndim(base) == 2 and exponent == -1 else base**exponent


class ZeroOutside:
    """An array whose entries outside its bounds are 0, as a picture's around its edges."""

    def __init__(self, array):
        self.array = array

    def __getitem__(self, at):
        inside = all(0 <= i < n for i, n in zip(at, self.array.shape, strict=True))
        return self.array[at] if inside else 0.0


class Formula:
    """A formula that has been read. Each of the methods below `over` reads a part of it from where the last one
    stopped, and returns a function from the values of the indices, a dict, to the value of the part."""

    def __init__(self, text, world):
        self.text, self.at, self.ranges, self.free = packed(text).strip(), 0, world.get("indices", {}), set()
        names = {packed(name): value for name, value in (FUNCTIONS | world).items() if name != "indices"}
        self.names = {name: names[name] for name in sorted(names, key=len, reverse=True)}
        self.value = self.sum()
        if self.at < len(self.text):
            self.fail()

    def over(self, indices):
        """Its values for all values of some indices: an array whose axes are in their order."""
        ranges = [self.ranges[index] for index in indices]
        values = [self.value(dict(zip(indices, at, strict=True))) for at in itertools.product(*ranges)]
        return np.array(values).reshape([*map(len, ranges), *np.shape(values[0])])

    def fail(self):
        raise ValueError(f"cannot read {self.text[self.at :]!r} in {self.text!r}")

    def accept(self, *options):
        """The one of the options that stands here, passed over; None if there is none."""
        for option in options:
            end = self.at + len(option)
            if self.text.startswith(option, self.at):
                command = re.fullmatch(r"\\[a-zA-Z]+", option)
                if command and self.text[end : end + 1].isalpha():
                    continue  # the beginning of another command
                self.at = end + bool(command and self.text[end : end + 1] == " ")
                return option

    def expect(self, option):
        if not self.accept(option):
            self.fail()

    def until(self, end):
        """The text up to the sign that ends it."""
        start, stop = self.at, self.text.index(end, self.at)
        self.at = stop + 1
        return self.text[start:stop]

    def letter(self):
        self.at += 1
        return self.text[self.at - 1]

    def both(self, operation, a, b):
        return lambda indices: operation(a(indices), b(indices))

    def sum(self):
        zero = lambda indices: 0.0  # noqa: E731
        value = self.both(operator.sub, zero, self.product()) if self.accept("-") else self.product()
        while sign := self.accept("+", "-"):
            value = self.both(operator.add if sign == "+" else operator.sub, value, self.product())
        return value

    def product(self):
        value = self.power()
        while self.at < len(self.text) and self.text[self.at] not in "+-)]}|,>":
            sign = self.accept("/", r"\odot", r"\cdot")
            operation = {"/": operator.truediv, r"\odot": operator.mul}.get(sign, times)
            value = self.both(operation, value, self.power())
        return value

    def power(self):
        base = self.atom()
        if not self.accept("^"):
            return base
        if self.accept(r"\top"):
            return lambda indices: np.transpose(base(indices))
        return self.both(power, base, self.bracketed("{") if self.accept("{") else self.atom(one_digit=True))

    def bracketed(self, opening):
        value = self.sum()
        if opening == "[" and self.accept(">"):  # 1 where it holds, else 0
            value = self.both(operator.gt, value, self.sum())
        self.expect(BRACKETS[opening])
        return value

    def atom(self, one_digit=False):
        if name := self.accept(*self.names):
            return self.called(self.names[name]) if callable(self.names[name]) else self.entry(self.names[name])
        if number := re.compile(r"\d" if one_digit else r"\d+(\.\d+)?").match(self.text, self.at):
            self.at = number.end()
            return lambda indices: float(number[0])
        if index := self.accept(*self.ranges):
            self.free.add(index)
            return lambda indices: indices[index]
        if self.accept(r"\frac"):
            self.expect("{")
            above = self.bracketed("{")
            self.expect("{")
            return self.both(operator.truediv, above, self.bracketed("{"))
        if self.accept(r"\sum"):
            return self.summed()
        if self.accept(r"\int"):  # of values at the points of a grid whose spacing is dz
            body = self.product()
            return lambda indices: np.sum(body(indices))
        if self.accept("|"):
            inside = self.sum()
            self.expect("|")
            return lambda indices: np.abs(inside(indices))
        if opening := self.accept(*BRACKETS):
            return self.bracketed(opening)
        self.fail()

    def summed(self):
        """A sum over indices of the product behind the sign, which ends before the next + or -."""
        self.expect("_")
        over = self.until("}") if self.accept("{") else self.letter()
        if "=" in over:  # from a number to the exponent of the sign
            over, first = over.split("=")
            self.expect("^")
            last = self.atom()
            return self.summed_over([over], lambda indices: [range(int(first), last(indices) + 1)])
        over = over.split(",")
        return self.summed_over(over, lambda indices: [self.ranges[index] for index in over])

    def summed_over(self, over, ranges):
        free_before, known = self.free.copy(), self.ranges
        self.ranges = known | dict.fromkeys(over)
        body, self.ranges = self.product(), known
        self.free = free_before | self.free - set(over)
        return lambda indices: sum(
            body(indices | dict(zip(over, at, strict=True))) for at in itertools.product(*ranges(indices))
        )

    def called(self, function):
        if opening := self.accept("(", "["):
            arguments = [self.sum()]
            while self.accept(","):
                arguments.append(self.sum())
            self.expect(BRACKETS[opening])
        else:
            arguments = [self.power()]
        return lambda indices: function(*(argument(indices) for argument in arguments))

    def entry(self, array):
        """A value of the world, or the entry of it that a subscript picks."""
        if not self.accept("_"):
            return lambda indices: array
        if self.accept("{"):
            places = [sign for part in self.until("}").split(",") for sign in (part if part.isalpha() else [part])]
        else:
            places = [self.letter()]
        self.free |= set("".join(places)) & set(self.ranges)
        # In a subscript such as si+u-p, letters are indices or whole numbers of the world, and si is a product.
        codes = [compile(re.sub(r"(?<=\w)(?=[a-z])", "*", place), self.text, "eval") for place in places]
        whole = {name: value for name, value in self.names.items() if isinstance(value, int)}
        return lambda indices: array[tuple(eval(code, {}, whole | indices) for code in codes)]
