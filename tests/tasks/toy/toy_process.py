"""Workers and trainers that know the toy task: `toy_process.py worker FD`, `toy_process.py trainer FD OPTIONS`."""

import sys

from tuner.spec import tasks
from tuner.spec.tasks import TaskModules

#: all that a task needs outside its own package
TOY = TaskModules(
    study="tests.tasks.toy.toy_study:ToyStudySpec", spec="tests.tasks.toy.toy_values", training="tests.tasks.toy.toy_training",
    needs_keras=False,
)  # fmt: skip

if __name__ == "__main__":
    tasks.TASKS["toy"] = TOY
    kind, *arguments = sys.argv[1:]
    if kind == "trainer":
        from tuner.trainer import process as trainer_process

        trainer_process.main(arguments)
    else:
        from tuner.workers.worker import process
        from tuner.workers.worker.process import Assignment
        from tuner.workers.worker.trainer import ChildTrainer

        def start(assignment: Assignment) -> ChildTrainer:
            return ChildTrainer(threads=1, log=assignment.trainer_log, with_keras=False, command=(sys.executable, __file__, "trainer"))

        sys.exit(process.main(int(arguments[0]), start))
