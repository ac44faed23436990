r"""A small Bayesian network of discrete variables: any graph without cycles, with exact inference by enumeration.

    p(x_1, ..., x_V) = prod_v p(x_v | parents of v)

Each factor is a table. From them follow sampling (parents before children), the joint table, any conditional
probability, and which independences hold whatever the tables say (d-separation).

References: Pearl, Probabilistic Reasoning in Intelligent Systems, 1988, chapter 3; Shachter, "Bayes-Ball: The Rational
Pastime", UAI 1998, for d-separation; Koller and Friedman, Probabilistic Graphical Models, 2009, chapter 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = ["DiscreteNetwork"]

LARGEST_JOINT = 2**22  # entries of a table that is written out


class DiscreteNetwork(nn.Module):
    """Variables with finitely many states, the graph of their parents, and a table for each.

    Args:
        parents: for each variable, by name, the names of its parents; columns of data come in this order.
        tables: for each variable, p(own state | parents' states) with one axis per parent, in the order given, and the
            variable's own axis last: (S_parent1, ..., S_own). The last axis sums to 1. A variable that is left out
            gets equal probabilities.
        states: number of states, of all variables or of each by name, for those without a table.

    Attributes:
        variables: the names, in the order of `parents`.
        order: the same, parents before children.
        parents: for each variable its parents' names.
        states: for each variable its number of states.

    Raises:
        ValueError: if the graph has a cycle or an unknown parent, or a table a wrong shape, a negative entry, or rows
            that do not sum to 1.

    Example:
        >>> rain = DiscreteNetwork(
        ...     parents={"rain": (), "wet": ("rain",)},
        ...     tables={"rain": torch.tensor([0.8, 0.2]), "wet": torch.tensor([[0.9, 0.1], [0.3, 0.7]])},
        ... )
        >>> rain.factorisation()
        'p(rain) p(wet | rain)'
        >>> rain.query("rain", {"wet": 1})
        tensor([0.3636, 0.6364])
    """

    def __init__(
        self,
        parents: Mapping[str, Sequence[str]],
        tables: Mapping[str, Tensor] | None = None,
        states: int | Mapping[str, int] = 2,
    ) -> None:
        super().__init__()
        self.variables = tuple(parents)
        self.parents = {v: _names(parents[v]) for v in parents}
        self.order = _topological(self.parents)
        tables = {} if tables is None else dict(tables)
        if unknown := set(tables) - set(self.variables):
            raise ValueError(f"tables must be of {', '.join(self.variables)}, got {', '.join(sorted(unknown))}")
        self.states = {v: _count_states(v, tables.get(v), states) for v in self.variables}
        dtype = next((torch.as_tensor(t).dtype for t in tables.values()), torch.get_default_dtype())
        for i, v in enumerate(self.variables):
            shape = self._table_shape(v)
            equal = torch.full(shape, 1 / shape[-1], dtype=dtype)
            self.register_buffer(f"table_{i}", _checked_table(v, tables.get(v, equal), shape))

    def _table_shape(self, v: str) -> tuple[int, ...]:
        return (*(self.states[u] for u in self.parents[v]), self.states[v])

    def table(self, variable: str) -> Tensor:
        """p(variable | its parents), (S_parent1, ..., S_own)."""
        return getattr(self, f"table_{self._column(variable)}")

    def _column(self, variable: str) -> int:
        if variable not in self.parents:
            raise ValueError(f"variable must be one of {', '.join(self.variables)}, got {variable!r}")
        return self.variables.index(variable)

    def factorisation(self) -> str:
        """The product of factors that the graph stands for, as text, parents first."""
        return " ".join(f"p({v} | {', '.join(self.parents[v])})" if self.parents[v] else f"p({v})" for v in self.order)

    def num_parameters(self) -> int:
        """Free numbers in the tables: S_own - 1 for each state of the parents."""
        return sum(self.table(v).numel() // self.states[v] * (self.states[v] - 1) for v in self.variables)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log p(x) in nats of whole states, (N, V) in the order of `variables` -> (N,).

        Raises:
            ValueError: if x has the wrong shape or holds a state that does not exist.
        """
        self._check(x)
        return torch.stack([self.table(v)[self._index(x, v)].log() for v in self.variables]).sum(dim=0)

    def _index(self, x: Tensor, v: str) -> tuple[Tensor, ...]:
        """The states of v's parents and of v, one tensor (N,) for each axis of its table."""
        return tuple(x[:, self._column(u)] for u in (*self.parents[v], v))

    def loss(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean of -log p(x), a scalar in nats."""
        return -self.log_prob(x).mean()

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n states of all variables, (n, V), by ancestral sampling: parents first, then their children.

        Raises:
            ValueError: if n is not positive.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        x = torch.zeros(n, len(self.variables), dtype=torch.long, device=self.table(self.order[0]).device)
        for v in self.order:
            probabilities = self.table(v)[self._index(x, v)[:-1]].expand(n, -1)  # (n, S)
            x[:, self._column(v)] = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        return x

    def fit(self, x: Tensor, smoothing: float = 1.0) -> DiscreteNetwork:
        """Estimate every table by counting: (N(parents, own) + smoothing) / (N(parents) + S smoothing).

        Args:
            x: whole states, (N, V).
            smoothing: imagined examples of each entry; with 0 a state of the parents that was never met keeps equal
                probabilities.

        Raises:
            ValueError: if x has the wrong shape or holds a state that does not exist, or smoothing is negative.
        """
        self._check(x)
        if smoothing < 0:
            raise ValueError(f"smoothing must be at least 0, got {smoothing}")
        for v in self.variables:
            shape, table = self._table_shape(v), self.table(v)
            cell = torch.zeros(len(x), dtype=torch.long, device=x.device)
            for states, size in zip(self._index(x, v), shape, strict=True):
                cell = cell * size + states
            counts = cell.bincount(minlength=math.prod(shape)).view(shape).to(table) + smoothing
            totals = counts.sum(dim=-1, keepdim=True)
            table.copy_(torch.where(totals > 0, counts / totals, 1 / shape[-1]))
        return self

    def joint(self) -> Tensor:
        """The table of p(x_1, ..., x_V), one axis per variable in the order of `variables`.

        Raises:
            ValueError: if the table would have more than four million entries.
        """
        shape = [self.states[v] for v in self.variables]
        if math.prod(shape) > LARGEST_JOINT:
            raise ValueError(f"the joint table must have at most {LARGEST_JOINT} entries, got {math.prod(shape)}")
        joint = torch.ones(shape, dtype=self.table(self.order[0]).dtype, device=self.table(self.order[0]).device)
        for v in self.variables:
            axes = [self._column(u) for u in (*self.parents[v], v)]
            table = self.table(v).permute(*sorted(range(len(axes)), key=axes.__getitem__))
            joint = joint * table.reshape([size if axis in axes else 1 for axis, size in enumerate(shape)])
        return joint

    def query(self, target: str | Sequence[str], evidence: Mapping[str, int] | None = None) -> Tensor:
        """p(target | evidence), exactly, by summing the joint table over everything else.

        Args:
            target: a variable, or several.
            evidence: observed states by name.

        Returns:
            A table with one axis for each target, in the order asked for, that sums to 1.

        Raises:
            ValueError: if a variable is unknown or asked for and observed at once, a state does not exist, or the
                evidence has probability 0.
        """
        targets, evidence = _names(target), dict(evidence or {})
        axes = [self._column(v) for v in targets]
        if not targets or len(set(targets)) < len(targets) or set(targets) & set(evidence):
            raise ValueError(f"target must hold other variables than the evidence, none twice, got {list(targets)}")
        joint = self.joint()
        for v, state in evidence.items():
            if not 0 <= state < self.states[self.variables[self._column(v)]]:
                raise ValueError(f"evidence for {v!r} must lie in 0..{self.states[v] - 1}, got {state}")
            joint = joint.narrow(self._column(v), state, 1)
        rest = [axis for axis in range(joint.ndim) if axis not in axes]
        kept = joint.sum(dim=rest) if rest else joint
        kept = kept.permute(*(sorted(axes).index(axis) for axis in axes))
        if kept.sum() <= 0:
            raise ValueError(f"evidence must have a positive probability, got 0 for {evidence}")
        return kept / kept.sum()

    def children_of(self, variable: str) -> tuple[str, ...]:
        """The variables of which this one is a parent."""
        self._column(variable)
        return tuple(v for v in self.variables if variable in self.parents[v])

    def ancestors(self, variables: str | Iterable[str]) -> set[str]:
        """The variables, their parents, the parents of those, and so on."""
        found, waiting = set(), list(_names(variables))
        while waiting:
            v = waiting.pop()
            self._column(v)
            if v not in found:
                found.add(v)
                waiting.extend(self.parents[v])
        return found

    def markov_blanket(self, variable: str) -> set[str]:
        """Parents, children and the children's other parents: given them, nothing else tells of the variable."""
        children = self.children_of(variable)
        return ({*self.parents[variable], *children} | {u for v in children for u in self.parents[v]}) - {variable}

    def d_separated(self, a: str | Iterable[str], b: str | Iterable[str], given: str | Iterable[str] = ()) -> bool:
        """Whether the graph alone makes a and b independent given the rest: every path between them is blocked.

        Where two arrows do not meet, a path is blocked by an observed variable; where two arrows meet in a variable, it
        is open only if that variable or a descendant of it is observed.

        Args:
            a: a variable, or several.
            b: likewise, others.
            given: likewise, what is observed.

        Raises:
            ValueError: if a variable is unknown or named twice.

        Source: Shachter, "Bayes-Ball", UAI 1998.

        Example:
            >>> alarm = DiscreteNetwork({"thief": (), "quake": (), "alarm": ("thief", "quake")})
            >>> alarm.d_separated("thief", "quake"), alarm.d_separated("thief", "quake", given="alarm")
            (True, False)
        """
        a, b, given = set(_names(a)), set(_names(b)), set(_names(given))
        for v in a | b | given:
            self._column(v)
        if a & b or (a | b) & given or not a or not b:
            met = ", ".join(str(sorted(names)) for names in (a, b, given))
            raise ValueError(f"a, b and given must not overlap, a and b not be empty; got {met}")
        return not self._reachable(a, given) & b

    def _reachable(self, start: set[str], given: set[str]) -> set[str]:
        """Variables that an open path joins with `start`: a ball rolls along arrows and against them."""
        opened = self.ancestors(given)  # where two arrows meet, these let the ball pass
        waiting, seen = [(v, "from child") for v in start], set()
        while waiting:
            v, origin = visit = waiting.pop()
            if visit in seen:
                continue
            seen.add(visit)
            if v not in given:
                waiting += [(child, "from parent") for child in self.children_of(v)]
            if (v in opened) if origin == "from parent" else (v not in given):
                waiting += [(parent, "from child") for parent in self.parents[v]]
        return {v for v, _ in seen} - given

    def _check(self, x: Tensor) -> None:
        if x.ndim != 2 or x.shape[1] != len(self.variables):
            raise ValueError(f"x must have shape (N, {len(self.variables)}), got {tuple(x.shape)}")
        if x.dtype.is_floating_point or x.dtype == torch.bool:
            raise TypeError(f"x must hold whole states, got {x.dtype}")
        for v in self.variables:
            column = x[:, self._column(v)]
            if len(x) and (column.min() < 0 or column.max() >= self.states[v]):
                raise ValueError(
                    f"x must hold states 0..{self.states[v] - 1} of {v!r}, got {column.min()}..{column.max()}"
                )


def _names(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _topological(parents: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The variables, parents before children, else in the order given."""
    if not parents:
        raise ValueError("parents must name at least one variable, got none")
    for v, above in parents.items():
        if len(set(above)) < len(above) or set(above) - set(parents):
            raise ValueError(f"parents of {v!r} must be among {', '.join(parents)}, none twice, got {list(above)}")
    order: list[str] = []
    while len(order) < len(parents):
        ready = [v for v in parents if v not in order and set(parents[v]) <= set(order)]
        if not ready:
            raise ValueError(
                f"parents must form no cycle, got one among {', '.join(v for v in parents if v not in order)}"
            )
        order += ready
    return tuple(order)


def _count_states(v: str, table: Tensor | None, states: int | Mapping[str, int]) -> int:
    count = table.shape[-1] if table is not None else states if isinstance(states, int) else states.get(v, 2)
    if count < 1:
        raise ValueError(f"states of {v!r} must be at least 1, got {count}")
    return count


def _checked_table(v: str, table: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(table.shape) != shape:
        raise ValueError(f"tables[{v!r}] must have shape {shape} (parents, then own states), got {tuple(table.shape)}")
    if not table.is_floating_point() or not (table >= 0).all():
        raise ValueError(f"tables[{v!r}] must hold probabilities, got {table.tolist()}")
    sums = table.sum(dim=-1)
    if not torch.allclose(sums, torch.ones_like(sums), atol=1e-5):
        raise ValueError(f"tables[{v!r}] must sum to 1 over its last axis, got {sums.tolist()}")
    return table.clone()
