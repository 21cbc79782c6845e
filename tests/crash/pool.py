"""Runs tasks on several workers, each a process with a home directory and a tool of its own."""

import multiprocessing
import os
import queue
import traceback


class Home:
    """The tool of work that makes all it needs in a directory of its worker."""

    def __init__(self, path):
        self.path = path

    def close(self):
        """Nothing is held."""


def run(workers, home, tasks, make, work, report):
    """Runs `work(tool, task)` for each task in a worker, where `tool = make(home)`, and `report(task, result)` here. An
    exception in a worker ends everything."""
    context = multiprocessing.get_context("fork")
    tasks = list(tasks)
    turn, done = context.Value("i", 0), context.Queue()
    processes = []
    for n in range(min(workers, len(tasks))):
        own = f"{home}/{n}"
        os.makedirs(own, exist_ok=True)
        processes.append(context.Process(target=_work, args=(own, tasks, turn, make, work, done), daemon=True))
    for process in processes:
        process.start()
    running = len(processes)
    try:
        while running:
            try:
                kind, *rest = done.get(timeout=5)
            except queue.Empty:
                if all(process.is_alive() for process in processes):
                    continue
                if any(process.exitcode not in (0, None) for process in processes):
                    raise RuntimeError("a worker was killed") from None
                continue
            if kind == "result":
                report(tasks[rest[0]], rest[1])
            elif kind == "ended":
                running -= 1
            else:
                raise RuntimeError(f"a worker has failed:\n{rest[0]}")
    finally:
        for process in processes:
            if running:
                process.terminate()
            process.join()


def _work(home, tasks, turn, make, work, done):
    try:
        tool = make(home)
        try:
            while True:
                with turn.get_lock():
                    n = turn.value
                    turn.value += 1
                if n >= len(tasks):
                    break
                done.put(("result", n, work(tool, tasks[n])))
        finally:
            tool.close()
        done.put(("ended",))
    except BaseException:  # whatever it was, the parent must hear of it
        done.put(("failed", traceback.format_exc()))
