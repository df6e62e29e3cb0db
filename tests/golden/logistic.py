"""Makes logistic.safetensors: minima of logistic regression by scikit-learn, iterates of L-BFGS-B by SciPy, average
precision by scikit-learn and by plain definition, calibration by plain definition.

Run with scikit-learn 1.9, SciPy 1.17, safetensors: python tests/golden/logistic.py
"""

import math
import pathlib

import numpy as np
import scipy.optimize
from safetensors.numpy import save_file
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

rng = np.random.default_rng(0)
IMAGES, DIMENSIONS, CLASSES, LABELS = 300, 10, 4, 3
y = rng.integers(0, CLASSES, IMAGES)
latent = rng.normal(size=(CLASSES, 6))[y] + rng.normal(size=(IMAGES, 6))
h = np.maximum(latent @ rng.normal(size=(6, DIMENSIONS)) + 0.5, 0) * np.exp(rng.normal(size=DIMENSIONS))
h = h.astype(np.float32)
x = h.astype(np.float64)
out = {"h": h, "y": y}


def objective(flat, x, y, classes, penalty):
    w = flat.reshape(classes, -1)
    z = x @ w[:, :-1].T + w[:, -1]
    rows = np.arange(len(y))
    value = (logsumexp(z, axis=1) - z[rows, y]).sum() + penalty / 2 * (w[:, :-1] ** 2).sum()
    error = np.exp(z - logsumexp(z, axis=1, keepdims=True))
    error[rows, y] -= 1
    slope = np.concatenate([error.T @ x + penalty * w[:, :-1], error.sum(0)[:, None]], 1)
    return value, slope.ravel()


# Minima. scikit-learn divides by the number of images inside, hence the tolerance.
penalties = np.array([1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0])
weights, values = [], []
for penalty in penalties:
    fit = LogisticRegression(C=1 / penalty, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(x, y)
    w = np.concatenate([fit.coef_, fit.intercept_[:, None] - fit.intercept_.mean()], 1)
    weights.append(w)
    values.append(objective(w.ravel(), x, y, CLASSES, penalty)[0])
out |= {"penalties": penalties, "weights": np.stack(weights), "objective": np.array(values)}

# Iterates of L-BFGS-B, each penalty from where the last one stopped.
state = np.zeros(CLASSES * (DIMENSIONS + 1))
chain = []
for penalty, iterations in [(0.5, 6), (2.0, 4), (8.0, 100)]:
    found = scipy.optimize.minimize(
        objective, state, (x, y, CLASSES, penalty), method="L-BFGS-B", jac=True,
        options={"maxiter": iterations, "gtol": 1e-4, "ftol": 2.2e-9, "maxls": 20, "maxcor": 10},
    )
    state = found.x
    chain.append(np.concatenate([state, [found.fun, found.nit]]))
out["chain"] = np.stack(chain)

# Any number of classes: 1 present, 0 absent, 2 difficult.
margin = latent @ rng.normal(size=(6, LABELS)) + rng.normal(size=(IMAGES, LABELS))
labels = (margin > 0.8).astype(np.uint8)
labels[rng.random((IMAGES, LABELS)) < 0.1] = 2
out["labels"] = labels
single = []
for column in range(LABELS):
    rows = labels[:, column] != 2
    fit = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    fit.fit(x[rows], labels[rows, column])
    single.append(np.append(fit.coef_[0], fit.intercept_[0]))
out["single"] = np.stack(single)

# Average precision of scores without and with ties.
scores = np.stack([margin[:, 0] + rng.normal(size=IMAGES), np.round(margin[:, 1] * 2 + rng.normal(size=IMAGES))], 1)
present = labels[:, :2] == 1


def curve(score, present):
    points = []
    for threshold in np.unique(score):
        chosen = score >= threshold
        hits = (chosen & present).sum()
        points.append((hits / present.sum(), hits / chosen.sum()))
    return points


def interpolated(points, thresholds):
    return sum(max((p for r, p in points if r >= t), default=0.0) for t in thresholds) / len(thresholds)


precision = []
for column in range(2):
    points = curve(scores[:, column], present[:, column])
    area, before = 0.0, 0.0
    for recall in sorted({r for r, _ in points}):
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    precision.append([
        average_precision_score(present[:, column], scores[:, column]),
        interpolated(points, [i * 0.1 for i in range(11)]),
        interpolated(points + [(0.0, 1.0)], [i * 0.1 for i in range(11)]),
        area,
        interpolated(points, [i * 0.01 for i in range(101)]),
    ])
out |= {"scores": scores, "precision": np.array(precision)}

# Calibration of logits that are too sure.
logits = (x @ weights[2][:, :-1].T + weights[2][:, -1] + rng.normal(size=(IMAGES, CLASSES))) * 1.7


def nll(temperature):
    z = logits / temperature
    return (logsumexp(z, axis=1) - z[np.arange(IMAGES), y]).mean()


def ece(temperature):
    z = logits / temperature
    p = np.exp(z - logsumexp(z, axis=1, keepdims=True))
    sure, right = p.max(1), p.argmax(1) == y
    total = 0.0
    for b in range(15):
        chosen = (sure > b / 15) & (sure <= (b + 1) / 15)
        if chosen.any():
            total += chosen.mean() * abs(right[chosen].mean() - sure[chosen].mean())
    return total


best = math.exp(scipy.optimize.minimize_scalar(
    lambda t: nll(math.exp(t)), bounds=(-5, 5), method="bounded", options={"xatol": 1e-12}).x)
out |= {"logits": logits, "calibration": np.array([ece(1.0), nll(1.0), best, ece(best), nll(best)])}

save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, pathlib.Path(__file__).with_suffix(".safetensors"))
