"""Handwritten digits told apart by multinomial logistic regression, its data spread over tasks.

Each task holds a share of scikit-learn's 1,797 images. Weights go down a tree, gradients come up, and the root takes
a step of Nesterov's method. At the end it prints its accuracy on images not trained on, beside what scikit-learn's
own LogisticRegression reaches on the same split.

    python examples/digits.py
    mpirun -n 8 python examples/digits.py
"""

import argparse
import functools
import sys

import numpy as np
from sklearn.datasets import load_digits

import taskgraph as tg

DIGITS = 10
TRAINED = 1437  # of 1,797 images: four in five


@functools.cache
def images():
    """Return pixels in 0..1 with a column of ones for the intercept, and labels: shuffled, the same for every task."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x = np.hstack([digits.data / 16, np.ones((len(digits.target), 1))])
    return x[order], digits.target[order]


class Shard(tg.Task):
    def init(self, framework):
        x, y = images()
        mine = slice(framework.task_id, TRAINED, framework.num_tasks)
        self.x, self.labels = x[mine], np.eye(DIGITS)[y[mine]]
        self.root = framework.task_id == 0
        if self.root:
            self.weights = framework.protect("weights", np.zeros((x.shape[1], DIGITS)))
            self.ahead = framework.protect("ahead", np.zeros_like(self.weights))  # where Nesterov looks next
            self.step = 1 / (1 + np.sum(x[:TRAINED] ** 2) / 2)  # no curvature of the loss is above its inverse

    def set_epoch(self, ctx, epoch):
        self.epoch = epoch
        up, down = ctx.neighbors("parents"), ctx.neighbors("children")
        ctx.compose(self.spread, ins=ctx.inbound(up, "weights"), outs=ctx.outbound(down, "weights"))
        ctx.compose(self.reduce, ins=ctx.inbound(down, "gradient"), outs=ctx.outbound(up, "gradient"))

    def spread(self, ins, outs):
        self.at = self.ahead if self.root else ins[0].get()
        for channel in outs:
            channel.put(self.at)

    def reduce(self, ins, outs):
        scores = self.x @ self.at
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        gradient = self.x.T @ (odds / odds.sum(axis=1, keepdims=True) - self.labels)
        gradient += sum(channel.get() for channel in ins)
        if self.root:
            self.descend(gradient)
        else:
            outs[0].put(gradient)

    def descend(self, gradient):
        gradient[:-1] += self.ahead[:-1]  # ridge, as in scikit-learn: on all but the intercept
        weights = self.ahead - self.step * gradient
        self.ahead[:] = weights + self.epoch / (self.epoch + 3) * (weights - self.weights)
        self.weights[:] = weights

    def exit(self):
        if not self.root:
            return
        from sklearn.linear_model import LogisticRegression

        x, y = images()
        ours = np.mean(np.argmax(x[TRAINED:] @ self.weights, axis=1) == y[TRAINED:])
        model = LogisticRegression(max_iter=1000).fit(x[:TRAINED, :-1], y[:TRAINED])
        theirs = model.score(x[TRAINED:, :-1], y[TRAINED:])
        print(f"digits: test accuracy {ours:.4f}, scikit-learn's LogisticRegression {theirs:.4f}")
        if ours < theirs - 0.005:
            sys.exit(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=8, help="number of tasks (%(default)s)")
    parser.add_argument("--epochs", type=int, default=500, help="steps of the descent (%(default)s)")
    options = parser.parse_args()

    job = tg.Job("digits", options.tasks, epochs=options.epochs)
    job.set_task_builder(lambda task_id: Shard())
    job.add_topology(tg.topology.Tree(fanout=2))
    return job.start()


if __name__ == "__main__":
    sys.exit(main())
