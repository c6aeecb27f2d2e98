"""The four runs one after the other, with a progress bar."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from jaxreg._commands.demo.runs import all_runs
from jaxreg._commands.demo.training import Result, train
from jaxreg._commands.digits import load_digits


def run(model: str, steps: int, seed: int) -> list[Result]:
    """Train the four runs and return their results; progress goes to the standard error stream."""
    digits = load_digits()
    results = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        runs = all_runs(model, steps)
        tasks = [progress.add_task(one.label, total=steps, start=False, note="") for one in runs]
        for one, task in zip(runs, tasks, strict=True):
            progress.start_task(task)

            def report(done: int, accuracy: float, task: TaskID = task) -> None:
                progress.update(task, completed=done, note=f"test {accuracy:6.1%}")

            results.append(train(one, digits, steps, seed, report))
    return results
