"""Run as a process of its own by `test_launch`: finds the others as a run does, and says how many they are."""

import sys

import torch

from distillab.processes import Processes, join_processes

if __name__ == "__main__":
    state = join_processes(cpu=True)
    found = int(Processes.current().sum(torch.ones(1)))
    print(*sys.argv[1:], "on", found, "processes", file=sys.stderr)
    state.destroy_process_group()
