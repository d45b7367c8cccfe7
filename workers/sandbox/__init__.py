"""The sandbox of a stage's programs: namespaces and a mount view by bubblewrap, seccomp, rlimits, cgroup v2.

`isolation.choose` decides at the worker's start what this machine allows; `workers.programs.child` starts every program
through the result. The supervisor (`workers.sandbox.supervisor`) is process 1 of the sandbox: see its docstring.
"""
