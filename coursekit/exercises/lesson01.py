"""Checks of lesson 01, "Bird or horse? Discriminative and generative models".

Symbols as in the lesson: pictures x (N, D), labels y (N,), a joint table P(x, y) with one row for each x, the log-odds
log P(y = 1 | x) / P(y = 0 | x) = w . x + b, class shares (priors) pi.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from coursekit.bayesnet import BernoulliNaiveBayes
from coursekit.data import load_animals
from coursekit.exercises import Verdict, ask, compare, correct, exercise, refuse
from coursekit.pixels import binarise

__all__ = ["change_of_prior", "novelty_score", "posterior_from_table", "softmax_gradient", "two_gaussian_log_odds"]


@exercise
def posterior_from_table(answer: Callable) -> Verdict:
    """Exercise 1.1: joint table (values of x, classes) -> P(y | x), a table of the same shape."""
    joint = torch.tensor([[0.08, 0.02], [0.30, 0.10], [0.05, 0.45]], dtype=torch.float64)
    p_x, p_y = joint.sum(dim=1, keepdim=True), joint.sum(dim=0, keepdim=True)
    result = ask(_explaining_lost_axes(answer), joint)
    if isinstance(result, Verdict):
        return result
    return compare(
        result,
        joint / p_x,
        mistakes={
            "your columns sum to 1: that is P(x | y), each column divided by the class share; P(y | x) divides each "
            "row by P(x)": joint / p_y,
            "that is the joint table itself: dividing by P(x) is missing": joint,
            "that is P(x): the denominator, without the numerator": p_x.expand_as(joint),
            "that is P(y): x has not been used": p_y.expand_as(joint),
            "that is P(y | x) times P(x | y): you divided by both margins": joint / p_x / p_y,
            "that is P(x) P(y), the table of independent x and y": p_x * p_y,
            "you multiplied by P(x) where you must divide by it": joint * p_x,
        },
        what="your table",
        why="each row is divided by its sum P(x), so each row of P(y | x) sums to 1",
    )


def _explaining_lost_axes(answer: object) -> object:
    """The learner's function, but shapes that do not fit become a verdict that says why."""
    if not callable(answer):
        return answer

    def guarded(joint: Tensor) -> object:
        try:
            return answer(joint)
        except RuntimeError as error:
            if "must match the size" not in str(error):
                raise
            return refuse(
                "the shapes do not fit. P(x) is one number for each row, but a sum over the columns drops their axis: "
                "its shape (3,) meets the 2 columns of the table. With keepdim=True it is (3, 1)"
            )

    return guarded


@exercise
def softmax_gradient(answer: Callable) -> Verdict:
    """Exercise 1.2: weight (C, D), x (N, D), y (N,) -> gradient of the mean -log softmax(W x)_y, (C, D)."""
    generator = torch.Generator().manual_seed(1)
    weight, x = (torch.randn(shape, 4, generator=generator, dtype=torch.float64) for shape in (3, 5))
    y = torch.tensor([0, 2, 1, 2, 2])
    p, target = (x @ weight.T).softmax(dim=1), torch.eye(3, dtype=torch.float64)[y]
    wanted = (p - target).T @ x / len(x)
    mistakes = {
        "your gradient is the sum over the pictures where the loss is their mean: divide by N": wanted * len(x),
        "your gradient has its sign flipped: you would climb the loss (error = probability - label)": -wanted,
        "your gradient lacks the labels: subtract the one-hot labels from the probabilities": p.T @ x / len(x),
        "you divided by the number of classes as well: the loss is a mean over pictures only": wanted / 3,
        "your error is logits minus labels: the softmax is missing": (x @ weight.T - target).T @ x / len(x),
        "your probabilities come from sigmoids: here the classes share one softmax": (
            (x @ weight.T).sigmoid() - target
        ).T
        @ x
        / len(x),
        "your softmax runs over the pictures: over the classes, dim=1, the probabilities of a picture sum to 1": (
            (x @ weight.T).softmax(dim=0) - target
        ).T
        @ x
        / len(x),
        "your error carries p (1 - p): in the mean of -log p it cancels": ((p - target) * p * (1 - p)).T @ x / len(x),
    }
    result = ask(answer, weight, x, y)
    if isinstance(result, Tensor) and result.shape == wanted.T.shape:
        return refuse("your gradient is (D, C): it must have the shape of the weight, (C, D)")
    return compare(
        result,
        wanted,
        mistakes,
        what="your gradient",
        why="probability minus label, times the picture, averaged: (1.7) with one row of weights for each class",
    )


@exercise
def two_gaussian_log_odds(answer: Callable) -> Verdict:
    """Exercise 1.3: (mean_0, mean_1, covariance, prior_1) -> (w (D,), b) of the log-odds w . x + b."""
    mean_0, mean_1 = (torch.tensor(m, dtype=torch.float64) for m in ([0.5, -1.0, 2.0], [1.5, 0.5, -0.5]))
    covariance = torch.tensor([[2.0, 0.6, 0.1], [0.6, 1.0, -0.3], [0.1, -0.3, 0.5]], dtype=torch.float64)
    prior = torch.tensor(0.2, dtype=torch.float64)
    result = ask(answer, mean_0, mean_1, covariance, prior)
    if not isinstance(result, tuple | list) or len(result) != 2:
        return refuse("your function should return two things, the weight w and the bias b")
    weight_verdict = _check_weight(result[0], mean_1 - mean_0, covariance)
    if not weight_verdict.passed:
        return weight_verdict
    inverse = torch.linalg.inv(covariance)
    half = 0.5 * (mean_0 @ inverse @ mean_0 - mean_1 @ inverse @ mean_1)
    prior_odds = prior.logit()
    return compare(
        result[1],
        half + prior_odds,
        mistakes={
            "your bias forgets the prior: add log(prior_1 / prior_0)": half,
            "your bias has the prior upside down: log(prior_1 / prior_0), class 1 above": half - prior_odds,
            "your bias adds log prior_1 alone: log prior_0 of the other class is subtracted": half + prior.log(),
            "your bias adds the odds of the prior, not their logarithm": half + prior / (1 - prior),
            "your bias lost the factor 1/2 of the Gaussian's exponent": 2 * half + prior_odds,
            "your bias has the quadratic term with the wrong sign: class 1 enters with a minus": -half + prior_odds,
            "your bias is that of means at the origin: the quadratic terms of the means are missing": prior_odds,
            "your bias uses the distance of the means, (mean_1 - mean_0)^T C^-1 (mean_1 - mean_0) / 2; the product is "
            "(mean_1 + mean_0)^T C^-1 (mean_1 - mean_0) / 2": -0.5 * (mean_1 - mean_0) @ inverse @ (mean_1 - mean_0)
            + prior_odds,
        },
        what="your bias",
        why="the quadratic terms in x cancel because the covariance is one; the prior only moves the bias",
    )


def _check_weight(weight: object, difference: Tensor, covariance: Tensor) -> Verdict:
    wanted = torch.linalg.solve(covariance, difference)
    return compare(
        weight,
        wanted,
        mistakes={
            "your weight is the difference of the means: it must be multiplied by the inverse covariance": difference,
            "your weight multiplies by the covariance where its inverse is wanted": covariance @ difference,
            "your weight has the classes swapped: log P(y = 1 | x) stands above, so mean_1 - mean_0": -wanted,
            "your weight divides by the variances only: the covariance's other entries matter": difference
            / covariance.diagonal(),
            "your weight lost a factor 2: the two cross terms of the square add up": wanted / 2,
            "your weight has a factor 2 too many: it cancels against the 1/2 of the exponent": 2 * wanted,
        },
        what="your weight",
    )


@exercise
def change_of_prior(answer: Callable) -> Verdict:
    """Exercise 1.4: (posterior (N, C), old (C,), new (C,)) -> posterior under the new class shares, (N, C)."""
    posterior = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.34, 0.33, 0.33]], dtype=torch.float64)
    old, new = (torch.tensor(p, dtype=torch.float64) for p in ([0.5, 0.3, 0.2], [0.1, 0.3, 0.6]))

    def normalised(table: Tensor) -> Tensor:
        return table / table.sum(dim=1, keepdim=True)

    return compare(
        ask(answer, posterior, old, new),
        normalised(posterior * new / old),
        mistakes={
            "your rows do not sum to 1: the evidence has changed too, divide each row by its sum": posterior
            * new
            / old,
            "you multiplied by the new prior but did not divide by the old one, which is still in the posterior": (
                normalised(posterior * new)
            ),
            "you divided by the old prior but did not multiply by the new one": normalised(posterior / old),
            "your priors are swapped: multiply by new / old": normalised(posterior * old / new),
            "that is the old posterior, unchanged": posterior,
            "you added log-odds of the priors but forgot to exponentiate": posterior + (new / old).log(),
            "you divided columns by their sums: each row must sum to 1": posterior
            * new
            / old
            / (posterior * new / old).sum(dim=0),
        },
        what="your posterior",
        why="P(x | y) stays, so the posterior is multiplied by new / old and each row is divided by its sum",
    )


@exercise
def novelty_score(answer: Callable) -> Verdict:
    """Exercise 1.5: (log_p (N,), log_p_train (M,)) -> a score (N,), large where a picture is unlike the training ones.

    Tried on naive Bayes of birds and horses: unseen birds and horses must score below noise, and below pictures that
    are far more likely than any real one.
    """
    known, real, noise, bland = _log_probs()
    scores = [_as_scores(ask(answer, log_p, known), len(log_p)) for log_p in (real, noise, bland)]
    for score, log_p in zip(scores, (real, noise, bland), strict=True):
        if isinstance(score, Verdict):
            return score
        alone = _as_scores(ask(answer, log_p[:1], known), 1)
        if isinstance(alone, Verdict) or not torch.allclose(alone, score[:1], rtol=1e-3, atol=1e-6):
            return refuse(
                "the score of a picture changes with the other pictures in log_p: compare it with log_p_train only"
            )
    noisy, likely = (_share_above(score, scores[0]) for score in scores[1:])
    found = f"it ranks noise above a real picture in {noisy:.0%} of pairs, a too likely picture in {likely:.0%}"
    if noisy < 0.1 and likely < 0.1:
        return refuse(f"your score has its sign flipped: larger must mean more novel ({found})")
    if noisy < 0.1:
        return refuse(
            f"that is log p(x) itself, or grows with it: noise has a low log p(x) and must score high ({found})"
        )
    if likely < 0.1:
        return refuse(
            f"your score looks at one side only: a picture can be too likely as well, as no sample ever is ({found})"
        )
    if min(noisy, likely) < 0.9:
        return refuse(
            f"your score is not sharp enough: measure the distance to typical values of log_p_train ({found})"
        )
    return correct(f"your score looks at both sides of what is typical ({found})")


def _log_probs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log p(x) of naive Bayes for training pictures, test pictures, noise, and pictures near its most likely one."""
    images, y, names = load_animals("train", classes=("bird", "horse"))
    x, test = binarise(images), binarise(load_animals("test", classes=names).images)
    model = BernoulliNaiveBayes(len(names), (1, 28, 28), smoothing=1.0).fit(x, y)
    generator = torch.Generator().manual_seed(5)
    noise = torch.bernoulli(torch.full((200, *model.shape), 0.5), generator=generator) * 2 - 1
    flips = torch.bernoulli(torch.full((200, *model.shape), 0.01), generator=generator)
    bland = binarise(model.logits[1]).view(1, *model.shape) * (1 - 2 * flips)
    known, real, strange, likely = (model.log_prob(pictures).double() for pictures in (x, test, noise, bland))
    return known, real, strange, likely


def _as_scores(result: object, n: int) -> Tensor | Verdict:
    score = torch.as_tensor(result, dtype=torch.float64)
    if score.shape != (n,):
        return refuse(f"your score should have shape ({n},), one number for each picture, got {tuple(score.shape)}")
    if not score.isfinite().all():
        return refuse("your score holds values that are not finite; does it take exp of a large number?")
    return score


def _share_above(score: Tensor, reference: Tensor) -> float:
    """Probability that one of `score` lies above one of `reference`, ties counted half: the area under the ROC."""
    difference = score[:, None] - reference
    return ((difference > 0).double() + 0.5 * (difference == 0).double()).mean().item()
