r"""The Chow-Liu tree: each variable has one parent, and the tree is the best of all trees.

    p(x | y) = prod_d p(x_d | x_pa(d), y),    x_d in {-1, 1}

Of all trees, the one whose edges have the largest sum of mutual information I(x_i; x_j) has the highest likelihood: a
maximum spanning tree. Pairs are counted with s imagined pictures, in which every pair of values is equally frequent:

    p_ij(a, b) = (N_ij(a, b) + s / 4) / (N + s),        p_i(a) = (N_i(a) + s / 2) / (N + s),

so that the p_i are the marginals of the p_ij. In a tree exact inference is two sweeps, from the leaves to the root and
back (belief propagation).

References: Chow and Liu, "Approximating discrete probability distributions with dependence trees", IEEE Transactions on
Information Theory 14, 1968; Pearl, Probabilistic Reasoning in Intelligent Systems, 1988, section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csgraph
from torch import Tensor

from coursekit.bayesnet.base import LabelledDensity
from coursekit.pixels import check_binary

__all__ = ["ChowLiuTree", "mutual_information"]


def mutual_information(x: Tensor, smoothing: float = 1.0) -> Tensor:
    """I(x_i; x_j) in nats of all pairs of binary variables, (N, D) -> (D, D) in float64, 0 on the diagonal.

    Args:
        x: samples of -1 and 1, (N, D).
        smoothing: s of the module's formula.

    Raises:
        ValueError: if x is no matrix of -1 and 1, or smoothing is negative.

    Example:
        >>> x = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]])
        >>> mutual_information(x, smoothing=0.0)
        tensor([[0.0000, 0.6931, 0.0000],
                [0.6931, 0.0000, 0.0000],
                [0.0000, 0.0000, 0.0000]], dtype=torch.float64)
    """
    return _information(_pair_tables(x, smoothing))


def _information(pairs: Tensor) -> Tensor:
    """(D, D) from the tables (D, D, 2, 2) of all pairs."""
    single = pairs.diagonal().permute(2, 0, 1).sum(dim=2)  # (D, 2); the diagonal's table is not of a pair, its sums are
    independent = single[:, None, :, None] * single[None, :, None, :]
    information = (torch.xlogy(pairs, pairs) - torch.xlogy(pairs, independent)).sum(dim=(2, 3))
    return information.fill_diagonal_(0.0).clamp_(min=0.0)


def _pair_tables(x: Tensor, smoothing: float) -> Tensor:
    """p_ij(a, b), (D, D, 2, 2) in float64; index 0 stands for -1, index 1 for 1."""
    if x.ndim != 2 or not len(x):
        raise ValueError(f"x must have shape (N, D) with N >= 1, got {tuple(x.shape)}")
    if smoothing < 0:
        raise ValueError(f"smoothing must be at least 0, got {smoothing}")
    check_binary(x)
    on = (x > 0).to(torch.float32)  # whole numbers below 2^24 are exact
    both = ((on.T @ on).double() + smoothing / 4) / (len(x) + smoothing)
    single = (on.sum(dim=0).double() + smoothing / 2) / (len(x) + smoothing)
    first, second = single[:, None] - both, single[None, :] - both  # only i is on, only j is on
    neither = 1 - both - first - second
    return torch.stack([torch.stack([neither, second], dim=2), torch.stack([first, both], dim=2)], dim=2).clamp(min=0)


class ChowLiuTree(LabelledDensity):
    """A tree of binary variables -1 and 1, one for each class if there are labels; fitted by counting.

    Args:
        shape: of one x, or the number of variables D.
        smoothing: imagined pictures, s in the module's formula.
        num_classes: C; None without labels.

    Attributes:
        parents: the parent of each variable, (C, D), with C = 1 without labels; the root is its own parent.
        depth: edges between each variable and the root, (C, D).
        logits: log-odds of 1 given that the parent is -1 and given that it is 1, (C, D, 2).

    Raises:
        ValueError: if `smoothing` is negative or a size not positive.

    Example:
        >>> x = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]])
        >>> tree = ChowLiuTree(3).fit(x)
        >>> every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
        >>> tree.log_prob(every).exp().sum()
        tensor(1.0000)
    """

    parents: Tensor
    depth: Tensor
    logits: Tensor

    def __init__(self, shape: int | Sequence[int], smoothing: float = 1.0, num_classes: int | None = None) -> None:
        super().__init__(shape, num_classes)
        if smoothing < 0:
            raise ValueError(f"smoothing must be at least 0, got {smoothing}")
        self.smoothing, classes = smoothing, num_classes or 1
        self.register_buffer("parents", torch.zeros(classes, self.dims, dtype=torch.long))
        self.register_buffer(
            "depth", torch.ones(classes, self.dims, dtype=torch.long).index_fill_(1, torch.tensor(0), 0)
        )
        self.register_buffer("logits", torch.zeros(classes, self.dims, 2))

    def fit(self, x: Tensor, y: Tensor | None = None) -> ChowLiuTree:
        """Find tree and tables of highest likelihood for pictures (N, *shape) with labels (N,), if the model has any.

        Raises:
            ValueError: if x is not binary or of the wrong shape, or labels are missing or out of range.
        """
        self._check(x, y)
        if y is None and self.num_classes is not None:
            raise ValueError(f"y must hold labels for num_classes = {self.num_classes}, got None")
        y = torch.zeros(len(x), dtype=torch.long, device=x.device) if y is None else y
        counts = y.bincount(minlength=len(self.log_prior))
        if (counts == 0).any():
            raise ValueError(f"each class needs an example, got none of {(counts == 0).nonzero()[:, 0].tolist()}")
        for c in range(len(counts)):
            self._fit_one(c, x[y == c].flatten(1))
        self.log_prior = (counts.double() / counts.sum()).log().to(self.logits)
        return self

    def _fit_one(self, c: int, x: Tensor) -> None:
        pairs = _pair_tables(x, self.smoothing)
        parents, depth = _maximum_spanning_tree(_information(pairs).cpu().numpy())
        self.parents[c], self.depth[c] = parents.to(self.parents), depth.to(self.depth)
        tables = pairs[self.parents[c], torch.arange(self.dims, device=x.device)]  # (D, parent's value, own value)
        root = int(depth.argmin())
        tables[root] = tables[root].sum(dim=0)  # the root's law, whatever its "parent" is
        least = torch.finfo(torch.float32).tiny  # without smoothing "never" is very improbable instead of -inf
        tables = tables.clamp(min=least).log()
        self.logits[c] = (tables[..., 1] - tables[..., 0]).to(self.logits)

    @property
    def edges(self) -> Tensor:
        """(parent, child) of each edge, (D - 1, 2), or (C, D - 1, 2) of a model with labels."""
        child = self.depth.argsort(dim=1, stable=True)[:, 1:]
        edges = torch.stack([self.parents.gather(1, child), child], dim=2)
        return edges[0] if self.num_classes is None else edges

    def _levels(self, c: int) -> list[Tensor]:
        """The variables of tree c, root first, one tensor of indices for each depth."""
        depth = self.depth[c]
        return list(depth.argsort(stable=True).split(depth.bincount().tolist()))

    def _log_prob_given(self, x: Tensor, y: Tensor | None) -> Tensor:
        check_binary(x)
        flat, y = x.flatten(1), torch.zeros(len(x), dtype=torch.long, device=x.device) if y is None else y
        below, above = self.logits[y].unbind(dim=2)  # (N, D) each
        logits = torch.where(flat.gather(1, self.parents[y]) > 0, above, below)
        return F.logsigmoid(flat * logits).sum(dim=1)

    def _sample_given(self, n: int, y: Tensor | None, generator: torch.Generator | None) -> Tensor:
        return self._draw(self.logits.new_zeros(n, self.dims), y, generator)

    def expectation(self, log_odds: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x | evidence] (and y), exactly, (N, *shape) in [-1, 1], where evidence is an opinion on each variable.

        Args:
            log_odds: (N, *shape); variable d gets the extra factor exp(log_odds_d) for 1 against -1. 0 says nothing,
                an infinity that the variable was observed.
            y: labels, (N,); their posterior given the evidence weights the trees if None.

        Raises:
            ValueError: if log_odds has the wrong shape, or y labels out of range.
        """
        self._check(log_odds, y)
        evidence = log_odds.flatten(1).to(self.logits)
        if y is None:
            weights = self._log_joint_evidence(evidence).softmax(dim=1)  # (N, C)
            means = [self._mean(c, evidence) for c in range(len(self.log_prior))]
            return torch.einsum("nc,cnd->nd", weights, torch.stack(means)).view_as(log_odds)
        return self._by_label(y, lambda c, rows: self._mean(c, evidence[rows])).view_as(log_odds)

    def denoise(self, x_t: Tensor, alpha: float | Tensor, sigma: float | Tensor, y: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t] for x_t = alpha x_0 + sigma eps, exactly, (N, *shape).

        Of a pixel -1 or 1, x_t tells log N(x_t; alpha, sigma^2) - log N(x_t; -alpha, sigma^2) = 2 alpha x_t / sigma^2.

        Args:
            x_t: (N, *shape).
            alpha: a number, or one for each picture, (N,).
            sigma: likewise.
            y: labels, (N,), or None.
        """
        alpha, sigma = (torch.as_tensor(v).to(x_t).reshape(-1, *[1] * len(self.shape)) for v in (alpha, sigma))
        return self.expectation(2 * alpha * x_t / sigma**2, y)

    @torch.no_grad()
    def fill_in(
        self, x: Tensor, observed: Tensor, y: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw what is missing from its exact law given the rest (and the labels), whatever is missing.

        Args:
            x: (N, *shape); the values of missing variables are ignored.
            observed: true where a variable was observed, (*shape) or (N, *shape).
            y: labels, (N,); drawn from p(y | observed variables) if None.
            generator: source of randomness.
        """
        observed = observed.to(x.device, torch.bool).expand_as(x)
        self._check(x, y)
        check_binary(torch.where(observed, x, 1.0))
        evidence = torch.where(observed, x * torch.inf, 0.0).flatten(1).to(self.logits)
        y = self._draw_labels(self._log_joint_evidence(evidence), generator) if y is None else y
        return self._draw(evidence, y, generator)

    def _log_joint_evidence(self, evidence: Tensor) -> Tensor:
        """Log of p(y) sum_x p(x | y) prod_d sigmoid(x_d evidence_d) for every class, (N, C)."""
        columns = []
        for c in range(len(self.log_prior)):
            root, beliefs = self._levels(c)[0], self._upward(c, evidence)
            columns.append((_log_tables(self.logits[c, root, 0]) + beliefs[:, root]).logsumexp(dim=2)[:, 0])
        return self.log_prior + torch.stack(columns, dim=1)

    def _upward(self, c: int, evidence: Tensor) -> Tensor:
        """From leaves to root: log p(evidence at and below d | x_d) up to a constant, (N, D, 2)."""
        beliefs = torch.stack([F.logsigmoid(-evidence), F.logsigmoid(evidence)], dim=2)
        for nodes in reversed(self._levels(c)[1:]):
            terms = _log_tables(self.logits[c, nodes]) + beliefs[:, nodes, None]  # (N, n, parent's, own value)
            beliefs.index_add_(1, self.parents[c, nodes], terms.logsumexp(dim=3))
        return beliefs

    def _downward(self, c: int, evidence: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """From root to leaves: variables, their parents, P(variable is 1 | parent, evidence) (N, n, 2), level by level.

        Given the evidence the variables still form this tree, with other tables for each sample.
        """
        beliefs = self._upward(c, evidence)
        for nodes in self._levels(c):
            gain = beliefs[:, nodes, 1] - beliefs[:, nodes, 0]
            yield nodes, self.parents[c, nodes], (self.logits[c, nodes] + gain[..., None]).sigmoid()

    def _mean(self, c: int, evidence: Tensor) -> Tensor:
        on = torch.zeros_like(evidence)
        for nodes, parents, tables in self._downward(c, evidence):
            on[:, nodes] = tables[..., 0].lerp(tables[..., 1], on[:, parents])
        return 2 * on - 1

    def _draw(self, evidence: Tensor, y: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Draw (N, *shape) given evidence (N, D) and labels."""
        uniform = torch.rand(evidence.shape, generator=generator, dtype=evidence.dtype, device=evidence.device)

        def one_tree(c: int, rows: Tensor) -> Tensor:
            on, noise = torch.zeros_like(evidence[rows]), uniform[rows]
            for nodes, parents, tables in self._downward(c, evidence[rows]):
                probability = torch.where(on[:, parents] > 0, tables[..., 1], tables[..., 0])
                on[:, nodes] = (noise[:, nodes] < probability).to(on)
            return 2 * on - 1

        y = torch.zeros(len(evidence), dtype=torch.long, device=evidence.device) if y is None else y
        return self._by_label(y, one_tree).view(-1, *self.shape)

    def _by_label(self, y: Tensor, compute: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Put together what each tree computes for its rows, (N, D)."""
        result = self.logits.new_empty(len(y), self.dims)
        for c in y.unique().tolist():
            rows = (y == c).nonzero()[:, 0]
            result[rows] = compute(c, rows)
        return result


def _log_tables(logits: Tensor) -> Tensor:
    """Log-probabilities of -1 and 1, with a last axis for the two."""
    return torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=-1)


def _maximum_spanning_tree(information: np.ndarray) -> tuple[Tensor, Tensor]:
    """Parent and depth of each of D variables; the root, its own parent, is the one that tells most of the others."""
    root = int(information.sum(axis=0).argmax())
    lengths = information.max() + 1 - information  # positive: scipy takes 0 for "no edge"
    np.fill_diagonal(lengths, 0)
    tree = csgraph.minimum_spanning_tree(lengths)
    order, parents = csgraph.breadth_first_order(tree, root, directed=False)
    parents[root] = root
    depth = np.zeros(len(parents), dtype=np.int64)
    for node in order[1:]:
        depth[node] = depth[parents[node]] + 1
    return torch.from_numpy(parents.astype(np.int64)), torch.from_numpy(depth)
