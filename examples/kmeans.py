"""Clusters by Lloyd's k-means, the points spread over tasks, and no task above the others.

Each epoch every task assigns its points to the nearest center and sends everyone its sums; all come to the same new
centers. They stop by themselves once no center moves. scikit-learn, from the same first centers, must agree.

    python examples/kmeans.py
    mpirun -n 4 python examples/kmeans.py
"""

import argparse
import sys

import numpy as np

import taskgraph as tg

CLUSTERS, DIMENSIONS, POINTS = 6, 3, 1000  # points of each task


def points(task_id):
    """Return the points of a task: overlapping clouds, so that k-means has something to do."""
    rng = np.random.default_rng(task_id)
    clouds = np.random.default_rng(2024).uniform(-4, 4, size=(CLUSTERS, DIMENSIONS))
    return clouds[rng.integers(CLUSTERS, size=POINTS)] + rng.normal(size=(POINTS, DIMENSIONS))


class Part(tg.Task):
    def init(self, framework):
        self.framework = framework
        self.x = points(framework.task_id)
        self.centers = framework.protect("centers", points(0)[:CLUSTERS])
        self.moves = framework.protect("moves", np.zeros((), dtype=np.int64))

    def set_epoch(self, ctx, epoch):
        others = ctx.neighbors("others")
        ctx.compose(self.assign, outs=ctx.outbound(others, "sums"))
        ctx.compose(self.move, ins=ctx.inbound(others, "sums"))

    def assign(self, ins, outs):
        distances = np.linalg.norm(self.x[:, None] - self.centers, axis=2)
        mine = np.eye(CLUSTERS)[distances.argmin(axis=1)]
        self.sums = mine.T @ np.column_stack([self.x, np.ones(len(self.x))])  # the last column counts the points
        for channel in outs:
            channel.put(self.sums)

    def move(self, ins, outs):
        parts = {channel.task: channel.get() for channel in ins} | {self.framework.task_id: self.sums}
        total = sum(parts[task] for task in sorted(parts))  # in one order: everyone rounds alike
        centers = total[:, :-1] / total[:, -1:]
        if np.array_equal(centers, self.centers):
            self.framework.shutdown()
        self.centers[:] = centers
        self.moves += 1

    def exit(self):
        if self.framework.task_id != 0:
            return
        from sklearn.cluster import KMeans

        x = np.concatenate([points(task) for task in range(self.framework.num_tasks)])
        first = x[:CLUSTERS]
        model = KMeans(CLUSTERS, init=first, n_init=1, algorithm="lloyd", tol=0, max_iter=int(self.moves)).fit(x)
        error = np.abs(self.centers - model.cluster_centers_).max()
        print(f"kmeans: {len(x)} points, {self.moves} epochs, off from scikit-learn's centers by at most {error:.1e}")
        if not error < 1e-9:
            sys.exit(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=4, help="number of tasks (%(default)s)")
    parser.add_argument("--epochs", type=int, default=300, help="epochs at most (%(default)s)")
    options = parser.parse_args()

    job = tg.Job("kmeans", options.tasks, epochs=options.epochs)
    job.set_task_builder(lambda task_id: Part())
    job.add_topology(tg.topology.Full())
    return job.start()


if __name__ == "__main__":
    sys.exit(main())
