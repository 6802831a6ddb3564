"""Contract tests for authors of plug-ins: subclass one in your package's tests, name your entry point, run pytest.

::

    from tasks.core.testing import ModelContract

    class TestMine(ModelContract):
        name = "my-net"

Every class makes tiny data of its own. Nothing here needs pytest; a failure is an AssertionError that says what is
missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from tasks.core import plugins, workloads

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from tasks.core.testing.checks import Bench


class _Contract:
    """What every plug-in must pass: it is found, and it is what its contract says."""

    #: Name of the entry point.
    name: ClassVar[str]
    group: ClassVar[str]

    def plugin(self) -> Any:
        """The object behind the entry point."""
        return plugins.load(self.group, self.name)

    def test_it_is_found_and_keeps_its_contract(self) -> None:
        """Fails with everything that is wrong."""
        self.plugin()


class ModelContract(_Contract):
    """For ``assay.models``; of a model for another workload than the built-in ones, override :meth:`data`."""

    group = plugins.MODELS
    #: Kinds of problem to test; none means all of the family's.
    tasks: ClassVar[tuple[str, ...]] = ()
    #: For a model of arrays: what it reads, name -> dtype and shape; none means one grey image of 12 x 12.
    tensors: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def data(self, task: str) -> tuple[pa.Table, dict[str, Any]]:
        """Training rows and facts, as `validate` leaves them."""
        from tasks.core.testing import data

        return data.make(self.plugin().workload, task, self.tensors or data.TENSORS)

    def benches(self) -> list[Bench]:
        """The model on the data of each task."""
        from tasks.core.testing import data
        from tasks.core.testing.checks import Bench

        model = self.plugin()
        workload = workloads.find(model.workload)
        tasks = self.tasks or data.TASKS[model.workload]
        return [Bench.of(workload, model, self.name, *self.data(task)) for task in tasks]

    def test_its_logits_loss_and_gradients_are_as_asked(self) -> None:
        """Forward and backward."""
        self._each("network_learns")

    def test_a_seed_decides_it(self) -> None:
        """Two networks of one seed are equal."""
        self._each("a_seed_decides")

    def test_its_state_survives_a_file(self) -> None:
        """Weights are all there is to a network."""
        self._each("state_survives")

    def test_its_exported_file_agrees(self) -> None:
        """ONNX at batch 1 and 7."""
        self._each("export_agrees")

    def _each(self, check: str) -> None:
        from tasks.core.testing import checks

        for bench in self.benches():
            getattr(checks, check)(bench)


class WorkloadContract(_Contract):
    """For ``assay.workloads``; override :meth:`data`."""

    group = plugins.WORKLOADS

    def data(self) -> tuple[pa.Table, dict[str, Any]]:
        """Training rows and facts, as `validate` leaves them; see :func:`tasks.core.testing.data.make`."""
        raise NotImplementedError("a contract test of a workload needs rows and facts: override `data`")

    def test_its_encoder_survives_a_file(self) -> None:
        """``restore(as_dict())`` is the same encoder."""
        self._each("encoder_survives_json")

    def test_its_models_learn(self) -> None:
        """Forward and backward of every model."""
        self._each("network_learns")

    def test_a_seed_decides_them(self) -> None:
        """Two networks of one seed are equal."""
        self._each("a_seed_decides")

    def test_their_state_survives_a_file(self) -> None:
        """Weights are all there is to a network."""
        self._each("state_survives")

    def test_their_exported_files_agree(self) -> None:
        """ONNX at batch 1 and 7."""
        self._each("export_agrees")

    def test_its_default_metric_exists(self) -> None:
        """For the task of the data."""
        from tasks.core.metrics import find

        task = str(self.data()[1]["task"])
        find(self.plugin().default_metric(task), task)

    def _each(self, check: str) -> None:
        from tasks.core.testing import checks

        workload, (rows, facts) = self.plugin(), self.data()
        for name, model in workload.models.items():
            getattr(checks, check)(checks.Bench.of(workload, model, name, rows, facts))


class MetricContract(_Contract):
    """For ``assay.metrics``."""

    group = plugins.METRICS

    def test_it_tells_better_answers_from_worse_ones(self) -> None:
        """Right answers score better than answers that have nothing to do with the labels."""
        from tasks.core.testing.checks import require

        for task, metric, (labels, right, wrong) in self._cases():
            best, worst = metric(labels, right), metric(labels, wrong)
            require(best == best and worst == worst, f"{task}: the figures are {best} and {worst}")  # noqa: PLR0124
            require(metric.loss(best, worst) > 0, f"{task}: right answers have {best}, wrong ones {worst}")
            bounds = not metric.bounded or all(0 <= figure <= 1 for figure in (best, worst))
            require(bounds, f"{task}: `bounded` says 0 to 1, and there are {best} and {worst}")

    def test_a_weight_is_a_row_that_often(self) -> None:
        """The gate resamples rows by weights."""
        import numpy as np

        from tasks.core.testing.checks import require

        for task, metric, (labels, _, wrong) in self._cases():
            weights = np.random.default_rng(5).integers(0, 4, len(labels))
            rows = np.repeat(np.arange(len(labels)), weights)
            weighted, repeated = metric.prepare(labels, wrong)(weights), metric(labels[rows], wrong[rows])
            told = f"{task}: by weights {weighted}, by repeated rows {repeated}"
            require(bool(np.isclose(weighted, repeated, rtol=1e-6)), told)

    def test_its_support_is_a_number_of_rows(self) -> None:
        """From 0 to all."""
        from tasks.core.testing.checks import require

        for task, metric, (labels, _, _) in self._cases():
            count = metric.support(labels)
            require(0 <= count <= len(labels), f"{task}: support is {count} of {len(labels)} rows")

    def _cases(self) -> list[tuple[str, Any, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
        from tasks.core.metrics import find
        from tasks.core.testing import answers

        return [(task, find(self.name, task), answers.make(task)) for task in self.plugin().tasks]


class CompressorContract(_Contract):
    """For ``assay.compressors``; the model is Assay's own for tables."""

    group = plugins.COMPRESSORS
    #: Largest difference between the answers (probabilities) before and after.
    tolerance: ClassVar[float] = 0.1

    def test_it_keeps_the_interface_and_the_answers(self) -> None:
        """Same inputs and outputs, close answers, at batch 1 and 7; and the file is smaller."""
        from tasks.core.testing import compressors

        compressors.check_answers(self.plugin(), self.tolerance)

    def test_it_makes_the_same_file_twice_and_leaves_its_argument(self) -> None:
        """Equal inputs must give equal bundles."""
        from tasks.core.testing import compressors

        compressors.check_repeatable(self.plugin())
