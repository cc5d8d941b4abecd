"""Run as a process of its own by `start_code`: the first word is the program, the others are its arguments."""

import sys

if __name__ == "__main__":
    code = sys.argv.pop(1)
    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
